// Takes the place of CUDA's header of this name: the sources in csrc/cuda compile unchanged with a plain C++ compiler
// and run on the CPU, one fiber for each CUDA thread. It offers what those sources use and nothing else.
// Next: emulation/device_language.h (in kernels), emulation/runtime_api.h (around them), ../emulation.h (for tests).
#pragma once
#include "emulation/device_language.h"
#include "emulation/runtime_api.h"
