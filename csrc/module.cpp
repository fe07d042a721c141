// The door: pointers in, arrays out, GIL released. Arguments were checked in cbkernels/arrays.py and are only
// unpacked here. Table of contents: the GIL and signals, cpu, cuda (the same functions), streaming, facts about the
// build, tests, the way in.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <atomic>
#include <chrono>
#include <memory>
#include <optional>
#include <thread>

#include "contract.h"
#include "cpu/group_rows.h"
#include "cpu/instruction_sets.h"
#include "cpu/threads.h"
#include "routing_keys.h"

namespace py = pybind11;
#ifdef CBKERNELS_EMULATED
void bind_emulation(py::module_& module);  // tests/emulation
#endif
using namespace cbkernels;

namespace {

using GridArgument = std::optional<std::tuple<int, double, double, double>>;
using KeyArgument = std::pair<uint64_t, uint64_t>;  // low, high
using ToleranceArgument = std::optional<std::pair<double, double>>;

// The GIL, given up while this lives.
class ReleasedGil {
 public:
  ReleasedGil() = default;
  ~ReleasedGil() { take_back(); }
  ReleasedGil(const ReleasedGil&) = delete;
  ReleasedGil& operator=(const ReleasedGil&) = delete;

  // Runs the handlers of signals that came in; only in Python's main thread, by Python's own rule.
  void run_signal_handlers() {
    take_back();
    const bool has_raised = PyErr_CheckSignals() != 0;
    state_ = PyEval_SaveThread();
    if (has_raised) throw Stopped{};  // the exception stays with the thread's state
  }

 private:
  // To a thread that is not the main one, an interpreter that is ending never gives the GIL again. Python ends that
  // thread by unwinding its stack, which a destructor does not survive (until 3.13), or lets it sleep (from 3.14 on):
  // sleep in both. The process ends with its own exit code meanwhile.
  void take_back() {
    try {
      PyEval_RestoreThread(state_);
    } catch (...) {
      for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
  }

  PyThreadState* state_ = PyEval_SaveThread();
};

// What a kernel returns that runs without the GIL, or what a signal handler raised meanwhile.
template <class Kernel>
auto without_gil(const Kernel& kernel) {
  try {
    ReleasedGil released;
    const std::function<void()> question = [&] { released.run_signal_handlers(); };
    const Stoppable stoppable(question);
    return kernel();
  } catch (...) {
    if (PyErr_Occurred()) throw py::error_already_set();
    throw;
  }
}

template <class T>
T* at(uintptr_t address) {
  return reinterpret_cast<T*>(address);
}

RowsView rows_of(uintptr_t acts, std::vector<int64_t>&& shape, std::vector<int64_t>&& strides, int dtype) {
  return {at<const std::byte>(acts), static_cast<DType>(dtype), std::move(shape), std::move(strides)};
}
LabelsView labels_of(uintptr_t labels, int64_t stride, int dtype) {
  return {at<const std::byte>(labels), itemsize(static_cast<DType>(dtype)), stride};
}
UpdateGrid grid_of(const GridArgument& grid) {
  if (!grid) return {};
  const auto& [kind, w, lr, inverse] = *grid;
  return {static_cast<GridKind>(kind), w, lr, inverse};
}
std::optional<Tolerance> tolerance_of(const ToleranceArgument& tolerance) {
  if (!tolerance) return std::nullopt;
  return Tolerance{tolerance->first, tolerance->second};
}

// Hands the vector's memory to NumPy without a copy.
py::array_t<int64_t> array_of(std::vector<int64_t>&& values) {
  auto* owned = new std::vector<int64_t>(std::move(values));
  const py::capsule owner(owned, [](void* p) { delete static_cast<std::vector<int64_t>*>(p); });
  return py::array_t<int64_t>(static_cast<py::ssize_t>(owned->size()), owned->data(), owner);
}
py::tuple tuple_of(BundleCounts&& c) {
  return py::make_tuple(c.num_bundles, c.num_nan_rows, c.num_conflicting, c.num_conflicting_rows,
                        array_of(std::move(c.label_counts)), array_of(std::move(c.starts)));
}

void bind_cpu(py::module_ module) {
  module.def("bundle_ids",
             [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype,
                const GridArgument& grid, const ToleranceArgument& tolerance, uintptr_t ids, int num_threads) {
               return without_gil([&] {
                 const auto near = tolerance_of(tolerance);
                 return cpu::bundle_ids(rows_of(acts, std::move(shape), std::move(strides), dtype), grid_of(grid),
                                        near ? &*near : nullptr, at<int64_t>(ids), num_threads);
               });
             });
  module.def("count_bundles", [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype,
                                 uintptr_t labels, int64_t label_stride, int label_dtype, const GridArgument& grid,
                                 const ToleranceArgument& tolerance, bool check_nan, int num_threads) {
    return tuple_of(without_gil([&] {
      const auto near = tolerance_of(tolerance);
      return cpu::count_bundles(rows_of(acts, std::move(shape), std::move(strides), dtype),
                                labels_of(labels, label_stride, label_dtype), grid_of(grid), near ? &*near : nullptr,
                                check_nan, num_threads);
    }));
  });
  module.def("row_fingerprints", [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype,
                                    const GridArgument& grid, const KeyArgument& key, uintptr_t fingerprints,
                                    uintptr_t holds_nan, int num_threads) {
    return without_gil([&] {
      cpu::row_fingerprints(rows_of(acts, std::move(shape), std::move(strides), dtype), grid_of(grid),
                            {key.first, key.second}, at<uint64_t>(fingerprints), at<uint8_t>(holds_nan), num_threads);
    });
  });
  module.def("conflict_margin", [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype,
                                   uintptr_t labels, int64_t label_stride, int label_dtype, int num_threads) {
    return without_gil([&] {
      return cpu::conflict_margin(rows_of(acts, std::move(shape), std::move(strides), dtype),
                                  labels_of(labels, label_stride, label_dtype), num_threads);
    });
  });
  module.def("require", &cpu::require);
}

using LayerArgument = std::tuple<uintptr_t, std::vector<int64_t>, std::vector<int64_t>, int>;

cuda::Stream stream_of(int device, uintptr_t stream) { return {device, at<void>(stream)}; }
std::vector<RowsView> views_of(std::vector<LayerArgument>&& layers) {
  std::vector<RowsView> views;
  for (auto& [acts, shape, strides, dtype] : layers)
    views.push_back(rows_of(acts, std::move(shape), std::move(strides), dtype));
  return views;
}
py::list list_of(std::vector<BundleCounts>&& counts) {
  py::list tuples;
  for (BundleCounts& of_layer : counts) tuples.append(tuple_of(std::move(of_layer)));
  return tuples;
}

void bind_cuda(py::module_ module) {
  module.def("bundle_ids", [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype,
                              const GridArgument& grid, const ToleranceArgument& tolerance, uintptr_t ids, int device,
                              uintptr_t stream) {
    return without_gil([&] {
      const auto near = tolerance_of(tolerance);
      cuda::bundle_ids(rows_of(acts, std::move(shape), std::move(strides), dtype), grid_of(grid),
                       near ? &*near : nullptr, at<int64_t>(ids), stream_of(device, stream));
    });
  });
  module.def("count_bundles", [](std::vector<LayerArgument> layers, uintptr_t labels, int64_t label_stride,
                                 int label_dtype, const GridArgument& grid, const ToleranceArgument& tolerance,
                                 bool check_nan, int device, uintptr_t stream) {
    return list_of(without_gil([&] {
      const auto near = tolerance_of(tolerance);
      return cuda::count_bundles(views_of(std::move(layers)), labels_of(labels, label_stride, label_dtype),
                                 grid_of(grid), near ? &*near : nullptr, check_nan, stream_of(device, stream));
    }));
  });
  module.def("queue_bundles",
             [](std::vector<LayerArgument> layers, uintptr_t labels, int64_t label_stride, int label_dtype,
                const GridArgument& grid, bool check_nan, int device, uintptr_t stream) {
               auto read = without_gil([&] {
                 return cuda::queue_bundles(views_of(std::move(layers)), labels_of(labels, label_stride, label_dtype),
                                            grid_of(grid), check_nan, stream_of(device, stream));
               });
               return py::cpp_function([read = std::move(read)] { return list_of(without_gil(read)); });
             });
  module.def("row_fingerprints", [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype,
                                    const GridArgument& grid, const KeyArgument& key, uintptr_t fingerprints,
                                    int device, uintptr_t stream) {
    return without_gil([&] {
      cuda::row_fingerprints(rows_of(acts, std::move(shape), std::move(strides), dtype), grid_of(grid),
                             {key.first, key.second}, at<uint64_t>(fingerprints), stream_of(device, stream));
    });
  });
  module.def("count_fingerprints", [](uintptr_t fingerprints, uintptr_t labels, int64_t num_rows, bool may_hold_nan,
                                      int device, uintptr_t stream) {
    return tuple_of(without_gil([&] {
      return cuda::count_fingerprints({at<const uint64_t>(fingerprints), at<const int64_t>(labels), num_rows},
                                      may_hold_nan, stream_of(device, stream));
    }));
  });
  module.def("conflict_margin",
             [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype, uintptr_t labels,
                int64_t label_stride, int label_dtype, int device, uintptr_t stream) {
               return without_gil([&] {
                 return cuda::conflict_margin(rows_of(acts, std::move(shape), std::move(strides), dtype),
                                              labels_of(labels, label_stride, label_dtype), stream_of(device, stream));
               });
             });
  module.def("queue_margin", [](uintptr_t acts, std::vector<int64_t> shape, std::vector<int64_t> strides, int dtype,
                                uintptr_t labels, int64_t label_stride, int label_dtype, int device, uintptr_t stream) {
    auto read = without_gil([&] {
      return cuda::queue_margin(rows_of(acts, std::move(shape), std::move(strides), dtype),
                                labels_of(labels, label_stride, label_dtype), stream_of(device, stream));
    });
    return py::cpp_function([read = std::move(read)] { return without_gil(read); });
  });
  module.def("wait_for", [](int device, uintptr_t stream, uintptr_t producer) {
    cuda::wait_for(stream_of(device, stream), at<void>(producer));
  });
  module.def("device_of", [](uintptr_t address) { return cuda::device_of(at<const void>(address)); });
  module.def("missing_reason", &cuda::missing_reason);
  module.def("require", &cuda::require);
  module.def("use_launch_shape", &cuda::use_launch_shape, py::arg("blocks"), py::arg("threads"),
             py::arg("rows_of_a_block") = 0);
}

py::tuple count_fingerprints(const std::vector<std::tuple<uintptr_t, uintptr_t, int64_t>>& blocks, int num_threads) {
  return tuple_of(without_gil([&] {
    std::vector<FingerprintBlock> views;
    for (const auto& [fingerprints, labels, num_rows] : blocks)
      views.push_back({at<const uint64_t>(fingerprints), at<const int64_t>(labels), num_rows});
    return cpu::count_fingerprints(views, num_threads);
  }));
}

py::dict build_info() {
  py::dict info;
  info["compiler"] = CBKERNELS_COMPILER;
  info["flags"] = CBKERNELS_FLAGS;
  info["cuda"] = cuda::is_built();
  info["cuda_reason"] = cuda::build_reason();
  info["cuda_architectures"] = cuda::architectures();
  info["instruction_sets"] = instruction_sets();
  info["instruction_set"] = instruction_set_in_use().name;
  info["num_dtypes"] = num_dtypes;
  info["pointer_bits"] = 8 * static_cast<int>(sizeof(void*));
  return info;
}

py::dict last_work_of_this_thread() {
  const Work& work = last_work();
  py::dict counters;
  counters["bytes_total"] = work.bytes_total;
  counters["bytes_touched"] = work.bytes_touched;
  counters["rows_sampled"] = work.rows_sampled;
  counters["keys_in_tables"] = work.keys_in_tables;
  counters["rows_compared"] = work.rows_compared;
  counters["rows_fingerprinted"] = work.rows_fingerprinted;
  counters["rows_searched"] = work.rows_searched;
  counters["collisions"] = work.collisions;
  counters["comparisons"] = work.comparisons;
  counters["threads"] = work.threads;
  counters["parallel_regions"] = work.parallel_regions;
  counters["launches"] = work.launches;
  return counters;
}

// For the benchmarks: one plain read of memory, the yardstick of all times.
uint64_t read_bytes(uintptr_t address, int64_t num_bytes, int num_threads) {
  return without_gil([&] {
    const RowKernels& kernels = instruction_set_in_use().row_kernels(Element::bits);
    std::atomic<uint64_t> total{0};
    const int64_t share = (num_bytes / num_threads + 127) / 128 * 128 + 128;
    parallel_for(num_bytes, share, num_threads, [&](int64_t begin, int64_t end) {
      total ^= kernels.read(at<const std::byte>(address) + begin, end - begin);
    });
    return total.load();
  });
}

}  // namespace

// What pybind11 makes of the name is called from the way in below.
#define PyInit__core init_in_main_interpreter
// Python needs no lock here: what calls share is atomic, behind a mutex or of one thread, and the memory that a call
// reads is its caller's.
PYBIND11_MODULE(_core, module, py::mod_gil_not_used()) {
  module.attr("version") = CBKERNELS_VERSION;
  bind_cpu(module.def_submodule("cpu"));
  bind_cuda(module.def_submodule("cuda"));
  module.def("count_fingerprints", &count_fingerprints);
  module.def("build_info", &build_info);
  module.def("use_instruction_set", &use_instruction_set);
  module.def("use_routing_bits", &use_routing_bits);
  module.def("use_routing_key", [](const std::optional<KeyArgument>& key) {
    const fingerprint::Key chosen = key ? fingerprint::Key{key->first, key->second} : random_key();
    use_routing_key(chosen);
  });
  module.def("last_work", &last_work_of_this_thread);
  module.def("address_of", [](const py::array& array) { return reinterpret_cast<uintptr_t>(array.data()); });
  module.def("read_bytes", &read_bytes);
#ifdef CBKERNELS_EMULATED
  bind_emulation(module);
#endif
}
#undef PyInit__core

// Signals and the state of pybind11 belong to the main interpreter; elsewhere pybind11 would wait for itself for ever.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
  if (PyInterpreterState_Get() == PyInterpreterState_Main()) return init_in_main_interpreter();
  PyErr_SetString(PyExc_ImportError,
                  "cbkernels cannot be imported in a sub-interpreter; import it in the main interpreter of a process");
  return nullptr;
}
