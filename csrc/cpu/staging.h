// Copies a run of values, any stride apart, into a contiguous piece, converting them to what the row kernels
// read: the same bits, float32 or float64 (nearest even, overflow to infinity). Included once per instruction
// set by row_kernels_loops.h, because float16 has an instruction of its own. Cost: one pass through an L1 cache.
#pragma once
#include "../views.h"
#include "simd.h"

namespace cbkernels {

enum class Staged : int { bits, float32, float64 };
// `count` values from `from`, `stride` bytes apart, to `to`.
using StageRun = void (*)(const std::byte* from, int64_t stride, int64_t count, std::byte* to);
// The same for rows whose values lie beside each other (a column-major matrix): a cache line is read once for all
// of them.
using StageTile = void (*)(const std::byte* const* from, int num_rows, int64_t stride, int64_t count,
                           std::byte* const* to);
struct Stagers {
  StageRun run;
  StageTile tile;
};

namespace simd {
namespace {

inline uint32_t float16_to_float32_bits(uint32_t h) {
  const uint32_t sign = (h & 0x8000u) << 16, magnitude = h & 0x7fffu;
  if (magnitude >= 0x7c00u) return sign | 0x7f800000u | (magnitude & 0x3ffu) << 13;
  if (magnitude >= 0x0400u) return sign | ((magnitude << 13) + 0x38000000u);
  const float subnormal = (float)magnitude * 0x1p-24f;
  uint32_t bits;
  memcpy(&bits, &subnormal, 4);
  return sign | bits;
}

struct HalfFloat { uint16_t bits; };
struct BrainFloat { uint16_t bits; };
struct E4M3 { uint8_t bits; };
struct E5M2 { uint8_t bits; };
struct Boolean { uint8_t byte; };

inline float from_bits(uint32_t bits) {
  float v;
  memcpy(&v, &bits, 4);
  return v;
}
template <class To, class From>
inline To convert(From v) {
  return (To)v;
}
template <class To>
inline To convert(HalfFloat v) {
  return (To)from_bits(float16_to_float32_bits(v.bits));
}
template <class To>
inline To convert(BrainFloat v) {
  return (To)from_bits((uint32_t)v.bits << 16);
}
template <class To>
inline To convert(E5M2 v) {
  return (To)from_bits(float16_to_float32_bits((uint32_t)v.bits << 8));
}
template <class To>
inline To convert(E4M3 v) {  // 1-4-3, bias 7, no infinity, all ones is NaN
  const uint32_t sign = (v.bits & 0x80u) << 24, magnitude = v.bits & 0x7fu;
  if (magnitude == 0x7fu) return (To)from_bits(sign | 0x7fc00000u);
  if (magnitude >= 8u) return (To)from_bits(sign | ((magnitude << 20) + (120u << 23)));
  const float subnormal = (float)magnitude * 0x1p-9f;
  return (To)(sign ? -subnormal : subnormal);
}
template <class To>
inline To convert(Boolean v) {
  return (To)(v.byte != 0);
}

template <class From, class To>
void convert_run(const std::byte* from, int64_t stride, int64_t count, std::byte* to) {
  int64_t i = 0;
  if (stride == (int64_t)sizeof(From)) {
#if defined(__F16C__)
    if constexpr (sizeof(From) == sizeof(HalfFloat) && __is_same(From, HalfFloat) && __is_same(To, float)) {
      for (; i + 8 <= count; i += 8)
        _mm256_storeu_ps((float*)(to + 4 * i), _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)(from + 2 * i))));
    }
#endif
    for (; i < count; ++i) {
      From v;
      memcpy(&v, from + i * sizeof(From), sizeof v);
      const To converted = convert<To>(v);
      memcpy(to + i * sizeof(To), &converted, sizeof converted);
    }
    return;
  }
  for (; i < count; ++i) {
    From v;
    memcpy(&v, from + i * stride, sizeof v);
    const To converted = convert<To>(v);
    memcpy(to + i * sizeof(To), &converted, sizeof converted);
  }
}

template <class Bits>
void copy_run(const std::byte* from, int64_t stride, int64_t count, std::byte* to) {
  if (stride == (int64_t)sizeof(Bits)) {
    memcpy(to, from, (size_t)count * sizeof(Bits));
    return;
  }
  for (int64_t i = 0; i < count; ++i) memcpy(to + i * sizeof(Bits), from + i * stride, sizeof(Bits));
}

template <class From, class To>
void convert_tile(const std::byte* const* from, int num_rows, int64_t stride, int64_t count, std::byte* const* to) {
  constexpr int64_t ahead = 24;  // values: every one is in another cache line, which no prefetcher expects
  for (int64_t i = 0; i < count; ++i) {
    if (i + ahead < count) {
      __builtin_prefetch(from[0] + (i + ahead) * stride);
      __builtin_prefetch(from[num_rows - 1] + (i + ahead) * stride);
    }
    for (int r = 0; r < num_rows; ++r) {
      From v;
      memcpy(&v, from[r] + i * stride, sizeof v);
      const To converted = convert<To>(v);
      memcpy(to[r] + i * sizeof(To), &converted, sizeof converted);
    }
  }
}

template <class From, class To>
constexpr Stagers converting() {
  return {convert_run<From, To>, convert_tile<From, To>};
}
template <class Bits>
constexpr Stagers copying() {
  return {copy_run<Bits>, convert_tile<Bits, Bits>};
}

template <class To>
Stagers converting_from(DType from) {
  switch (from) {
    case DType::float64: return converting<double, To>();
    case DType::float32: return converting<float, To>();
    case DType::float16: return converting<HalfFloat, To>();
    case DType::bfloat16: return converting<BrainFloat, To>();
    case DType::float8_e4m3fn: return converting<E4M3, To>();
    case DType::float8_e5m2: return converting<E5M2, To>();
    case DType::int64: return converting<int64_t, To>();
    case DType::int32: return converting<int32_t, To>();
    case DType::int16: return converting<int16_t, To>();
    case DType::int8: return converting<int8_t, To>();
    case DType::uint64: return converting<uint64_t, To>();
    case DType::uint32: return converting<uint32_t, To>();
    case DType::uint16: return converting<uint16_t, To>();
    case DType::uint8: return converting<uint8_t, To>();
    case DType::boolean: return converting<Boolean, To>();
  }
  return {};
}

inline Stagers stagers_of(DType from, Staged to) {
  if (to == Staged::float32) return converting_from<float>(from);
  if (to == Staged::float64) return converting_from<double>(from);
  switch (itemsize(from)) {
    case 8: return copying<uint64_t>();
    case 4: return copying<uint32_t>();
    case 2: return copying<uint16_t>();
    default: return copying<uint8_t>();
  }
}

}  // namespace
}  // namespace simd
}  // namespace cbkernels
