// Threads that work on one layer together: a block for a layer of few rows, the whole grid for one of many. Both are a
// rank, a size, a barrier and a prefix sum.
#pragma once
#include "device.h"

namespace cbkernels::cuda {

// A barrier of all blocks of a cooperative launch. `arrived` starts at 0 and only grows, past 2^32 to 0 again: no two
// blocks are ever further apart than one wait, so the sign of the difference says who is ahead.
//
// What one block wrote before it, plainly or not, every thread of another may read plainly behind it: the writes come
// before the first fence (through __syncthreads), the reads behind the second one, which also empties this
// multiprocessor's L1 cache, so no line from an earlier phase is seen. Only what is written during a phase needs
// read_now or an atomic in that phase; nothing that the launch writes may be read with __ldg.
CBKERNELS_DEVICE_CALL void arrive_and_wait(unsigned* arrived, unsigned expected) {
  __syncthreads();
  if (gridDim.x == 1) return;
  if (threadIdx.x == 0) {
    __threadfence();  // what this block wrote, before its arrival
    atomicAdd(arrived, 1u);
    while (static_cast<int>(read_now(arrived) - expected) < 0) __nanosleep(32);
    __threadfence();  // what the others wrote, after theirs
  }
  __syncthreads();
}
struct GridBarrier {
  unsigned* arrived;
  unsigned expected = 0;

  CBKERNELS_DEVICE void wait() { arrive_and_wait(arrived, expected += gridDim.x); }
};

// Shared memory that prefix sums need, one warp's total in each.
constexpr int most_warps = 32;
struct ScanSpace { uint64_t of_warp[most_warps + 1]; };

struct PrefixSum { uint64_t before, total; };
// Sum of `value` over the threads of the block before this one, and of all. Every thread takes part.
CBKERNELS_DEVICE_CALL PrefixSum block_exclusive_sum(uint64_t value, ScanSpace* space) {
  const int lane = lane_index(), warp = threadIdx.x / warp_size, num_warps = blockDim.x / warp_size;
  uint64_t inclusive = value;
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    const uint64_t before = __shfl_up_sync(whole_warp, inclusive, step);
    if (lane >= step) inclusive += before;
  }
  __syncthreads();  // the space may still be in use
  if (lane == warp_size - 1) space->of_warp[warp] = inclusive;
  __syncthreads();
  uint64_t before = 0, all = 0;
  for (int w = 0; w < num_warps; ++w) {
    if (w < warp) before += space->of_warp[w];
    all += space->of_warp[w];
  }
  return {before + inclusive - value, all};
}

struct Team {
  bool is_block;  // else the whole grid
  ScanSpace* space;
  GridBarrier* barrier;
  uint64_t* of_block;  // one for each block of the grid, in global memory

  CBKERNELS_DEVICE int64_t rank() const {
    return is_block ? threadIdx.x : static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  }
  CBKERNELS_DEVICE int64_t size() const { return is_block ? blockDim.x : static_cast<int64_t>(gridDim.x) * blockDim.x; }
  CBKERNELS_DEVICE bool holds_first_block() const { return is_block || blockIdx.x == 0; }
  CBKERNELS_DEVICE void sync() const {
    if (is_block)
      __syncthreads();
    else
      barrier->wait();
  }
  // Sum of `value` over the threads before this one; *total of all. Every thread takes part.
  CBKERNELS_DEVICE uint64_t exclusive_sum(uint64_t value, uint64_t* total) const {
    const PrefixSum in_block = block_exclusive_sum(value, space);
    *total = in_block.total;
    if (is_block || gridDim.x == 1) return in_block.before;
    if (threadIdx.x == 0) of_block[blockIdx.x] = in_block.total;
    barrier->wait();
    uint64_t before = 0, all = 0;
    for (unsigned b = threadIdx.x; b < gridDim.x; b += blockDim.x) {
      if (b < blockIdx.x) before += of_block[b];
      all += of_block[b];
    }
    before = block_exclusive_sum(before, space).total;
    *total = block_exclusive_sum(all, space).total;
    barrier->wait();  // of_block may be written again
    return before + in_block.before;
  }
};

// The items of one team member: a contiguous share of [0, count), so that prefix sums are in order.
struct Share { int64_t begin, end; };
CBKERNELS_DEVICE Share share_of(const Team& team, int64_t count) {
  const int64_t each = (count + team.size() - 1) / team.size();
  const int64_t begin = team.rank() * each;
  return {begin < count ? begin : count, begin + each < count ? begin + each : count};
}

// Deals the work items of all layers to the warps of the grid in turn: body(layer, item) with whole warps.
// count(layer) may differ from layer to layer and must be the same in every warp.
template <class Count, class Body>
CBKERNELS_DEVICE void for_each_item(int num_layers, const Count& count, const Body& body) {
  const int lane = lane_index();
  int64_t before = 0, next = warp_of_grid();
  const int64_t num_warps = warps_of_grid();
  for (int first = 0; first < num_layers; first += warp_size) {
    const int64_t mine = first + lane < num_layers ? count(first + lane) : 0;
    int64_t inclusive = mine;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const int64_t add = __shfl_up_sync(whole_warp, inclusive, step);
      if (lane >= step) inclusive += add;
    }
    const int64_t end = before + __shfl_sync(whole_warp, inclusive, warp_size - 1);
    while (next < end) {
      const int owner = __ffs(__ballot_sync(whole_warp, before + inclusive > next)) - 1;
      const int64_t begin_of_layer = before + __shfl_sync(whole_warp, inclusive - mine, owner);
      body(first + owner, next - begin_of_layer);
      next += num_warps;
    }
    before = end;
  }
}

}  // namespace cbkernels::cuda
