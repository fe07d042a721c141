// IEEE arithmetic while a kernel runs: the caller's thread may flush subnormals to zero
// (torch.set_flush_denormal), which would make different values equal. Restored on every path.
#pragma once
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace cbkernels {

class FloatEnvironment {
 public:
#if defined(__x86_64__)
  FloatEnvironment() : saved_(_mm_getcsr()) { _mm_setcsr(0x1f80); }  // round to nearest, no flushing, no traps
  ~FloatEnvironment() { _mm_setcsr(saved_); }

 private:
  unsigned saved_;
#elif defined(__aarch64__)
  FloatEnvironment() {
    asm volatile("mrs %0, fpcr" : "=r"(saved_));
    asm volatile("msr fpcr, %0" : : "r"(0ul));
  }
  ~FloatEnvironment() { asm volatile("msr fpcr, %0" : : "r"(saved_)); }

 private:
  unsigned long saved_;
#else
  FloatEnvironment() {}
  ~FloatEnvironment() {}

 private:
#endif
  FloatEnvironment(const FloatEnvironment&) = delete;
  FloatEnvironment& operator=(const FloatEnvironment&) = delete;
};

}  // namespace cbkernels
