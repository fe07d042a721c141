// The one door to CUDA's language and runtime. The tests offer the same names on a CPU (tests/emulation), so that
// the kernels run unchanged there.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#if defined(__CUDACC__)
#define CBKERNELS_DEVICE __device__ __forceinline__
#define CBKERNELS_DEVICE_CALL static __device__ __noinline__  // rare, or long: compiled once
#define CBKERNELS_DYNAMIC_SHARED(name) extern __shared__ __align__(16) unsigned char name[]
#else
#define CBKERNELS_DEVICE inline
#define CBKERNELS_DEVICE_CALL static inline
#define CBKERNELS_DYNAMIC_SHARED(name) unsigned char* name = emulation::dynamic_shared_memory()
#endif

namespace cbkernels::cuda {

constexpr unsigned whole_warp = 0xffffffffu;
constexpr int warp_size = 32;
constexpr int threads_of_a_block = 256;

CBKERNELS_DEVICE int lane_index() { return static_cast<int>(threadIdx.x) % warp_size; }
CBKERNELS_DEVICE int64_t warp_of_grid() {
  return (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / warp_size;
}
CBKERNELS_DEVICE int64_t warps_of_grid() { return static_cast<int64_t>(gridDim.x) * blockDim.x / warp_size; }

// What another block may be writing during this phase.
template <class T>
CBKERNELS_DEVICE T read_now(const T* p) {
#if !defined(__CUDACC__)
  emulation::may_interrupt();
#endif
  return *const_cast<const volatile T*>(p);
}

}  // namespace cbkernels::cuda
