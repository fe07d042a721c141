// Rows of float64.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind float64_kernels{kernels_of<Float64>(), kernels_of<InWords<Float64>>()};
}
