// Preloaded into Python by test_interruption.py: every allocation of C++ fails once so many have succeeded.
#include <atomic>
#include <cstdlib>
#include <new>

namespace {
std::atomic<long> left{-1};  // -1: none fails
}

extern "C" void fail_after(long successes) { left = successes; }

void* operator new(std::size_t bytes) {
  long before = left;
  while (before > 0 && !left.compare_exchange_weak(before, before - 1)) {}
  void* memory = before == 0 ? nullptr : std::malloc(bytes ? bytes : 1);
  if (!memory) throw std::bad_alloc();
  return memory;
}
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
