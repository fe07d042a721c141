// The emulated devices: the runtime API, device memory with guard bytes, and the hooks of emulation.h.
#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <new>
#include <set>
#include <vector>

#include "emulation.h"
#include "include/cuda_runtime.h"
#include "scheduler.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

struct CUmemPoolHandle_st { int device; };
struct CUevent_st {
  int64_t behind_copies;  // how many were queued when it was recorded
  bool is_captured;       // recorded as a part of a graph, which nobody outside can ask
};
struct CUuserObject_st {
  void* data;
  cudaHostFn_t destroy;
  unsigned references;
};
struct CUgraph_st { std::vector<cudaUserObject_t> owned; };

namespace emulation {
namespace {

constexpr size_t alignment = 256, guard_bytes = 256;
constexpr unsigned char guard_value = 0xdb, fresh = 0xcb, freed = 0xdd;

enum class Kind { device, device_in_order, pinned };
const char* name_of(Kind kind) {
  constexpr const char* names[] = {"device memory of cudaMalloc", "stream-ordered device memory", "pinned host memory"};
  return names[static_cast<int>(kind)];
}

struct Allocation {
  size_t bytes;
  Kind kind;
  int device;
};

struct Copy {
  void* to;
  const void* from;
  size_t bytes;
  std::vector<unsigned char> taken;  // to pinned memory: what was on the device, whose memory may go
};

struct Devices {
  std::recursive_mutex lock;
  Counters counters;
  int64_t launches_before_reset = 0;
  std::string last_error;
  std::map<uintptr_t, Allocation> allocations;
  std::map<uintptr_t, size_t> registered;  // the caller's memory that counts as the device's
  std::set<cudaMemPool_t> pools;
  std::set<cudaEvent_t> events;
  std::map<const void*, int> shared_bytes_of_kernel;
  std::vector<Copy> copies;  // from or to pinned memory, queued and not made yet
  std::vector<Copy> captured;  // to pinned memory, made when the graph is replayed
  cudaGraph_t graph = nullptr;
  int64_t copies_made = 0;
  bool is_missing = false, is_capturing = false, copies_look_unfinished = false;
  int64_t calls_until_failure = 0;
};
Devices& devices() {
  static Devices* const forever = new Devices;  // still there when other objects end
  return *forever;
}
thread_local int current_device = 0;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;
thread_local cudaError_t latest = cudaSuccess;

cudaError_t returned(cudaError_t status) {
  if (status != cudaSuccess) latest = status;
  return status;
}

// One call of the API: holds the lock, and says whether the call is to fail.
class Call {
 public:
  Call() : held_(devices().lock) {
    Devices& all = devices();
    ++all.counters.api_calls;
    if (all.calls_until_failure > 0 && --all.calls_until_failure == 0) status_ = cudaErrorMemoryAllocation;
    if (all.is_missing) status_ = cudaErrorNoDevice;
  }
  bool fails() const { return status_ != cudaSuccess; }
  cudaError_t status() const { return returned(status_); }

 private:
  std::lock_guard<std::recursive_mutex> held_;
  cudaError_t status_ = cudaSuccess;
};

// Whether a graph that is being captured forbids what is no part of any stream.
bool is_forbidden_by_capture() { return devices().is_capturing && capture_mode != cudaStreamCaptureModeRelaxed; }

// What the device has to do before it does anything else.
void make_copies() {
  Devices& all = devices();
  for (const Copy& copy : all.copies) std::memcpy(copy.to, copy.from, copy.bytes);
  all.copies_made += static_cast<int64_t>(all.copies.size());
  all.copies.clear();
}

// --- device memory ------------------------------------------------------------------------------------------

// The allocation that holds the byte, or null.
const std::pair<const uintptr_t, Allocation>* allocation_at(const void* address) {
  const auto& allocations = devices().allocations;
  auto next = allocations.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == allocations.begin()) return nullptr;
  --next;
  return reinterpret_cast<uintptr_t>(address) < next->first + next->second.bytes ? &*next : nullptr;
}

bool is_registered(const void* address, size_t bytes) {
  const auto& registered = devices().registered;
  auto next = registered.upper_bound(reinterpret_cast<uintptr_t>(address));
  if (next == registered.begin()) return false;
  --next;
  return reinterpret_cast<uintptr_t>(address) + bytes <= next->first + next->second;
}

cudaError_t allocate(void** memory, size_t bytes, Kind kind, int device = current_device) {
  const size_t whole = (guard_bytes + bytes + guard_bytes + alignment - 1) / alignment * alignment;
  unsigned char* block = static_cast<unsigned char*>(std::aligned_alloc(alignment, whole));
  if (block == nullptr) return returned(cudaErrorMemoryAllocation);
  std::memset(block, guard_value, whole);
  std::memset(block + guard_bytes, fresh, bytes);
  protect_guards(block + guard_bytes, bytes, guard_bytes);
  *memory = block + guard_bytes;
  devices().allocations[reinterpret_cast<uintptr_t>(*memory)] = {bytes, kind, device};
  Counters& counters = counting();
  if (kind == Kind::pinned) {
    counters.live_pinned_bytes += static_cast<int64_t>(bytes);
    return cudaSuccess;
  }
  ++counters.allocations;
  counters.live_bytes += static_cast<int64_t>(bytes);
  counters.peak_bytes = counters.live_bytes > counters.peak_bytes ? counters.live_bytes : counters.peak_bytes;
  return cudaSuccess;
}

// Queued copies need this memory still.
bool is_waited_for(uintptr_t begin, size_t bytes) {
  const auto is_inside = [&](const void* address) { return reinterpret_cast<uintptr_t>(address) - begin < bytes; };
  for (const Copy& copy : devices().copies)
    if (is_inside(copy.to) || is_inside(copy.from)) return true;
  return false;
}

cudaError_t release(void* memory, bool is_pinned) {
  auto& allocations = devices().allocations;
  const auto found = allocations.find(reinterpret_cast<uintptr_t>(memory));
  if (found == allocations.end() || (found->second.kind == Kind::pinned) != is_pinned) {
    const char* what =
        found == allocations.end() ? "memory that is not allocated, or was freed before" : name_of(found->second.kind);
    std::fprintf(stderr, "emulated CUDA: %s(%p) of %s\n", is_pinned ? "cudaFreeHost" : "cudaFree", memory, what);
    std::abort();
  }
  const size_t bytes = found->second.bytes;
  if (is_waited_for(found->first, bytes)) make_copies();
  unsigned char* user = static_cast<unsigned char*>(memory);
  allocations.erase(found);
  (is_pinned ? counting().live_pinned_bytes : counting().live_bytes) -= static_cast<int64_t>(bytes);
  unprotect_guards(user, bytes, guard_bytes);
  bool is_intact = true;
  for (size_t i = 0; i < guard_bytes; ++i)
    is_intact &= user[bytes + i] == guard_value && (user - guard_bytes)[i] == guard_value;
  std::memset(user, freed, bytes);
  std::free(user - guard_bytes);
  if (is_intact) return cudaSuccess;
  note_error("a write outside of an allocation of " + std::to_string(bytes) + " bytes");
  return returned(cudaErrorIllegalAddress);
}

// What is wrong with using these bytes, or empty. Bytes that nobody allocated here may be the caller's arrays.
std::string fault_of(const void* address, size_t bytes, bool is_on_device) {
  const auto* allocation = allocation_at(address);
  if (allocation == nullptr) return "";
  const auto& [begin, facts] = *allocation;
  if (reinterpret_cast<uintptr_t>(address) + bytes > begin + facts.bytes)
    return "beyond the end of an allocation of " + std::to_string(facts.bytes) + " bytes";
  if ((facts.kind != Kind::pinned) != is_on_device) return std::string("in ") + name_of(facts.kind);
  return "";
}

bool may_be_captured(const void* address, size_t bytes) {
  return allocation_at(address) != nullptr || is_registered(address, bytes);
}

void let_go(cudaUserObject_t object, unsigned references) {
  if ((object->references -= references) != 0) return;
  object->destroy(object->data);
  delete object;
}

cudaError_t refused_while_capturing() { return returned(cudaErrorStreamCaptureUnsupported); }

}  // namespace

void protect_guards(unsigned char* memory, size_t bytes, size_t guard_bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_poison_memory_region(memory - guard_bytes, guard_bytes);
  __asan_poison_memory_region(memory + bytes, guard_bytes);
#else
  (void)memory, (void)bytes, (void)guard_bytes;
#endif
}
void unprotect_guards(unsigned char* memory, size_t bytes, size_t guard_bytes) {
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(memory - guard_bytes, guard_bytes + bytes + guard_bytes);
#else
  (void)memory, (void)bytes, (void)guard_bytes;
#endif
}

// --- hooks --------------------------------------------------------------------------------------------------

Counters& counting() { return devices().counters; }
void note_error(const std::string& text) {
  ++counting().errors;
  devices().last_error = text;
}
Counters counters() {
  const std::lock_guard held(devices().lock);
  return counting();
}
void reset_counters() {
  const std::lock_guard held(devices().lock);
  const Counters before = counting();
  devices().launches_before_reset += before.launches;
  Counters& counters = counting() = Counters{};
  counters.live_bytes = counters.peak_bytes = before.live_bytes;
  counters.live_pinned_bytes = before.live_pinned_bytes;
  counters.live_events = before.live_events;
  counters.live_pools = before.live_pools;
}
int64_t launches() {
  const std::lock_guard held(devices().lock);
  return devices().launches_before_reset + counting().launches;
}
std::string last_error() {
  const std::lock_guard held(devices().lock);
  return devices().last_error;
}
void schedule(uint64_t seed) {
  const std::lock_guard held(devices().lock);
  set_schedule(seed);
}
void fail_api_call(int64_t k) {
  const std::lock_guard held(devices().lock);
  devices().calls_until_failure = k;
}
void pretend_no_device(bool is_missing) {
  const std::lock_guard held(devices().lock);
  devices().is_missing = is_missing;
}
void capture(bool is_capturing) {
  const std::lock_guard held(devices().lock);
  devices().is_capturing = is_capturing;
  capture_mode = cudaStreamCaptureModeGlobal;
  if (!is_capturing) return;
  forget_graph();
  devices().graph = new CUgraph_st;
}
void replay_copies() {
  const std::lock_guard held(devices().lock);
  make_copies();
  for (const Copy& copy : devices().captured) std::memcpy(copy.to, copy.from, copy.bytes);
}
void forget_graph() {
  const std::lock_guard held(devices().lock);
  devices().captured.clear();
  if (devices().graph == nullptr) return;
  for (cudaUserObject_t object : devices().graph->owned) let_go(object, 1);
  delete std::exchange(devices().graph, nullptr);
}
void make_copies_look_unfinished(bool they_do) {
  const std::lock_guard held(devices().lock);
  devices().copies_look_unfinished = they_do;
}
int device_of_this_thread() { return current_device; }
void register_device_memory(uintptr_t address, size_t bytes) {
  const std::lock_guard held(devices().lock);
  if (bytes == 0)
    devices().registered.erase(address);
  else
    devices().registered[address] = bytes;
}

namespace {
constexpr size_t page_bytes = 4096;
size_t whole_pages(size_t bytes) { return (bytes + page_bytes - 1) / page_bytes * page_bytes; }
}  // namespace

uintptr_t allocate_fenced(size_t bytes) {
  const size_t inside = whole_pages(bytes);
  void* fence = mmap(nullptr, inside + 2 * page_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (fence == MAP_FAILED) throw std::bad_alloc();
  unsigned char* begin = static_cast<unsigned char*>(fence) + page_bytes;
  if (inside != 0 && mprotect(begin, inside, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
  return reinterpret_cast<uintptr_t>(begin + inside - bytes);
}
void free_fenced(uintptr_t address, size_t bytes) {
  const size_t inside = whole_pages(bytes);
  munmap(reinterpret_cast<unsigned char*>(address) + bytes - inside - page_bytes, inside + 2 * page_bytes);
}

// --- launches -----------------------------------------------------------------------------------------------

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel, const std::function<void()>& body) {
  const Call call;
  if (call.fails()) return call.status();
  bool is_cooperative = false;
  for (unsigned a = 0; a < config.numAttrs; ++a)
    if (config.attrs[a].id == cudaLaunchAttributeCooperative) is_cooperative = config.attrs[a].val.cooperative != 0;
  const dim3 blocks = config.gridDim, threads = config.blockDim;
  if (blocks.y != 1 || blocks.z != 1 || threads.y != 1 || threads.z != 1 || blocks.x == 0 || blocks.x > 0x7fffffffu ||
      threads.x == 0 || threads.x % 32 != 0 || threads.x > most_threads_per_block)
    return returned(cudaErrorInvalidConfiguration);
  const auto asked = devices().shared_bytes_of_kernel.find(kernel);
  const size_t most =
      asked == devices().shared_bytes_of_kernel.end() ? most_shared_bytes_normally : static_cast<size_t>(asked->second);
  if (config.dynamicSmemBytes > (most > most_shared_bytes_normally ? most : most_shared_bytes_normally))
    return returned(cudaErrorInvalidValue);
  if (is_cooperative && blocks.x > most_resident_blocks) return returned(cudaErrorCooperativeLaunchTooLarge);
  make_copies();
  const std::string failure =
      run(static_cast<int>(blocks.x), static_cast<int>(threads.x), config.dynamicSmemBytes, is_cooperative, body);
  if (failure.empty()) return cudaSuccess;
  note_error(failure);
  return returned(cudaErrorLaunchFailure);
}

}  // namespace emulation

using namespace emulation;

// --- errors and devices -------------------------------------------------------------------------------------

namespace {
struct ErrorText {
  cudaError_t error;
  const char *name, *text;
};
constexpr ErrorText error_texts[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorInvalidConfiguration, "cudaErrorInvalidConfiguration", "invalid configuration argument"},
    {cudaErrorInsufficientDriver, "cudaErrorInsufficientDriver",
     "CUDA driver version is insufficient for CUDA runtime version"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorNoKernelImageForDevice, "cudaErrorNoKernelImageForDevice",
     "no kernel image is available for execution on the device"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorIllegalAddress, "cudaErrorIllegalAddress", "an illegal memory access was encountered"},
    {cudaErrorLaunchFailure, "cudaErrorLaunchFailure", "unspecified launch failure"},
    {cudaErrorCooperativeLaunchTooLarge, "cudaErrorCooperativeLaunchTooLarge", "too many blocks in cooperative launch"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported"},
    {cudaErrorCapturedEvent, "cudaErrorCapturedEvent", "operation not permitted on an event last recorded in a graph"},
    {cudaErrorStreamCaptureUnsupported, "cudaErrorStreamCaptureUnsupported",
     "operation not permitted when stream is capturing"},
};
const ErrorText* text_of(cudaError_t error) {
  for (const ErrorText& known : error_texts)
    if (known.error == error) return &known;
  return nullptr;
}
}  // namespace

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorText* known = text_of(error);
  return known != nullptr ? known->name : "unrecognized error code";
}
const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaErrorLaunchFailure || error == cudaErrorIllegalAddress) {
    thread_local std::string with_reason;
    with_reason = std::string(text_of(error)->text) + ": " + last_error();
    return with_reason.c_str();
  }
  const ErrorText* known = text_of(error);
  return known != nullptr ? known->text : "unrecognized error code";
}
cudaError_t cudaPeekAtLastError() { return latest; }
cudaError_t cudaGetLastError() { return std::exchange(latest, cudaSuccess); }

cudaError_t cudaGetDeviceCount(int* count) {
  const Call call;
  *count = call.fails() ? 0 : num_devices;
  return call.status();
}
cudaError_t cudaGetDevice(int* device) {
  const Call call;
  if (call.fails()) return call.status();
  *device = current_device;
  return cudaSuccess;
}
cudaError_t cudaSetDevice(int device) {
  const Call call;
  if (call.fails()) return call.status();
  if (device < 0 || device >= num_devices) return returned(cudaErrorInvalidDevice);
  current_device = device;
  return cudaSuccess;
}
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  const Call call;
  if (call.fails()) return call.status();
  if (device < 0 || device >= num_devices) return returned(cudaErrorInvalidDevice);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock: *value = most_threads_per_block; return cudaSuccess;
    case cudaDevAttrMultiProcessorCount: *value = num_multiprocessors; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMajor: *value = 9; return cudaSuccess;
    case cudaDevAttrComputeCapabilityMinor: *value = 0; return cudaSuccess;
    case cudaDevAttrCooperativeLaunch: *value = 1; return cudaSuccess;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = static_cast<int>(most_shared_bytes); return cudaSuccess;
    case cudaDevAttrMemoryPoolsSupported: *value = 1; return cudaSuccess;
  }
  return returned(cudaErrorInvalidValue);
}
cudaError_t cudaDriverGetVersion(int* version) {
  const Call call;
  *version = devices().is_missing ? 0 : 13000;
  return devices().is_missing ? cudaSuccess : call.status();
}
cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = 13000;
  return cudaSuccess;
}

// --- memory -------------------------------------------------------------------------------------------------

cudaError_t cudaMemPoolCreate(cudaMemPool_t* pool, const cudaMemPoolProps* properties) {
  const Call call;
  if (call.fails()) return call.status();
  if (properties->allocType != cudaMemAllocationTypePinned || properties->location.type != cudaMemLocationTypeDevice ||
      properties->location.id < 0 || properties->location.id >= num_devices)
    return returned(cudaErrorInvalidValue);
  *pool = new CUmemPoolHandle_st{properties->location.id};
  devices().pools.insert(*pool);
  ++counting().live_pools;
  return cudaSuccess;
}
cudaError_t cudaMemPoolSetAttribute(cudaMemPool_t pool, cudaMemPoolAttr attribute, void* value) {
  const Call call;
  if (call.fails()) return call.status();
  return devices().pools.count(pool) != 0 && attribute == cudaMemPoolAttrReleaseThreshold && value != nullptr
             ? cudaSuccess
             : returned(cudaErrorInvalidValue);
}
cudaError_t cudaMemPoolDestroy(cudaMemPool_t pool) {
  const Call call;
  if (devices().pools.erase(pool) == 0) return returned(cudaErrorInvalidValue);
  delete pool;
  --counting().live_pools;
  return call.status();
}

cudaError_t cudaMalloc(void** memory, size_t bytes) {
  const Call call;
  if (call.fails()) return call.status();
  if (is_forbidden_by_capture()) return refused_while_capturing();
  *memory = nullptr;
  return bytes == 0 ? cudaSuccess : allocate(memory, bytes, Kind::device);
}
cudaError_t cudaMallocAsync(void** memory, size_t bytes, cudaStream_t) {
  const Call call;
  if (call.fails()) return call.status();
  return bytes == 0 ? returned(cudaErrorInvalidValue) : allocate(memory, bytes, Kind::device_in_order);
}
cudaError_t cudaMallocFromPoolAsync(void** memory, size_t bytes, cudaMemPool_t pool, cudaStream_t) {
  const Call call;
  if (call.fails()) return call.status();
  if (devices().pools.count(pool) == 0 || bytes == 0) return returned(cudaErrorInvalidValue);
  return allocate(memory, bytes, Kind::device_in_order, pool->device);
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) {
  const Call call;
  if (call.fails()) return call.status();
  if (is_forbidden_by_capture()) return refused_while_capturing();
  return bytes == 0 ? returned(cudaErrorInvalidValue) : allocate(memory, bytes, Kind::pinned);
}
cudaError_t cudaFree(void* memory) {
  const Call call;
  const cudaError_t released = memory == nullptr ? cudaSuccess : release(memory, false);
  if (is_forbidden_by_capture()) return refused_while_capturing();
  return call.fails() ? call.status() : released;
}
cudaError_t cudaFreeAsync(void* memory, cudaStream_t) {
  const Call call;
  if (memory == nullptr) return returned(cudaErrorInvalidValue);
  const cudaError_t released = release(memory, false);
  return call.fails() ? call.status() : released;
}
cudaError_t cudaFreeHost(void* memory) {
  const Call call;
  const cudaError_t released = memory == nullptr ? cudaSuccess : release(memory, true);
  if (is_forbidden_by_capture()) return refused_while_capturing();
  return call.fails() ? call.status() : released;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind kind, cudaStream_t) {
  const Call call;
  if (call.fails()) return call.status();
  if (bytes == 0) return cudaSuccess;
  const bool from_device = kind == cudaMemcpyDeviceToHost || kind == cudaMemcpyDeviceToDevice;
  const bool to_device = kind == cudaMemcpyHostToDevice || kind == cudaMemcpyDeviceToDevice;
  if (devices().is_capturing && !(may_be_captured(to, bytes) && may_be_captured(from, bytes)))
    return refused_while_capturing();
  for (const std::string& fault : {fault_of(to, bytes, to_device), fault_of(from, bytes, from_device)}) {
    if (fault.empty()) continue;
    note_error("cudaMemcpyAsync of " + std::to_string(bytes) + " bytes " + fault);
    return returned(cudaErrorInvalidValue);
  }
  if (!to_device && allocation_at(to) == nullptr) ++counting().pageable_copies;
  const auto* source = allocation_at(from);
  if (kind == cudaMemcpyHostToDevice && source != nullptr && source->second.kind == Kind::pinned) {
    devices().copies.push_back({to, from, bytes, {}});
    return cudaSuccess;
  }
  if (kind == cudaMemcpyDeviceToHost && allocation_at(to) != nullptr) {
    make_copies();
    const auto* const bytes_there = static_cast<const unsigned char*>(from);
    auto& queue = devices().is_capturing ? devices().captured : devices().copies;
    queue.push_back({to, nullptr, bytes, {bytes_there, bytes_there + bytes}});
    queue.back().from = queue.back().taken.data();
    return cudaSuccess;
  }
  make_copies();
  std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* memory, int value, size_t bytes, cudaStream_t) {
  const Call call;
  if (call.fails()) return call.status();
  if (bytes == 0) return cudaSuccess;
  const std::string fault = fault_of(memory, bytes, true);
  if (!fault.empty()) {
    note_error("cudaMemsetAsync of " + std::to_string(bytes) + " bytes " + fault);
    return returned(cudaErrorInvalidValue);
  }
  make_copies();
  std::memset(memory, value, bytes);
  return cudaSuccess;
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* address) {
  const Call call;
  if (call.fails()) return call.status();
  const auto* allocation = allocation_at(address);
  void* const there = const_cast<void*>(address);
  if (allocation != nullptr && allocation->second.kind == Kind::pinned)
    *attributes = {cudaMemoryTypeHost, current_device, there, there};
  else if (allocation != nullptr || is_registered(address, 1))
    *attributes = {cudaMemoryTypeDevice, allocation != nullptr ? allocation->second.device : 0, there, nullptr};
  else
    *attributes = {cudaMemoryTypeUnregistered, -1, nullptr, there};
  return cudaSuccess;
}

// --- streams and events -------------------------------------------------------------------------------------

cudaError_t cudaStreamSynchronize(cudaStream_t) {
  const Call call;
  if (call.fails()) return call.status();
  if (devices().is_capturing) return refused_while_capturing();
  make_copies();
  ++counting().synchronisations;
  return cudaSuccess;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  const Call call;
  if (call.fails()) return call.status();
  *status = devices().is_capturing ? cudaStreamCaptureStatusActive : cudaStreamCaptureStatusNone;
  return cudaSuccess;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  const Call call;
  if (call.fails()) return call.status();
  std::swap(*mode, capture_mode);
  return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
  const Call call;
  if (call.fails()) return call.status();
  *event = new CUevent_st{0, false};
  devices().events.insert(*event);
  ++counting().live_events;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  return cudaEventRecordWithFlags(event, stream, cudaEventRecordDefault);
}
cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t, unsigned flags) {
  const Call call;
  if (call.fails()) return call.status();
  if (devices().events.count(event) == 0) return returned(cudaErrorInvalidResourceHandle);
  if (flags == cudaEventRecordExternal && !devices().is_capturing) return returned(cudaErrorInvalidValue);
  event->is_captured = devices().is_capturing && flags != cudaEventRecordExternal;
  event->behind_copies = devices().copies_made + static_cast<int64_t>(devices().copies.size());
  return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t event) {
  const Call call;
  if (call.fails()) return call.status();
  if (devices().events.count(event) == 0) return returned(cudaErrorInvalidResourceHandle);
  if (is_forbidden_by_capture()) return refused_while_capturing();
  if (event->is_captured) return returned(cudaErrorCapturedEvent);
  const bool is_behind_a_copy = event->behind_copies != 0 && devices().copies_look_unfinished;
  return event->behind_copies > devices().copies_made || is_behind_a_copy ? returned(cudaErrorNotReady) : cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  const Call call;
  if (call.fails()) return call.status();
  if (devices().events.count(event) == 0) return returned(cudaErrorInvalidResourceHandle);
  if (is_forbidden_by_capture()) return refused_while_capturing();
  if (event->is_captured) return returned(cudaErrorCapturedEvent);
  make_copies();
  ++counting().synchronisations;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  const Call call;
  if (devices().events.erase(event) == 0) return returned(cudaErrorInvalidResourceHandle);
  delete event;
  --counting().live_events;
  return call.status();
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t event, unsigned) {
  const Call call;
  if (call.fails()) return call.status();
  return devices().events.count(event) != 0 ? cudaSuccess : returned(cudaErrorInvalidResourceHandle);
}

// --- graphs -----------------------------------------------------------------------------------------------------

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t stream, cudaStreamCaptureStatus* status, unsigned long long*,
                                     cudaGraph_t* graph) {
  const cudaError_t asked = cudaStreamIsCapturing(stream, status);
  *graph = devices().is_capturing ? devices().graph : nullptr;
  return asked;
}
cudaError_t cudaUserObjectCreate(cudaUserObject_t* object, void* data, cudaHostFn_t destroy, unsigned references,
                                 unsigned flags) {
  const Call call;
  if (call.fails()) return call.status();
  if (references == 0 || flags != cudaUserObjectNoDestructorSync) return returned(cudaErrorInvalidValue);
  *object = new CUuserObject_st{data, destroy, references};
  return cudaSuccess;
}
cudaError_t cudaUserObjectRelease(cudaUserObject_t object, unsigned references) {
  const Call call;
  if (references > object->references) return returned(cudaErrorInvalidValue);
  let_go(object, references);
  return call.status();
}
cudaError_t cudaGraphRetainUserObject(cudaGraph_t graph, cudaUserObject_t object, unsigned references, unsigned flags) {
  const Call call;
  if (call.fails()) return call.status();
  if (graph == nullptr || references != 1 || flags != cudaGraphUserObjectMove) return returned(cudaErrorInvalidValue);
  graph->owned.push_back(object);
  return cudaSuccess;
}

// --- kernels ------------------------------------------------------------------------------------------------

cudaError_t cudaFuncSetAttribute(const void* kernel, cudaFuncAttribute attribute, int value) {
  const Call call;
  if (call.fails()) return call.status();
  if (attribute != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
      static_cast<size_t>(value) > most_shared_bytes)
    return returned(cudaErrorInvalidValue);
  devices().shared_bytes_of_kernel[kernel] = value;
  return cudaSuccess;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void* kernel, int threads,
                                                          size_t shared_bytes) {
  const Call call;
  if (call.fails()) return call.status();
  const auto asked = devices().shared_bytes_of_kernel.find(kernel);
  const size_t most =
      asked == devices().shared_bytes_of_kernel.end() ? most_shared_bytes_normally : static_cast<size_t>(asked->second);
  const bool fits = threads > 0 && threads <= most_threads_per_block &&
                    shared_bytes <= (most > most_shared_bytes_normally ? most : most_shared_bytes_normally);
  *blocks = fits ? blocks_per_multiprocessor : 0;
  return cudaSuccess;
}
