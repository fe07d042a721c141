// Rows of float16 and bfloat16 on a float32 grid.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind grid16_kernels{kernels_of<Grid16<false>>(), {}};  // in words it would spill: Element::any
}
