// Rows of float16 and bfloat16 on a 16-bit grid.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind grid16_rounded_kernels{kernels_of<Grid16<true>>(), {}};  // in words it would spill: Element::any
}
