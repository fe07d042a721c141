// Rows of float32 on a 16-bit grid.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind grid32_rounded_kernels{kernels_of<Grid32<true>>(), kernels_of<InWords<Grid32<true>>>()};
}
