// Pinned memory for copies between host and device. It comes from a pool of the process and goes back to it without a
// wait: whoever takes it next is told by an event whether its copy is over. A graph that is being captured owns what it
// copies from and to as long as it can be replayed.
#pragma once
#include "runtime.h"

namespace cbkernels::cuda {

struct PinnedPiece;

class Pinned {
 public:
  Pinned(size_t bytes, const Stream& stream);
  ~Pinned();  // calls nothing of CUDA's: the stream may be gone, and so may the process that this one was forked from
  Pinned(const Pinned&) = delete;
  Pinned& operator=(const Pinned&) = delete;

  const unsigned char* memory() const;
  // Both queue. The first takes `host` at once.
  void copy_to_device(void* device, const void* host, size_t bytes);
  void copy_to_host(const void* device, size_t bytes);
  // Until the latest copy is over, in a graph that of its latest replay; throws std::runtime_error before the first.
  void wait() const;

 private:
  void record(cudaError_t copied, const char* what);

  PinnedPiece& piece_;
  Stream stream_;
  bool is_captured_ = false;
};

}  // namespace cbkernels::cuda
