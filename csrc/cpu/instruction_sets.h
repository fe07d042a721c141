// Which instruction set the kernels use: the best this processor has, or the one a test asked for.
#pragma once
#include <string>
#include <vector>

#include "row_kernels.h"

namespace cbkernels {

const InstructionSet& instruction_set_in_use();
std::vector<std::string> instruction_sets();          // those this build and this processor have, best last
void use_instruction_set(const std::string& name);    // or "best"; std::invalid_argument for any other

}  // namespace cbkernels
