// How the distance of two values is computed, and how distances are kept and compared, for every kind of value.
//
// Values that fit float32 are compared in float32, two instructions a pair and column: rounding a difference never
// changes an order, so the closest pair is among the pairs whose rounded distance is smallest, and only those are
// compared again in float64.
#pragma once
#include "device.h"
#include "elements.h"

namespace cbkernels::cuda::margin {

using Bits = unsigned long long;
constexpr Bits no_distance = ~0ull;  // no pattern of a distance is above it
constexpr uint32_t no_rounded = ~0u;

// Patterns are ordered like the distances that they stand for.
struct Best {
  Bits distance;  // of a pair that exists
  uint32_t rounded;  // pairs whose rounded distance reaches this are not the best: the pattern behind the smallest one
  uint32_t has_pair;
};

template <class T>
CBKERNELS_DEVICE T smallest_of_warp(T value) {
  for (int step = warp_size / 2; step > 0; step /= 2) {
    const T theirs = __shfl_xor_sync(whole_warp, value, step);
    value = theirs < value ? theirs : value;
  }
  return value;
}

// Both call body with what makes a value of its zero-extended bits: one choice for many values.
template <class Body>
CBKERNELS_DEVICE bool with_wide_conversion(DType dtype, const Body& body) {  // false: not a wide type
  switch (dtype) {
    case DType::float64: body([](uint64_t bits) { return __longlong_as_double(static_cast<long long>(bits)); }); break;
    case DType::int32: body([](uint64_t bits) { return static_cast<double>(static_cast<int32_t>(bits)); }); break;
    case DType::uint32: body([](uint64_t bits) { return static_cast<double>(static_cast<uint32_t>(bits)); }); break;
    default: return false;
  }
  return true;
}
template <class Body>
CBKERNELS_DEVICE void with_narrow_conversion(DType dtype, const Body& body) {  // what fits float32
  switch (dtype) {
    case DType::float32: return body([](uint64_t bits) { return __uint_as_float(static_cast<uint32_t>(bits)); });
    case DType::bfloat16: return body([](uint64_t bits) { return float_of_bfloat16(static_cast<uint32_t>(bits)); });
    case DType::float8_e4m3fn:
      return body([](uint64_t bits) { return float_of_float8_e4m3fn(static_cast<uint32_t>(bits)); });
    case DType::float16:
    case DType::float8_e5m2: {
      const int shift = dtype == DType::float16 ? 0 : 8;
      return body([shift](uint64_t bits) { return float_of_float16(static_cast<uint32_t>(bits) << shift); });
    }
    case DType::int8:
    case DType::int16: {
      const int shift = dtype == DType::int16 ? 16 : 24;
      return body([shift](uint64_t bits) {
        return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(bits) << shift) >> shift);
      });
    }
    default: return body([](uint64_t bits) { return static_cast<float>(static_cast<uint32_t>(bits)); });
  }
}

// How distances are computed. `Worst` is the maximum so far over some columns; a difference of two equal infinities is
// a NaN, which loses every comparison, so it counts as 0.
struct Doubles {  // exact, or rounded once
  using Value = double;
  using Worst = double;
  using Pattern = Bits;
  static constexpr bool is_rounded = false;
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_tile(DType dtype, const Body& body) {
    with_wide_conversion(dtype, body);
  }
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_scan(DType dtype, const Body& body) {
    if (!with_wide_conversion(dtype, body)) with_narrow_conversion(dtype, body);
  }
  CBKERNELS_DEVICE static void include(Worst& worst, Value a, Value b) {
    const double distance = fabs(a - b);
    worst = distance > worst ? distance : worst;
  }
  CBKERNELS_DEVICE static Pattern pattern(Worst worst) { return static_cast<Bits>(__double_as_longlong(worst)); }
  CBKERNELS_DEVICE static Worst of_pattern(Pattern bits) { return __longlong_as_double(static_cast<long long>(bits)); }
  CBKERNELS_DEVICE static Pattern* limit(Best* best) { return &best->distance; }
  CBKERNELS_DEVICE static Pattern limit_of(Pattern pattern) { return pattern; }
};
struct Integers {  // of 64 bits; signed ones are moved up by 2^63, which changes no distance
  using Value = uint64_t;
  using Worst = Bits;
  using Pattern = Bits;
  static constexpr bool is_rounded = false;
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_tile(DType dtype, const Body& body) {
    const uint64_t sign = dtype == DType::int64 ? uint64_t{1} << 63 : 0;
    body([sign](uint64_t bits) { return bits ^ sign; });
  }
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_scan(DType dtype, const Body& body) {
    convert_in_tile(dtype, body);
  }
  CBKERNELS_DEVICE static void include(Worst& worst, Value a, Value b) {
    const Bits distance = a > b ? a - b : b - a;
    worst = distance > worst ? distance : worst;
  }
  CBKERNELS_DEVICE static Pattern pattern(Worst worst) { return worst; }
  CBKERNELS_DEVICE static Worst of_pattern(Pattern bits) { return bits; }
  CBKERNELS_DEVICE static Pattern* limit(Best* best) { return &best->distance; }
  CBKERNELS_DEVICE static Pattern limit_of(Pattern pattern) { return pattern; }
};
struct Floats {  // rounded to float32
  using Value = float;
  using Worst = float;
  using Pattern = uint32_t;
  static constexpr bool is_rounded = true;
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_tile(DType dtype, const Body& body) {
    with_narrow_conversion(dtype, body);
  }
  CBKERNELS_DEVICE static void include(Worst& worst, Value a, Value b) { worst = fmaxf(worst, fabsf(a - b)); }
  CBKERNELS_DEVICE static Pattern pattern(Worst worst) { return __float_as_uint(worst); }
  CBKERNELS_DEVICE static Worst of_pattern(Pattern bits) { return __uint_as_float(bits); }
  CBKERNELS_DEVICE static Pattern* limit(Best* best) { return &best->rounded; }
  CBKERNELS_DEVICE static Pattern limit_of(Pattern pattern) { return pattern + 1; }  // equal ones are compared again
};

}  // namespace cbkernels::cuda::margin
