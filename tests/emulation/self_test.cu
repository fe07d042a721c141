// Small kernels with which tests/test_emulation.py tests the emulation itself. Each writes what it saw into `out`,
// which starts at 0; the test knows what a GPU would have written.
#include <cuda_runtime.h>

#include "../../csrc/cuda/teams.h"
#include "self_test.h"

namespace emulation {
namespace {

constexpr unsigned all_lanes = 0xffffffffu;

__device__ unsigned thread_of_grid() { return blockIdx.x * blockDim.x + threadIdx.x; }
__device__ unsigned lane_index() { return threadIdx.x % 32; }

__global__ void write_indices(Out out) {
  out[thread_of_grid()] = 1000000ull * gridDim.x + 10000ull * blockIdx.x + threadIdx.x + 1;
}

// Ten values a thread.
__global__ void __launch_bounds__(128) use_collectives(Out out) {
  const unsigned lane = lane_index(), value = thread_of_grid() * 2654435761u;
  const unsigned long long wide = (static_cast<unsigned long long>(value) << 32) | lane;
  Out mine = out + 10 * thread_of_grid();
  mine[0] = __shfl_sync(all_lanes, value, 5);
  mine[1] = __shfl_sync(all_lanes, wide, static_cast<int>(lane) + 33);
  mine[2] = __shfl_up_sync(all_lanes, value, 3);
  mine[3] = __shfl_xor_sync(all_lanes, wide, 9);
  mine[4] = static_cast<unsigned long long>(__any_sync(all_lanes, threadIdx.x == 40));
  mine[5] = static_cast<unsigned long long>(__all_sync(all_lanes, threadIdx.x < 32));
  mine[6] = __ballot_sync(all_lanes, value >> 31);
  mine[7] = __match_any_sync(all_lanes, value >> 30);
  mine[8] = __match_any_sync(all_lanes, wide % 3);
  __syncwarp();
  mine[9] = static_cast<unsigned long long>(__syncthreads_or(threadIdx.x == 64 && blockIdx.x == 1));
}

__global__ void use_atomics(Out out) {
  const unsigned long long i = thread_of_grid();
  atomicAdd(out, i);
  atomicMin(out + 1, 1000 - i);  // of 0: stays
  atomicMax(out + 2, i);
  atomicOr(out + 3, 1ull << i % 64);
  atomicAnd(out + 4, i);
  if (atomicCAS(out + 5, 0ull, i + 1) == 0) atomicAdd(out + 6, i + 1);
  atomicCAS(out + 10, 7ull, i + 1);  // of 0: stays
  if (atomicExch(out + 7, 1ull) == 0) atomicAdd(out + 8, 1ull);
  int* const signed_one = reinterpret_cast<int*>(out + 9);
  atomicMin(signed_one, -static_cast<int>(i));
}

// Not atomic: loses updates when threads are interrupted between the read and the write.
__global__ void lose_updates(Out out) {
  const unsigned long long before = __ldcg(out);
  atomicAdd(out + 1, 1ull);
  out[0] = before + 1;
}

// The same, with plain accesses.
__global__ void lose_plain_updates(Out out) { out[0] = out[0] + 1; }

__global__ void record_order(Out out) { out[1 + atomicAdd(out, 1ull)] = thread_of_grid(); }

// How far the slowest warp was when the first one was done.
__global__ void race(Out out) {
  const unsigned warp = thread_of_grid() / 32, num_warps = gridDim.x * blockDim.x / 32;
  for (int round = 0; round < 200; ++round) {
    if (lane_index() == 0) atomicAdd(out + 1 + warp, 1ull);
    __syncwarp();
  }
  if (lane_index() != 0 || atomicExch(out, 1ull) != 0) return;
  unsigned long long slowest = 200;
  for (unsigned w = 0; w < num_warps; ++w) slowest = min(slowest, __ldcg(out + 1 + w));
  out[1 + num_warps] = slowest;
}

// Every block waits for all others by spinning, then adds up what they wrote.
__global__ void wait_for_the_grid(Out out) {
  Out slots = out + 1;
  for (int round = 1; round <= 5; ++round) {
    if (threadIdx.x == 0) {
      slots[blockIdx.x] += blockIdx.x + 1;
      __threadfence();
      atomicAdd(out, 1ull);
      while (__ldcg(out) < static_cast<unsigned long long>(round) * gridDim.x) __nanosleep(20);
    }
    __syncthreads();
  }
  unsigned long long sum = 0;
  for (unsigned b = 0; b < gridDim.x; ++b) sum += slots[b];
  out[1 + gridDim.x + thread_of_grid()] = sum;
}

// The barrier of csrc/cuda. out[0] is its counter and starts where the test says, out[1] the same, for reading; then a
// count of rounds for each block, and for each thread how often it met a block that was not yet there.
__global__ void wait_at_the_grid_barrier(Out out) {
  cbkernels::cuda::GridBarrier barrier{reinterpret_cast<unsigned*>(out), static_cast<unsigned>(out[1])};
  Out rounds = out + 2, too_early = rounds + gridDim.x + thread_of_grid();
  for (unsigned long long round = 1; round <= 20; ++round) {
    for (unsigned late = 0; late < 8 * blockIdx.x; ++late) __nanosleep(20);
    if (threadIdx.x == 0) rounds[blockIdx.x] = round;
    barrier.wait();
    for (unsigned b = 0; b < gridDim.x; ++b) *too_early += rounds[b] < round;
  }
}

// The sum over a block of csrc/cuda, again and again in the same space, which a warp may still read when another one is
// at the next sum. For each thread: the sums that were wrong.
__global__ void sum_in_a_row(Out out) {
  auto* const space = reinterpret_cast<cbkernels::cuda::ScanSpace*>(emulation::dynamic_shared_memory());
  const uint64_t before = threadIdx.x, all = blockDim.x;
  for (uint64_t round = 1; round <= 50; ++round) {
    const cbkernels::cuda::PrefixSum sum = cbkernels::cuda::block_exclusive_sum(round * (before + 1), space);
    const bool is_right = sum.before == round * before * (before + 1) / 2 && sum.total == round * all * (all + 1) / 2;
    out[thread_of_grid()] += is_right ? 0 : 1;
  }
}

__global__ void read_shared_memory(Out out) {
  const unsigned char* shared = emulation::dynamic_shared_memory();
  out[thread_of_grid()] = shared[threadIdx.x] | (reinterpret_cast<uintptr_t>(shared) % 16) << 8;
}
__global__ void write_before_shared_memory(Out) {
  if (threadIdx.x == 7) emulation::dynamic_shared_memory()[-1] = 1;
}
__global__ void write_behind_shared_memory(Out) {
  if (threadIdx.x == 7) emulation::dynamic_shared_memory()[64] = 1;
}

// --- kernels that go wrong ----------------------------------------------------------------------------------

__global__ void leave_before_the_barrier(Out) {
  if (threadIdx.x == 33) return;
  __syncthreads();
}
__global__ void leave_before_the_shuffle(Out out) {
  if (lane_index() == 3) return;
  out[0] = __shfl_sync(all_lanes, 1u, 0);
}
__global__ void leave_first(Out out) {
  if (lane_index() == 0) return;
  out[0] = __ballot_sync(all_lanes, 1);
}
__global__ void half_a_block_at_the_barrier(Out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else if (lane_index() == 0)
    __nanosleep(1);
  __syncwarp();
}
__global__ void half_a_warp_at_the_barrier(Out) {
  if (lane_index() < 16)
    __syncthreads();
  else
    __syncwarp();
}
__global__ void two_collectives(Out out) {
  if (lane_index() < 16)
    out[0] = __shfl_sync(all_lanes, 1u, 0);
  else
    out[1] = __ballot_sync(all_lanes, 1);
}
__global__ void two_barriers(Out) {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads_or(1);
}
__global__ void half_a_mask(Out) { __syncwarp(0xffffu); }
__global__ void spin_forever(Out out) {
  while (__ldcg(out) == 0) __nanosleep(20);
}
__global__ void add_forever(Out out) {
  while (atomicAdd(out + 1, 1ull) < ~0ull) {}
}
__global__ void wait_for_the_last_block(Out out) {
  if (blockIdx.x + 1 == gridDim.x) out[0] = 1;
  while (__ldcg(out) == 0) __nanosleep(20);
}

constexpr SelfTest kernels[] = {
    {"write_indices", write_indices},
    {"use_collectives", use_collectives},
    {"use_atomics", use_atomics},
    {"lose_updates", lose_updates},
    {"lose_plain_updates", lose_plain_updates},
    {"record_order", record_order},
    {"race", race},
    {"wait_for_the_grid", wait_for_the_grid},
    {"wait_at_the_grid_barrier", wait_at_the_grid_barrier},
    {"sum_in_a_row", sum_in_a_row},
    {"read_shared_memory", read_shared_memory},
    {"write_before_shared_memory", write_before_shared_memory},
    {"write_behind_shared_memory", write_behind_shared_memory},
    {"leave_before_the_barrier", leave_before_the_barrier},
    {"leave_before_the_shuffle", leave_before_the_shuffle},
    {"leave_first", leave_first},
    {"half_a_block_at_the_barrier", half_a_block_at_the_barrier},
    {"half_a_warp_at_the_barrier", half_a_warp_at_the_barrier},
    {"two_collectives", two_collectives},
    {"two_barriers", two_barriers},
    {"half_a_mask", half_a_mask},
    {"spin_forever", spin_forever},
    {"add_forever", add_forever},
    {"wait_for_the_last_block", wait_for_the_last_block},
};

}  // namespace

const SelfTest* find_self_test(const char* name) {
  for (const SelfTest& kernel : kernels)
    if (std::strcmp(kernel.name, name) == 0) return &kernel;
  return nullptr;
}

}  // namespace emulation
