// Inner loops of conflict_margin over contiguous floats or doubles. Included once per instruction set by
// row_kernels_loops.h.
#pragma once
#include "simd.h"

namespace cbkernels {

template <class Value>
constexpr int64_t values_at_once = 256 / sizeof(Value);

template <class Value>
struct DistanceKernels {
  // Where the first values_at_once lie of which an |a[k] - b[k]|, rounded to Value, is at least the bound; else count.
  int64_t (*apart)(const Value* a, const Value* b, int64_t count, Value bound);
  // Writes value k of eight rows to columns + k * stride, side by side.
  void (*turn)(const Value* const* rows, int64_t count, Value* columns, int64_t stride);
  // The smallest and the largest of `count` values, a multiple of 64; NaN are passed over.
  void (*range)(const Value* values, int64_t count, Value* lowest, Value* highest);
  // One bit a value, `count` a multiple of 64: at most `low`, at least `high`.
  void (*tails)(const Value* values, int64_t count, Value low, Value high, uint64_t* at_most, uint64_t* at_least);
};

namespace simd {
namespace {

template <class Value>
struct VectorOf;
template <>
struct VectorOf<float> {
  typedef Floats type;
  typedef Mask32 mask;
};
template <>
struct VectorOf<double> {
  typedef Doubles type;
  typedef Mask64 mask;
};

template <class Value>
inline typename VectorOf<Value>::type load_values(const Value* from) {
  typename VectorOf<Value>::type v;
  memcpy(&v, from, sizeof v);
  return v;
}
inline Floats magnitude(Floats v) { return (Floats)((Words)v & 0x7fffffffu); }
inline Doubles magnitude(Doubles v) { return (Doubles)((Longs)v & 0x7fffffffffffffffull); }

template <class Value>
int64_t apart(const Value* a, const Value* b, int64_t count, Value bound) {
  typedef typename VectorOf<Value>::type V;
  constexpr int64_t lanes = vector_bytes / sizeof(Value), piece = values_at_once<Value>;
  const V limit = splat(bound);
  int64_t k = 0;
  for (; k + piece <= count; k += piece) {
    typename VectorOf<Value>::mask beyond{};
    for (int64_t u = 0; u < piece; u += lanes)
      beyond |= magnitude(load_values(a + k + u) - load_values(b + k + u)) >= limit;
    if (any((Words)beyond)) return k;
  }
  for (int64_t u = k; u < count; ++u) {
    const Value d = a[u] - b[u];
    if ((d < 0 ? -d : d) >= bound) return k;
  }
  return count;
}

template <class Value>
void turn(const Value* const* rows, int64_t count, Value* columns, int64_t stride) {
  int64_t k = 0;
#if defined(__SSE2__)
  if constexpr (sizeof(Value) == 4)
    for (; k + 4 <= count; k += 4)
      for (int half = 0; half < 8; half += 4) {
        __m128 a = _mm_loadu_ps(rows[half] + k), b = _mm_loadu_ps(rows[half + 1] + k),
               c = _mm_loadu_ps(rows[half + 2] + k), d = _mm_loadu_ps(rows[half + 3] + k);
        _MM_TRANSPOSE4_PS(a, b, c, d);
        Value* to = columns + k * stride + half;
        _mm_storeu_ps(to, a);
        _mm_storeu_ps(to + stride, b);
        _mm_storeu_ps(to + 2 * stride, c);
        _mm_storeu_ps(to + 3 * stride, d);
      }
#endif
  for (; k < count; ++k)
    for (int r = 0; r < 8; ++r) columns[k * stride + r] = rows[r][k];
}

template <class Value>
void range(const Value* values, int64_t count, Value* lowest, Value* highest) {
  typedef typename VectorOf<Value>::type V;
  constexpr int64_t lanes = vector_bytes / sizeof(Value);
  constexpr Value infinite = __builtin_huge_valf();
  V low[2] = {splat(infinite), splat(infinite)}, high[2] = {splat(-infinite), splat(-infinite)};
  for (int64_t k = 0; k < count; k += 2 * lanes)
    for (int64_t u = 0; u < 2; ++u) {
      const V v = load_values(values + k + u * lanes);
      low[u] = v < low[u] ? v : low[u];
      high[u] = v > high[u] ? v : high[u];
    }
  *lowest = infinite;
  *highest = -infinite;
  for (int64_t lane = 0; lane < 2 * lanes; ++lane) {
    const Value l = low[lane / lanes][lane % lanes], h = high[lane / lanes][lane % lanes];
    *lowest = l < *lowest ? l : *lowest;
    *highest = h > *highest ? h : *highest;
  }
}

inline uint64_t bits_of(Mask32 mask) {
#if defined(__AVX2__)
  return (uint32_t)_mm256_movemask_ps((__m256)mask);
#elif defined(__SSE2__)
  __m128 half[2];
  memcpy(half, &mask, sizeof mask);
  return (uint32_t)(_mm_movemask_ps(half[0]) | _mm_movemask_ps(half[1]) << 4);
#else
  uint64_t bits = 0;
  for (int lane = 0; lane < 8; ++lane) bits |= (uint64_t)(mask[lane] & 1) << lane;
  return bits;
#endif
}
inline uint64_t bits_of(Mask64 mask) {
#if defined(__AVX2__)
  return (uint32_t)_mm256_movemask_pd((__m256d)mask);
#else
  uint64_t bits = 0;
  for (int lane = 0; lane < 4; ++lane) bits |= (uint64_t)(mask[lane] & 1) << lane;
  return bits;
#endif
}

template <class Value>
void tails(const Value* values, int64_t count, Value low, Value high, uint64_t* at_most, uint64_t* at_least) {
  constexpr int64_t lanes = vector_bytes / sizeof(Value);
  for (int64_t k = 0; k < count; k += 64) {
    uint64_t below = 0, above = 0;
    for (int64_t u = 0; u < 64; u += lanes) {
      const auto v = load_values(values + k + u);
      below |= bits_of((typename VectorOf<Value>::mask)(v <= splat(low))) << u;
      above |= bits_of((typename VectorOf<Value>::mask)(v >= splat(high))) << u;
    }
    at_most[k / 64] = below;
    at_least[k / 64] = above;
  }
}

template <class Value>
constexpr DistanceKernels<Value> distance_kernels_of() {
  return {apart<Value>, turn<Value>, range<Value>, tails<Value>};
}

}  // namespace
}  // namespace simd
}  // namespace cbkernels
