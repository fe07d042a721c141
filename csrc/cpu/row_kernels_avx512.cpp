// The row kernels for processors with AVX-512: the vectors of AVX2, but 32 registers for them, which the sums of the
// fingerprint need, and three-way logic. Vectors of 64 bytes are slower where rows are short or values have 16 bits.
#define CBKERNELS_INSTRUCTION_SET avx512
#include "row_kernels_loops.h"

namespace cbkernels {
const InstructionSet avx512_set = {"avx512", avx512::row_kernels, avx512::stagers, avx512::float_distances,
                                   avx512::double_distances};
}
