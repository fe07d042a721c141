// The row kernels for processors with AVX2 and F16C; compiled with -mavx2 -mf16c, called only where they exist.
#define CBKERNELS_INSTRUCTION_SET avx2
#include "row_kernels_loops.h"

namespace cbkernels {
const InstructionSet avx2_set = {"avx2", avx2::row_kernels, avx2::stagers, avx2::float_distances,
                                 avx2::double_distances};
}
