// Rows that are read value by value.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const RowKernels any_kernels = kernels_of<Gathered>();
}
