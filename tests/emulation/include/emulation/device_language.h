// CUDA's device language for a plain C++ compiler: qualifiers, indices, intrinsics, atomics, barriers, collectives.
// Overloads are as narrow as CUDA's, so that what nvcc would refuse does not compile here either.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "threads.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__  // the standard library says __attribute__((__noinline__))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(bytes) __attribute__((aligned(bytes)))

// --- indices and small vectors ------------------------------------------------------------------------------

struct uint3 { unsigned x, y, z; };
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
extern uint3 threadIdx, blockIdx;  // of the running thread; the scheduler writes them
extern dim3 blockDim, gridDim;

struct alignas(8) int2 { int x, y; };
struct alignas(8) uint2 { unsigned x, y; };
struct alignas(16) uint4 { unsigned x, y, z, w; };
struct alignas(16) ulonglong2 { unsigned long long x, y; };
inline int2 make_int2(int x, int y) { return {x, y}; }
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }
inline uint4 make_uint4(unsigned x, unsigned y, unsigned z, unsigned w) { return {x, y, z, w}; }
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }

// --- intrinsics of one thread -------------------------------------------------------------------------------

namespace emulation {
template <class To, class From>
To bits_as(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace emulation

inline unsigned __float_as_uint(float value) { return emulation::bits_as<unsigned>(value); }
inline float __uint_as_float(unsigned value) { return emulation::bits_as<float>(value); }
inline int __float_as_int(float value) { return emulation::bits_as<int>(value); }
inline float __int_as_float(int value) { return emulation::bits_as<float>(value); }
inline long long __double_as_longlong(double value) { return emulation::bits_as<long long>(value); }
inline double __longlong_as_double(long long value) { return emulation::bits_as<double>(value); }
inline long long __double2ll_rn(double value) { return std::llrint(value); }

inline int __popc(unsigned value) { return __builtin_popcount(value); }
inline int __popcll(unsigned long long value) { return __builtin_popcountll(value); }
inline int __ffs(int value) { return __builtin_ffs(value); }
inline int __ffs(unsigned value) { return __builtin_ffs(static_cast<int>(value)); }
inline int __clz(int value) { return value == 0 ? 32 : __builtin_clz(static_cast<unsigned>(value)); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  __extension__ typedef unsigned __int128 wide;
  return static_cast<unsigned long long>((static_cast<wide>(a) * b) >> 64);
}

template <class T>
std::enable_if_t<std::is_arithmetic_v<T>, T> min(T a, T b) {
  return b < a ? b : a;
}
template <class T>
std::enable_if_t<std::is_arithmetic_v<T>, T> max(T a, T b) {
  return a < b ? b : a;
}

// --- memory that other threads write ------------------------------------------------------------------------

template <class T>
T __ldg(const T* address) {  // the same for all of a launch: no switch here
  static_assert(std::is_trivially_copyable_v<T>);
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  static_assert(std::is_trivially_copyable_v<T>);
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  static_assert(std::is_trivially_copyable_v<T>);
  emulation::may_interrupt();
  return *address;
}

inline void __threadfence() {}  // one processor runs all threads: there is no order to restore
inline void __threadfence_block() {}
inline void __nanosleep(unsigned) { emulation::sleep(); }

// atomics.cpp: not interrupted between the read and the write, as code in this file would be
#define EMULATION_ATOMICS(T)         \
  T atomicAdd(T* address, T value);  \
  T atomicMin(T* address, T value);  \
  T atomicMax(T* address, T value);  \
  T atomicOr(T* address, T value);   \
  T atomicAnd(T* address, T value);  \
  T atomicExch(T* address, T value); \
  T atomicCAS(T* address, T expected, T value);
EMULATION_ATOMICS(int)
EMULATION_ATOMICS(unsigned)
EMULATION_ATOMICS(unsigned long long)
#undef EMULATION_ATOMICS

// --- barriers and collectives: whole blocks, whole warps ----------------------------------------------------

inline void __syncthreads() { emulation::wait_for_block(emulation::BlockBarrier::syncthreads, false); }
inline int __syncthreads_or(int predicate) {
  return emulation::wait_for_block(emulation::BlockBarrier::syncthreads_or, predicate != 0) ? 1 : 0;
}
inline void __syncwarp(unsigned mask = 0xffffffffu) { emulation::exchange(emulation::Collective::syncwarp, mask, 0); }

namespace emulation {
template <class T>
uint64_t sent(T value) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "CUDA shuffles 32 and 64 bits");
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  return bits;
}
template <class T>
T received(uint64_t bits) {
  T value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}
inline unsigned ballot(const uint64_t* values) {
  unsigned lanes = 0;
  for (int lane = 0; lane < 32; ++lane) lanes |= values[lane] != 0 ? 1u << lane : 0u;
  return lanes;
}
}  // namespace emulation

template <class T>
T __shfl_sync(unsigned mask, T value, int from) {
  const uint64_t* values = emulation::exchange(emulation::Collective::shuffle, mask, emulation::sent(value));
  return emulation::received<T>(values[from & 31]);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned step) {
  const uint64_t* values = emulation::exchange(emulation::Collective::shuffle_up, mask, emulation::sent(value));
  const unsigned lane = static_cast<unsigned>(emulation::lane());
  return emulation::received<T>(values[lane < step ? lane : lane - step]);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lanes) {
  const uint64_t* values = emulation::exchange(emulation::Collective::shuffle_xor, mask, emulation::sent(value));
  return emulation::received<T>(values[(emulation::lane() ^ lanes) & 31]);
}
inline int __any_sync(unsigned mask, int predicate) {
  return emulation::ballot(emulation::exchange(emulation::Collective::any, mask, predicate != 0)) != 0;
}
inline int __all_sync(unsigned mask, int predicate) {
  return emulation::ballot(emulation::exchange(emulation::Collective::all, mask, predicate != 0)) == 0xffffffffu;
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  return emulation::ballot(emulation::exchange(emulation::Collective::ballot, mask, predicate != 0));
}
template <class T>
unsigned __match_any_sync(unsigned mask, T value) {
  const uint64_t* values = emulation::exchange(emulation::Collective::match_any, mask, emulation::sent(value));
  unsigned lanes = 0;
  for (int lane = 0; lane < 32; ++lane) lanes |= values[lane] == emulation::sent(value) ? 1u << lane : 0u;
  return lanes;
}
