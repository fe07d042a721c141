// Atomics: another thread may run before, none in between.
#include "include/emulation/device_language.h"

namespace {

template <class T, class Change>
T change(T* address, const Change& changed) {
  emulation::may_interrupt();
  const T before = *address;
  *address = changed(before);
  return before;
}

}  // namespace

#define EMULATION_ATOMICS(T)                                                      \
  T atomicAdd(T* address, T value) {                                              \
    return change(address, [=](T old) { return static_cast<T>(old + value); });   \
  }                                                                               \
  T atomicMin(T* address, T value) {                                              \
    return change(address, [=](T old) { return value < old ? value : old; });     \
  }                                                                               \
  T atomicMax(T* address, T value) {                                              \
    return change(address, [=](T old) { return old < value ? value : old; });     \
  }                                                                               \
  T atomicOr(T* address, T value) {                                               \
    return change(address, [=](T old) { return old | value; });                   \
  }                                                                               \
  T atomicAnd(T* address, T value) {                                              \
    return change(address, [=](T old) { return old & value; });                   \
  }                                                                               \
  T atomicExch(T* address, T value) {                                             \
    return change(address, [=](T) { return value; });                             \
  }                                                                               \
  T atomicCAS(T* address, T expected, T value) {                                  \
    return change(address, [=](T old) { return old == expected ? value : old; }); \
  }
EMULATION_ATOMICS(int)
EMULATION_ATOMICS(unsigned)
EMULATION_ATOMICS(unsigned long long)
