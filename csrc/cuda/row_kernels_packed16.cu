// Rows of float16 and bfloat16.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind packed16_kernels{kernels_of<Packed16>(), kernels_of<InWords<Packed16>>()};
}
