// Launches the kernels of self_test.cu, and makes raw calls of the API, for tests/test_emulation.py.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/cuda/margin_cut.h"
#include "include/cuda_runtime.h"
#include "self_test.h"

namespace emulation {
void bind_self_tests(pybind11::module_& hooks);
}

namespace {

auto kernel_named(const std::string& name) {
  const emulation::SelfTest* found = emulation::find_self_test(name.c_str());
  if (found == nullptr) throw std::invalid_argument("kernel is '" + name + "'; choose one of self_test.cu");
  return found->kernel;
}

std::vector<unsigned long long> launch_kernel(const std::string& name, unsigned blocks, unsigned threads, size_t size,
                                              size_t shared_bytes, bool is_cooperative,
                                              const std::vector<unsigned long long>& first) {
  std::vector<unsigned long long> out(first);
  out.resize(size);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = is_cooperative ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(blocks);
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_bytes;
  config.attrs = &attribute;
  config.numAttrs = 1;
  const cudaError_t status = cudaLaunchKernelEx(&config, kernel_named(name), out.data());
  if (status != cudaSuccess)
    throw std::runtime_error(std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status));
  return out;
}

template <class... Arguments, class... Given>
std::string called(cudaError_t (*function)(Arguments...), Given... given) {
  return cudaGetErrorName(function(given...));
}
void* at(uintptr_t address) { return reinterpret_cast<void*>(address); }

std::pair<std::string, uintptr_t> allocated(cudaError_t (*function)(void**, size_t), size_t bytes) {
  void* memory = nullptr;
  const cudaError_t status = function(&memory, bytes);
  return {cudaGetErrorName(status), reinterpret_cast<uintptr_t>(memory)};
}

}  // namespace

void emulation::bind_self_tests(pybind11::module_& hooks) {
  namespace py = pybind11;
  py::module_ tests = hooks.def_submodule("self_test");
  tests.def("launch", &launch_kernel, py::arg("kernel"), py::arg("blocks"), py::arg("threads"), py::arg("size"),
            py::arg("shared_bytes") = 0, py::arg("is_cooperative") = false,
            py::arg("first") = std::vector<unsigned long long>{});  // what `out` begins with, else 0
  tests.def("allow_shared_bytes", [](const std::string& kernel, int bytes) {
    return cudaGetErrorName(
        cudaFuncSetAttribute(kernel_named(kernel), cudaFuncAttributeMaxDynamicSharedMemorySize, bytes));
  });
  tests.def("blocks_that_fit", [](const std::string& kernel, int threads, size_t shared_bytes) {
    int blocks = -1;
    const cudaError_t status =
        cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel_named(kernel), threads, shared_bytes);
    return std::make_pair(std::string(cudaGetErrorName(status)), blocks);
  });
  tests.def("malloc", [](size_t bytes) { return allocated(&cudaMalloc, bytes); });
  tests.def("malloc_host", [](size_t bytes) { return allocated(&cudaMallocHost, bytes); });
  tests.def("malloc_async", [](size_t bytes) {
    void* memory = nullptr;
    const cudaError_t status = cudaMallocAsync(&memory, bytes, nullptr);
    return std::make_pair(std::string(cudaGetErrorName(status)), reinterpret_cast<uintptr_t>(memory));
  });
  tests.def("free", [](uintptr_t memory) { return called(&cudaFree, at(memory)); });
  tests.def("free_host", [](uintptr_t memory) { return called(&cudaFreeHost, at(memory)); });
  tests.def("free_async", [](uintptr_t memory) { return called(&cudaFreeAsync, at(memory), cudaStream_t{}); });
  tests.def("copy", [](uintptr_t to, uintptr_t from, size_t bytes, int kind) {
    return called(&cudaMemcpyAsync, at(to), static_cast<const void*>(at(from)), bytes,
                  static_cast<cudaMemcpyKind>(kind), cudaStream_t{});
  });
  tests.def("fill", [](uintptr_t memory, int value, size_t bytes) {
    return called(&cudaMemsetAsync, at(memory), value, bytes, cudaStream_t{});
  });
  tests.def("synchronise", [] { return called(&cudaStreamSynchronize, cudaStream_t{}); });
  tests.def("is_capturing", [] {
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusInvalidated;
    cudaStreamIsCapturing(nullptr, &status);
    return status == cudaStreamCaptureStatusActive;
  });
  tests.def("device_count", [] {
    int count = -1;
    const cudaError_t status = cudaGetDeviceCount(&count);
    return std::make_pair(std::string(cudaGetErrorName(status)), count);
  });
  tests.def("set_device", [](int device) { return called(&cudaSetDevice, device); });
  tests.def("current_device", [] {
    int device = -1;
    cudaGetDevice(&device);
    return device;
  });
  tests.def("attribute", [](int attribute) {
    int value = -1;
    cudaDeviceGetAttribute(&value, static_cast<cudaDeviceAttr>(attribute), 0);
    return value;
  });
  tests.def("memory_type", [](uintptr_t address) {
    cudaPointerAttributes attributes{};
    const cudaError_t status = cudaPointerGetAttributes(&attributes, at(address));
    return py::make_tuple(cudaGetErrorName(status), static_cast<int>(attributes.type), attributes.device);
  });
  tests.def("cut_of", [](int64_t num_rows, int64_t columns, int64_t warps, int64_t blocks) {  // of any GPU
    const cbkernels::cuda::margin::Cut cut = cbkernels::cuda::margin::cut_of(num_rows, columns, warps, blocks);
    return py::make_tuple(cut.num_row_spans, cut.row_span, cut.num_tiles, cut.num_spans, cut.span);
  });
  tests.def("take_last_error", [] { return std::string(cudaGetErrorName(cudaGetLastError())); });
  tests.def("write", [](uintptr_t address, int value) {  // one byte of the host's, anywhere
    *reinterpret_cast<volatile unsigned char*>(address) = static_cast<unsigned char>(value);
  });
  tests.def("read", [](uintptr_t address) { return *reinterpret_cast<volatile unsigned char*>(address); });
}
