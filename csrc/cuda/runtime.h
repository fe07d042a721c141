// What the calls need of CUDA's runtime: every status checked, the caller's device put back, memory that frees itself
// in the order of the stream, launches.
#pragma once
#include <cstddef>
#include <string>
#include <vector>

#include "../contract.h"
#include "device.h"

namespace cbkernels::cuda {

// Throws std::bad_alloc when the device has no memory left, else std::runtime_error that names what was tried.
void check(cudaError_t status, const char* what);
// Where nothing can be thrown: an error that is not sticky must not meet the next caller either.
void forget(cudaError_t status);

cudaStream_t handle_of(const Stream& stream);

// The stream's device is the current one while this lives, and a graph that is being captured, here or by another
// thread, forbids this thread nothing: what we make once (a pool, an event, pinned memory) is no part of it.
class DeviceGuard {
 public:
  explicit DeviceGuard(const Stream& stream);
  ~DeviceGuard();
  DeviceGuard(const DeviceGuard&) = delete;
  DeviceGuard& operator=(const DeviceGuard&) = delete;

 private:
  int before_ = 0;
  int now_ = 0;
  cudaStreamCaptureMode mode_ = cudaStreamCaptureModeRelaxed;
};

// Throws, before anything is queued: what waits for the stream cannot be part of a graph.
void refuse_capture(const Stream& stream);

// Device memory between two points of a stream. Add up with `reserve`, allocate once, `take` in the same order.
class Workspace {
 public:
  explicit Workspace(const Stream& stream) : stream_(stream) {}
  ~Workspace();
  Workspace(const Workspace&) = delete;
  Workspace& operator=(const Workspace&) = delete;

  template <class T>
  size_t reserve(int64_t count) {  // offset of the array
    const size_t offset = (size_ + alignof(T) - 1) / alignof(T) * alignof(T);
    size_ = offset + sizeof(T) * static_cast<size_t>(count);
    return offset;
  }
  void align() { size_ = (size_ + 15) / 16 * 16; }
  size_t size() const { return size_; }
  void allocate();
  template <class T>
  T* at(size_t offset) const {
    return reinterpret_cast<T*>(memory_ + offset);
  }

 private:
  Stream stream_;
  size_t size_ = 0;
  unsigned char* memory_ = nullptr;
};

struct LaunchShape { int blocks, threads; };
// As many blocks as can be resident at once, at most `wanted_warps` warps; tests may ask for another shape.
LaunchShape shape_for(const void* kernel, int threads, size_t shared_bytes, int64_t wanted_warps, const Stream& stream,
                      bool threads_are_fixed = false);

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, size_t shared_bytes, const Stream& stream,
            bool is_cooperative, const Arguments&... arguments) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = is_cooperative ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(static_cast<unsigned>(shape.blocks));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = shared_bytes;
  config.stream = handle_of(stream);
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, static_cast<Parameters>(arguments)...), "launching a kernel");
  ++last_work().launches;
}

// A layer of more rows is grouped by the whole grid.
int64_t most_rows_of_a_block();

// Through pinned memory (pinned.h): `host` may go at once. Never waits.
void copy_to_device(void* device, const void* host, size_t bytes, const Stream& stream);
void fill_with_zeros(void* device, size_t bytes, const Stream& stream);

}  // namespace cbkernels::cuda
