// Rows of float64.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const RowKernels float64_kernels = kernels_of<Float64>();
}
