// Rows of float32.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind float32_kernels{kernels_of<Float32>(), kernels_of<InWords<Float32>>()};
}
