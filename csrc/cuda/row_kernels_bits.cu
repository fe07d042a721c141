// Integers of any width and bool.
#include "kernels_of_kind.h"

namespace cbkernels::cuda {
const KernelsOfKind bits_kernels{kernels_of<Bits>(), kernels_of<InWords<Bits>>()};
}
