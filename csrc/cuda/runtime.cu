#include "runtime.h"

#include <unistd.h>

#include <atomic>
#include <map>
#include <mutex>
#include <new>
#include <stdexcept>

#include "layer_work.h"

namespace cbkernels::cuda {

void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // an error that is not sticky must not meet the next caller
  if (status == cudaErrorMemoryAllocation) throw std::bad_alloc();
  throw std::runtime_error(std::string("CUDA failed at ") + what + ": " + cudaGetErrorName(status) + ", " +
                           cudaGetErrorString(status) +
                           "; work queued earlier may be the cause, CUDA_LAUNCH_BLOCKING=1 shows which");
}

void forget(cudaError_t status) {
  if (status != cudaSuccess) cudaGetLastError();
}

cudaStream_t handle_of(const Stream& stream) { return static_cast<cudaStream_t>(stream.handle); }

namespace {

// CUDA does not survive a fork, and neither does a lock that another thread holds meanwhile.
std::atomic<pid_t> process_that_uses_cuda{0};
bool is_fork_of_a_user() {
  const pid_t user = process_that_uses_cuda;
  return user != 0 && user != getpid();
}

}  // namespace

DeviceGuard::DeviceGuard(const Stream& stream) : now_(stream.device) {
  if (is_fork_of_a_user()) require();
  const cudaError_t status = cudaGetDevice(&before_);
  if (status != cudaSuccess) require();  // says so where there is no GPU at all
  check(status, "asking for the current device");
  process_that_uses_cuda = getpid();
  check(cudaThreadExchangeStreamCaptureMode(&mode_), "asking for the capture mode");
  if (before_ == now_) return;
  const cudaError_t chosen = cudaSetDevice(now_);
  if (chosen != cudaSuccess) forget(cudaThreadExchangeStreamCaptureMode(&mode_));
  check(chosen, "choosing the device of the input");
}
DeviceGuard::~DeviceGuard() {
  if (before_ != now_) forget(cudaSetDevice(before_));
  forget(cudaThreadExchangeStreamCaptureMode(&mode_));
}

void refuse_capture(const Stream& stream) {
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  check(cudaStreamIsCapturing(handle_of(stream), &status), "asking whether the stream is being captured");
  if (status != cudaStreamCaptureStatusNone)
    throw std::runtime_error(
        "this call returns numbers, so it waits for the GPU, and its stream is being captured in a CUDA graph; call it "
        "outside of the capture, or capture bundle_rows or update() instead");
}

namespace {

// A pool of our own for each device: the default one gives its memory back to the system at every synchronisation,
// which makes the next call wait. What stays is bounded.
constexpr uint64_t kept_bytes = uint64_t{64} << 20;

cudaMemPool_t pool_of(int device) {
  static std::mutex mutex;
  static std::map<int, cudaMemPool_t>& pools = *new std::map<int, cudaMemPool_t>;  // never destroyed: nor is the driver
  const std::lock_guard<std::mutex> lock(mutex);
  const auto known = pools.find(device);
  if (known != pools.end()) return known->second;
  int is_supported = 0;
  check(cudaDeviceGetAttribute(&is_supported, cudaDevAttrMemoryPoolsSupported, device), "asking for memory pools");
  if (!is_supported)
    throw std::runtime_error("GPU " + std::to_string(device) +
                             " has no stream-ordered memory (memory pools), which cbkernels needs; move the input to "
                             "the CPU, for example with .cpu()");
  cudaMemPoolProps properties{};
  properties.allocType = cudaMemAllocationTypePinned;
  properties.location.type = cudaMemLocationTypeDevice;
  properties.location.id = device;
  cudaMemPool_t pool;
  check(cudaMemPoolCreate(&pool, &properties), "creating a memory pool");
  uint64_t threshold = kept_bytes;
  const cudaError_t status = cudaMemPoolSetAttribute(pool, cudaMemPoolAttrReleaseThreshold, &threshold);
  if (status != cudaSuccess) forget(cudaMemPoolDestroy(pool));
  check(status, "setting up a memory pool");
  return pools[device] = pool;
}

std::atomic<int> blocks_for_tests{0}, threads_for_tests{0};
std::atomic<int64_t> rows_of_a_block_for_tests{0};

}  // namespace

void Workspace::allocate() {
  void* memory = nullptr;
  check(cudaMallocFromPoolAsync(&memory, size_ < 16 ? 16 : size_, pool_of(stream_.device), handle_of(stream_)),
        "allocating working memory");
  memory_ = static_cast<unsigned char*>(memory);
}
Workspace::~Workspace() {
  if (memory_ != nullptr) forget(cudaFreeAsync(memory_, handle_of(stream_)));
}

void use_launch_shape(int blocks, int threads, int64_t rows_of_a_block) {
  if (blocks < 0 || rows_of_a_block > largest_shared_table || threads < 0 || threads > threads_of_a_block ||
      threads % warp_size != 0)
    throw std::invalid_argument("the launch shape is " + std::to_string(blocks) + " blocks of " +
                                std::to_string(threads) + " threads; threads must be a multiple of 32, at most " +
                                std::to_string(threads_of_a_block));
  blocks_for_tests = blocks;
  threads_for_tests = threads;
  rows_of_a_block_for_tests = rows_of_a_block;
}

int64_t most_rows_of_a_block() {
  const int64_t for_tests = rows_of_a_block_for_tests;
  return for_tests > 0 ? for_tests : largest_shared_table;
}

LaunchShape shape_for(const void* kernel, int threads, size_t shared_bytes, int64_t wanted_warps, const Stream& stream,
                      bool threads_are_fixed) {
  if (threads_for_tests > 0 && !threads_are_fixed) threads = threads_for_tests;
  int processors = 0, resident = 0;
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, stream.device), "asking for the device");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&resident, kernel, threads, shared_bytes),
        "asking how many blocks fit");
  const int64_t warps_of_block = threads / warp_size;
  const int64_t wanted = (wanted_warps + warps_of_block - 1) / warps_of_block;
  int64_t blocks = static_cast<int64_t>(processors) * resident;
  const int64_t asked_for = blocks_for_tests > 0 ? blocks_for_tests.load() : wanted;  // tests want idle blocks, too
  if (asked_for < blocks) blocks = asked_for;
  return {static_cast<int>(blocks < 1 ? 1 : blocks), threads};
}

void fill_with_zeros(void* device, size_t bytes, const Stream& stream) {
  check(cudaMemsetAsync(device, 0, bytes, handle_of(stream)), "clearing working memory");
}

void wait_for(const Stream& stream, void* producer) {
  const DeviceGuard guard(stream);
  cudaEvent_t event;
  check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event");
  cudaError_t status = cudaEventRecord(event, static_cast<cudaStream_t>(producer));
  if (status == cudaSuccess) status = cudaStreamWaitEvent(handle_of(stream), event, 0);
  forget(cudaEventDestroy(event));  // freed when the stream has passed it
  check(status, "waiting for the producer's stream");
}

int device_of(const void* memory) {
  require();
  cudaPointerAttributes facts{};
  check(cudaPointerGetAttributes(&facts, memory), "asking which GPU owns the array");
  if (facts.type != cudaMemoryTypeDevice && facts.type != cudaMemoryTypeManaged)
    throw std::invalid_argument("the array at address " + std::to_string(reinterpret_cast<uintptr_t>(memory)) +
                                " is in no GPU's memory; copy it there, or pass it as a NumPy array");
  return facts.device;
}

bool is_built() { return true; }
std::string build_reason() { return ""; }
std::string architectures() { return CBKERNELS_CUDA_ARCHITECTURES; }

std::string missing_reason() {
  int count = 0, driver = 0;
  if (is_fork_of_a_user())
    return "no NVIDIA GPU can be used here: this process was forked from one that uses CUDA, which does not survive "
           "that; start it by the method \"spawn\" of multiprocessing, or move the input to the CPU";
  const cudaError_t status = cudaGetDeviceCount(&count);
  if (status == cudaSuccess && count > 0) return "";
  cudaGetLastError();
  std::string why = status == cudaSuccess ? "the driver lists none" : cudaGetErrorString(status);
  if (cudaDriverGetVersion(&driver) == cudaSuccess && driver == 0) why = "there is no NVIDIA driver";
  return "no NVIDIA GPU can be used here: " + why + "; move the input to the CPU, for example with .cpu()";
}
void require() {
  const std::string reason = missing_reason();
  if (!reason.empty()) throw std::invalid_argument(reason);
}

}  // namespace cbkernels::cuda
