// The pool behind pinned.h, and what a graph holds of it.
#include "pinned.h"

#include <atomic>
#include <cstring>
#include <list>
#include <map>
#include <mutex>
#include <stdexcept>

namespace cbkernels::cuda {

struct PinnedPiece {
  size_t bytes = 0;
  void* memory = nullptr;
  cudaEvent_t copied = nullptr;  // recorded behind the latest copy
  std::atomic<int> owners{1};    // whoever copies or reads, and a graph; 0: idle
};

namespace {

constexpr size_t least_bytes = size_t{64} << 10;  // the numbers and the table of more than a hundred layers
constexpr size_t most_idle_bytes = size_t{16} << 20;  // of a device
constexpr size_t first_bytes = 16;  // of all that is copied to the host; never all ones where something was copied

class Pool {
 public:
  PinnedPiece& take(size_t bytes, int device) {
    size_t size = least_bytes;
    while (size < bytes) size *= 2;
    const std::lock_guard<std::mutex> lock(mutex_);
    std::list<PinnedPiece>& pieces = pieces_[device];
    for (PinnedPiece& piece : pieces)
      if (piece.bytes == size && is_idle(piece)) {
        piece.owners = 1;
        return piece;
      }
    size_t idle = size;
    for (auto piece = pieces.begin(); piece != pieces.end();) {
      const auto next = std::next(piece);
      if (piece->owners == 0 && (idle += piece->bytes) > most_idle_bytes && is_idle(*piece)) {
        forget(cudaFreeHost(piece->memory));
        forget(cudaEventDestroy(piece->copied));
        pieces.erase(piece);
      }
      piece = next;
    }
    PinnedPiece& made = pieces.emplace_back();
    try {
      make(made, size);
    } catch (...) {
      pieces.pop_back();
      throw;
    }
    return made;
  }

 private:
  static bool is_idle(const PinnedPiece& piece) {
    if (piece.owners != 0) return false;
    const cudaError_t status = cudaEventQuery(piece.copied);
    if (status != cudaErrorNotReady) check(status, "asking whether a copy is over");
    forget(status);
    return status == cudaSuccess;
  }
  static void make(PinnedPiece& piece, size_t bytes) {
    piece.bytes = bytes;
    check(cudaEventCreateWithFlags(&piece.copied, cudaEventDisableTiming), "creating an event");
    const cudaError_t status = cudaMallocHost(&piece.memory, bytes);
    if (status != cudaSuccess) forget(cudaEventDestroy(piece.copied));
    check(status, "allocating pinned memory");
  }

  std::mutex mutex_;
  std::map<int, std::list<PinnedPiece>> pieces_;
};
Pool& pool() {
  static Pool& forever = *new Pool;  // never destroyed: nor is the driver
  return forever;
}

void CUDART_CB leave(void* piece) { --static_cast<PinnedPiece*>(piece)->owners; }

cudaGraph_t graph_being_captured(cudaStream_t stream) {  // null: none
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cudaGraph_t graph = nullptr;
#if CUDART_VERSION >= 13000
  const cudaError_t asked = cudaStreamGetCaptureInfo(stream, &status, nullptr, &graph);
#else
  const cudaError_t asked = cudaStreamGetCaptureInfo_v2(stream, &status, nullptr, &graph);
#endif
  check(asked, "asking which graph is being captured");
  return status == cudaStreamCaptureStatusNone ? nullptr : graph;
}

// The piece goes back when neither we nor the graph, its copies and what it was instantiated as need it.
void let_own(cudaGraph_t graph, PinnedPiece& piece) {
  cudaUserObject_t owner = nullptr;
  check(cudaUserObjectCreate(&owner, &piece, leave, 1, cudaUserObjectNoDestructorSync), "telling a graph what it owns");
  ++piece.owners;
  const cudaError_t status = cudaGraphRetainUserObject(graph, owner, 1, cudaGraphUserObjectMove);
  if (status != cudaSuccess) forget(cudaUserObjectRelease(owner, 1));
  check(status, "telling a graph what it owns");
}

}  // namespace

Pinned::Pinned(size_t bytes, const Stream& stream) : piece_(pool().take(bytes, stream.device)), stream_(stream) {
  try {
    if (const cudaGraph_t graph = graph_being_captured(handle_of(stream))) {
      is_captured_ = true;
      let_own(graph, piece_);
      std::memset(piece_.memory, 0xff, first_bytes);
    }
  } catch (...) {
    leave(&piece_);
    throw;
  }
}
Pinned::~Pinned() { leave(&piece_); }

const unsigned char* Pinned::memory() const { return static_cast<unsigned char*>(piece_.memory); }

void Pinned::copy_to_device(void* device, const void* host, size_t bytes) {
  std::memcpy(piece_.memory, host, bytes);
  record(cudaMemcpyAsync(device, piece_.memory, bytes, cudaMemcpyHostToDevice, handle_of(stream_)),
         "copying to the device");
}
void Pinned::copy_to_host(const void* device, size_t bytes) {
  record(cudaMemcpyAsync(piece_.memory, device, bytes, cudaMemcpyDeviceToHost, handle_of(stream_)),
         "copying to the host");
}
void copy_to_device(void* device, const void* host, size_t bytes, const Stream& stream) {
  Pinned(bytes, stream).copy_to_device(device, host, bytes);
}
void Pinned::record(cudaError_t copied, const char* what) {
  check(copied, what);
  const unsigned where = is_captured_ ? cudaEventRecordExternal : cudaEventRecordDefault;
  const cudaError_t status = cudaEventRecordWithFlags(piece_.copied, handle_of(stream_), where);
  if (status != cudaSuccess) forget(cudaStreamSynchronize(handle_of(stream_)));  // no event will say when it is over
  check(status, what);
}
void Pinned::wait() const {
  check(cudaEventSynchronize(piece_.copied), "waiting for results");
  constexpr unsigned char never_copied[first_bytes] = {255, 255, 255, 255, 255, 255, 255, 255,
                                                       255, 255, 255, 255, 255, 255, 255, 255};
  if (is_captured_ && std::memcmp(piece_.memory, never_copied, first_bytes) == 0)
    throw std::runtime_error(
        "these numbers were captured in a CUDA graph that has not been replayed; replay it before you read them");
}

}  // namespace cbkernels::cuda
