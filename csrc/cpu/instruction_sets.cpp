#include "instruction_sets.h"

#include <atomic>
#include <stdexcept>
#if defined(CBKERNELS_IS_X86_64)
#include <cpuid.h>
#endif

namespace cbkernels {
namespace {

#if defined(CBKERNELS_IS_X86_64)
// Older compilers (Clang 14) do not know "f16c" as a feature to ask for; the processor says it in a bit of its own.
// Only with AVX2, which includes that the operating system saves the registers.
bool has_f16c() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C) != 0;
}
#endif

std::vector<const InstructionSet*> available() {
  std::vector<const InstructionSet*> sets{&portable_set};
#if defined(CBKERNELS_IS_X86_64)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !has_f16c()) return sets;
  sets.push_back(&avx2_set);
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq"))
    sets.push_back(&avx512_set);
#endif
  return sets;
}

std::atomic<const InstructionSet*>& chosen() {
  static std::atomic<const InstructionSet*> set{available().back()};
  return set;
}

}  // namespace

const InstructionSet& instruction_set_in_use() { return *chosen().load(std::memory_order_relaxed); }

std::vector<std::string> instruction_sets() {
  std::vector<std::string> names;
  for (const InstructionSet* set : available()) names.emplace_back(set->name);
  return names;
}

void use_instruction_set(const std::string& name) {
  const auto sets = available();
  if (name == "best") {
    chosen() = sets.back();
    return;
  }
  for (const InstructionSet* set : sets)
    if (name == set->name) {
      chosen() = set;
      return;
    }
  throw std::invalid_argument("instruction set '" + name + "' is not available on this processor in this build");
}

}  // namespace cbkernels
