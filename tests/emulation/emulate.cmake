# CBKERNELS_EMULATE_CUDA: csrc/cuda compiled as plain C++ against tests/emulation/include, with the emulated devices
# and the hooks for tests. The same module otherwise.
file(GLOB cuda_sources CONFIGURE_DEPENDS csrc/cuda/*.cu)
list(APPEND cuda_sources "${CMAKE_CURRENT_SOURCE_DIR}/tests/emulation/self_test.cu")
set_source_files_properties(${cuda_sources} PROPERTIES
  LANGUAGE CXX
  COMPILE_OPTIONS "-x;c++;-Wno-unknown-pragmas"
  INCLUDE_DIRECTORIES "${CMAKE_CURRENT_SOURCE_DIR}/tests/emulation/include"
  COMPILE_DEFINITIONS "CBKERNELS_CUDA_ARCHITECTURES=\"emulated\"")
set(memory_accesses)
if(NOT CBKERNELS_SANITIZE)  # calls it before every load and store of a kernel
  set(memory_accesses tests/emulation/memory_accesses.cpp)
  set(kernel_sources ${cuda_sources})
  list(FILTER kernel_sources EXCLUDE REGEX "/(pinned|runtime).cu$")
  set_property(SOURCE ${kernel_sources} APPEND PROPERTY COMPILE_OPTIONS -fsanitize=thread)
endif()
set_source_files_properties(csrc/module.cpp PROPERTIES COMPILE_DEFINITIONS CBKERNELS_EMULATED)
list(APPEND cuda_sources
  ${memory_accesses}
  tests/emulation/atomics.cpp
  tests/emulation/fibers.cpp
  tests/emulation/module_hooks.cpp
  tests/emulation/runtime_api.cpp
  tests/emulation/scheduler.cpp
  tests/emulation/self_test_calls.cpp)
set(no_cuda_because "")
message(STATUS "cbkernels: CUDA backend: emulated on the CPU, for tests")
