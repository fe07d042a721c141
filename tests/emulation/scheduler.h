// Runs one launch to its end (scheduler.cpp). The caller holds the lock of the runtime.
#pragma once
#include <functional>
#include <string>

#include "include/emulation/device_language.h"

namespace emulation {

// Empty, or what went wrong. A cooperative launch has at most most_resident_blocks blocks, all alive at once; other
// launches have as many alive as fit, in any order.
std::string run(int num_blocks, int num_threads, size_t shared_bytes, bool is_cooperative,
                const std::function<void()>& body);

void set_schedule(uint64_t seed);

// Bytes before and behind an array that AddressSanitizer shall report; nothing happens without it.
void protect_guards(unsigned char* memory, size_t bytes, size_t guard_bytes);
void unprotect_guards(unsigned char* memory, size_t bytes, size_t guard_bytes);

}  // namespace emulation
