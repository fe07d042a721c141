// The float8 types.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const RowKernels packed8_kernels = kernels_of<Packed8>();
}
