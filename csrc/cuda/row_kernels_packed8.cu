// The float8 types.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind packed8_kernels{kernels_of<Packed8>(), kernels_of<InWords<Packed8>>()};
}
