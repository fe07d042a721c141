// The row kernels for every processor of the architecture (SSE2 on x86-64, NEON on AArch64).
#define CBKERNELS_INSTRUCTION_SET portable
#include "row_kernels_loops.h"

namespace cbkernels {
const InstructionSet portable_set = {"portable", portable::row_kernels, portable::stagers, portable::float_distances,
                                     portable::double_distances};
}
