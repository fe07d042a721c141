// What emulated kernels ask of the scheduler (../../scheduler.cpp). All of it may switch to another emulated thread.
#pragma once
#include <cstddef>
#include <cstdint>
#include <functional>

namespace emulation {

enum class Collective { syncwarp, shuffle, shuffle_up, shuffle_xor, any, all, ballot, match_any };
enum class BlockBarrier { syncthreads, syncthreads_or };

// Waits for the 32 threads of the warp; gives the values of all of them. Valid until the warp's next collective but
// one. Ends the launch when the lanes do not all take part in the same collective, or the mask is not the whole warp.
const uint64_t* exchange(Collective collective, unsigned mask, uint64_t value);

// Waits for all threads of the block; gives whether any of them passed true.
bool wait_for_block(BlockBarrier barrier, bool value);

void sleep();          // lets every other thread that can run have a turn
void may_interrupt();  // an atomic or a read of what others write: now and then another thread runs here

void may_interrupt_access();  // any other read or write, less often; the host calls it, too, outside of launches

unsigned char* dynamic_shared_memory();  // of the block; its exact size, aligned to 16 bytes, filled with garbage
int lane();  // of the running thread

}  // namespace emulation
