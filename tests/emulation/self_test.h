// The kernels of self_test.cu by name.
#pragma once

namespace emulation {

using Out = unsigned long long*;
struct SelfTest {
  const char* name;
  void (*kernel)(Out out);
};
const SelfTest* find_self_test(const char* name);  // null: there is none

}  // namespace emulation
