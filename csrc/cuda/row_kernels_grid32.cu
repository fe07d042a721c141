// Rows of float32 on a float32 grid.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind grid32_kernels{kernels_of<Grid32<false>>(), kernels_of<InWords<Grid32<false>>>()};
}
