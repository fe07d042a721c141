// The switch itself, the pool of stacks, and what AddressSanitizer must know.
#include "fibers.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#if !defined(__x86_64__)
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#define EMULATION_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define EMULATION_ASAN 1
#endif
#endif
#if defined(EMULATION_ASAN)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {
namespace {

#if defined(EMULATION_ASAN)
constexpr size_t bytes_of_a_stack = 256 << 10;  // its frames are several times larger
#else
constexpr size_t bytes_of_a_stack = 64 << 10;
#endif
constexpr uint64_t guard_word = 0x5afe5afe5afe5afeull;
constexpr size_t stacks_at_a_time = 64;

struct Stacks {
  unsigned char* next = nullptr;
  size_t left = 0, taken = 0;
};

unsigned char* take_stack(size_t* number) {
  static Stacks stacks;
  if (stacks.left == 0) {
    void* memory = mmap(nullptr, stacks_at_a_time * bytes_of_a_stack, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    stacks.next = static_cast<unsigned char*>(memory);
    stacks.left = stacks_at_a_time;
  }
  unsigned char* stack = stacks.next;
  stacks.next += bytes_of_a_stack;
  --stacks.left;
  *number = stacks.taken++;
  return stack;
}

#if defined(EMULATION_ASAN)
void leaving(void** fake_stack, const void* to_bottom, size_t to_bytes) {
  __sanitizer_start_switch_fiber(fake_stack, to_bottom, to_bytes);
}
void arrived(void* fake_stack, const void** from_bottom, size_t* from_bytes) {
  __sanitizer_finish_switch_fiber(fake_stack, from_bottom, from_bytes);
}
#else
void leaving(void**, const void*, size_t) {}
void arrived(void*, const void**, size_t*) {}
#endif

}  // namespace

#if defined(__x86_64__)

// Saves the registers that a function must preserve on the old stack, takes them from the new one.
extern "C" void emulation_switch_stack(void** old_stack_pointer, void* new_stack_pointer);
asm(R"(
.text
.p2align 4
.globl emulation_switch_stack
.hidden emulation_switch_stack
.type emulation_switch_stack, @function
emulation_switch_stack:
  .cfi_startproc
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .cfi_endproc
.size emulation_switch_stack, .-emulation_switch_stack
)");

namespace {
void prepare(void** context, unsigned char* top, unsigned char*, size_t, void (*first_call)()) {
  uint64_t* stack = reinterpret_cast<uint64_t*>(top);  // a multiple of 16; a function starts 8 below one
  *--stack = 0;                                        // no return address
  *--stack = reinterpret_cast<uint64_t>(first_call);
  for (int saved = 0; saved < 6; ++saved) *--stack = 0;
  *context = stack;
}
void switch_context(void** from, void* to) { emulation_switch_stack(from, to); }
}  // namespace

#else

namespace {
void prepare(void** context, unsigned char* top, unsigned char* bottom, size_t, void (*first_call)()) {
  if (*context == nullptr) *context = new ucontext_t;
  ucontext_t* there = static_cast<ucontext_t*>(*context);
  getcontext(there);
  there->uc_stack.ss_sp = bottom;
  there->uc_stack.ss_size = static_cast<size_t>(top - bottom);
  there->uc_link = nullptr;
  makecontext(there, first_call, 0);
}
void switch_context(void** from, void* to) {
  if (*from == nullptr) *from = new ucontext_t;
  swapcontext(static_cast<ucontext_t*>(*from), static_cast<ucontext_t*>(to));
}
}  // namespace

#endif

Fiber* Fiber::entering_ = nullptr;

Fiber::Fiber() : stack_bytes_(bytes_of_a_stack) {
  size_t number;
  bottom_ = take_stack(&number);
  colour_ = number % 61 * 192;  // tops of stacks in different sets of the cache
  std::memcpy(bottom_, &guard_word, sizeof guard_word);
}

void Fiber::start(void (*entry)()) {
  entry_ = entry;
  fake_stack_ = nullptr;
#if defined(EMULATION_ASAN)
  __asan_unpoison_memory_region(bottom_, stack_bytes_);  // a launch that failed left its frames here
#endif
  std::memcpy(bottom_, &guard_word, sizeof guard_word);
  prepare(&context_, bottom_ + stack_bytes_ - colour_, bottom_ + sizeof guard_word, stack_bytes_, &Fiber::first_call);
}

void Fiber::arrive() { arrived(fake_stack_, &scheduler_bottom_, &scheduler_bytes_); }

void Fiber::first_call() {
  Fiber& self = *entering_;
  self.arrive();
  self.entry_();
  std::abort();  // entry leaves for good
}

void Fiber::resume() {
  entering_ = this;
  leaving(&scheduler_fake_stack_, bottom_, stack_bytes_);
  switch_context(&scheduler_, context_);
  arrived(scheduler_fake_stack_, nullptr, nullptr);
}

void Fiber::pause() {
  leaving(&fake_stack_, scheduler_bottom_, scheduler_bytes_);
  switch_context(&context_, scheduler_);
  arrive();
}

void Fiber::leave_for_good() {
  leaving(nullptr, scheduler_bottom_, scheduler_bytes_);
  switch_context(&context_, scheduler_);
  std::abort();
}

bool Fiber::has_overflowed() const { return std::memcmp(bottom_, &guard_word, sizeof guard_word) != 0; }

}  // namespace emulation
