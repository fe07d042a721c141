// Fibers: functions with a stack of their own that hand the processor to each other. Switching takes some nanoseconds
// (x86-64; elsewhere ucontext, which asks the kernel each time). AddressSanitizer is told of every switch.
#pragma once
#include <cstddef>

namespace emulation {

// A stack, reused from launch to launch.
class Fiber {
 public:
  Fiber();  // takes a stack; stacks live as long as the process
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  void start(void (*entry)());  // prepares; entry runs at the first `resume` and must end in `leave_for_good`
  void resume();                // from the scheduler: runs until the fiber calls `pause` or `leave_for_good`
  void pause();                 // from the fiber
  [[noreturn]] void leave_for_good();
  bool has_overflowed() const;  // its last bytes were overwritten

 private:
  void arrive();

  unsigned char* bottom_;
  size_t stack_bytes_, colour_;
  void* context_ = nullptr;    // where the fiber goes on: stack pointer, or ucontext_t
  void* scheduler_ = nullptr;  // where the scheduler goes on
  void (*entry_)() = nullptr;
  void* fake_stack_ = nullptr;  // AddressSanitizer's
  void* scheduler_fake_stack_ = nullptr;
  const void* scheduler_bottom_ = nullptr;
  size_t scheduler_bytes_ = 0;

  static Fiber* entering_;
  static void first_call();
};

}  // namespace emulation
