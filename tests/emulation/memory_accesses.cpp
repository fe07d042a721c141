// The compiler calls these functions before every load and store of the kernels: csrc/cuda is compiled with
// -fsanitize=thread, but not linked with its library. So threads are interrupted between any two accesses, and what is
// not atomic shows.
#include "include/emulation/threads.h"

#define EMULATION_ACCESS(name) \
  void name(void*) { emulation::may_interrupt_access(); }
#define EMULATION_ACCESSES(kind)     \
  EMULATION_ACCESS(__tsan_##kind##1) \
  EMULATION_ACCESS(__tsan_##kind##2) \
  EMULATION_ACCESS(__tsan_##kind##4) \
  EMULATION_ACCESS(__tsan_##kind##8) \
  EMULATION_ACCESS(__tsan_##kind##16)

extern "C" {
EMULATION_ACCESSES(read)
EMULATION_ACCESSES(write)
EMULATION_ACCESSES(unaligned_read)
EMULATION_ACCESSES(unaligned_write)
void __tsan_read_range(void*, unsigned long) { emulation::may_interrupt_access(); }
void __tsan_write_range(void*, unsigned long) { emulation::may_interrupt_access(); }
int __tsan_atomic32_fetch_add(volatile int* at, int value, int order) {  // the host's own: pointers that are shared
  (void)order;
  return __atomic_fetch_add(at, value, __ATOMIC_SEQ_CST);
}
void __tsan_vptr_update(void**, void*) {}
void __tsan_vptr_read(void**) {}
void __tsan_func_entry(void*) {}
void __tsan_func_exit(void*) {}
void __tsan_init() {}
}
