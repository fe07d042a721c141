// The hooks of emulation.h for Python, as `_core.emulation`; module.cpp calls bind_emulation in the emulated build.
#include <pybind11/pybind11.h>

#include "emulation.h"

namespace emulation {
void bind_self_tests(pybind11::module_& hooks);  // self_test_calls.cpp
}

void bind_emulation(pybind11::module_& module) {
  pybind11::module_ hooks = module.def_submodule("emulation");
  hooks.def("schedule", &emulation::schedule);
  hooks.def("counters", [] {
    const emulation::Counters now = emulation::counters();
    pybind11::dict counters;
    counters["launches"] = now.launches;
    counters["threads_run"] = now.threads_run;
    counters["collectives"] = now.collectives;
    counters["synchronisations"] = now.synchronisations;
    counters["pageable_copies"] = now.pageable_copies;
    counters["api_calls"] = now.api_calls;
    counters["allocations"] = now.allocations;
    counters["live_bytes"] = now.live_bytes;
    counters["peak_bytes"] = now.peak_bytes;
    counters["live_pinned_bytes"] = now.live_pinned_bytes;
    counters["live_events"] = now.live_events;
    counters["live_pools"] = now.live_pools;
    counters["errors"] = now.errors;
    return counters;
  });
  hooks.def("launches", &emulation::launches);
  hooks.def("reset_counters", &emulation::reset_counters);
  hooks.def("last_error", &emulation::last_error);
  hooks.def("fail_api_call", &emulation::fail_api_call);
  hooks.def("pretend_no_device", &emulation::pretend_no_device);
  hooks.def("make_copies_look_unfinished", &emulation::make_copies_look_unfinished);
  hooks.def("device_of_this_thread", &emulation::device_of_this_thread);
  hooks.def("capture", &emulation::capture);
  hooks.def("replay_copies", &emulation::replay_copies);
  hooks.def("forget_graph", &emulation::forget_graph);
  hooks.def("allocate_fenced", &emulation::allocate_fenced);
  hooks.def("free_fenced", &emulation::free_fenced);
  hooks.def("register_device_memory", &emulation::register_device_memory);
  emulation::bind_self_tests(hooks);
}
