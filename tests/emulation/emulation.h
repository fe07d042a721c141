// What tests ask of the emulated devices: order of execution, counters, faults on demand. Bound for Python as
// `_core.emulation` in module_hooks.cpp. Everything here may be called from any thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <string>

namespace emulation {

constexpr int num_devices = 2;  // device 1 is there to see whether the caller's device is put back
constexpr int num_multiprocessors = 3;
constexpr int blocks_per_multiprocessor = 1;
constexpr int most_resident_blocks = num_multiprocessors * blocks_per_multiprocessor;
constexpr int most_threads_per_block = 1024;
constexpr size_t most_shared_bytes = 64 << 10;          // after cudaFuncSetAttribute
constexpr size_t most_shared_bytes_normally = 48 << 10;

struct Counters {
  int64_t launches = 0, threads_run = 0;
  int64_t collectives = 0;  // of warps and blocks, each counted once
  int64_t synchronisations = 0;   // of the host with a stream or an event
  int64_t pageable_copies = 0;    // to the host, into memory that is not pinned: these wait, too
  int64_t api_calls = 0;
  int64_t allocations = 0;                       // of device memory
  int64_t live_bytes = 0, peak_bytes = 0;        // of device memory
  int64_t live_pinned_bytes = 0, live_events = 0, live_pools = 0;
  int64_t errors = 0;  // of kernels and of memory; last_error() says what
};
Counters counters();
int64_t launches();  // of the whole process; never reset
void reset_counters();  // what is alive stays counted; peak_bytes becomes live_bytes
std::string last_error();

// 0: threads and blocks run in order, each as far as it gets. Otherwise: random order, interrupted at atomics and at
// reads of what others write, and some warps rarely get the processor. A seed gives the same launches the same order.
void schedule(uint64_t seed);

// The k-th call of the API from now (1 is the next) fails with cudaErrorMemoryAllocation; 0: none. A call that frees
// something does so all the same.
void fail_api_call(int64_t k);

void pretend_no_device(bool is_missing);

// Whatever says when a copy from or to pinned memory is over says "not yet".
void make_copies_look_unfinished(bool they_do);

int device_of_this_thread();  // the current one; no call of the API

// While "capturing", what CUDA refuses to capture fails: waiting for the stream; allocating outside of its order and
// asking for events, unless the thread's capture mode is relaxed; and copies from or to memory that is neither the
// device's nor pinned. (What is captured runs at once, but for copies to pinned memory.)
void capture(bool is_capturing);
void replay_copies();  // the latest captured copies to the host, with what the device held when they were captured
void forget_graph();  // what it owns is let go
void register_device_memory(uintptr_t address, size_t bytes);  // of the caller, for `capture`; 0 bytes: forget it

// Memory for an input, between two pages that nobody may touch; it ends where the second one begins. Reading behind it
// ends the process.
uintptr_t allocate_fenced(size_t bytes);
void free_fenced(uintptr_t address, size_t bytes);

// For the parts of the emulation.
Counters& counting();
void note_error(const std::string& text);

}  // namespace emulation
