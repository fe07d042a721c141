// Rows of float32.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const RowKernels float32_kernels = kernels_of<Float32>();
}
