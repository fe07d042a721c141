// Inner loops of conflict_margin over contiguous floats or doubles. Included once per instruction set by
// row_kernels_loops.h.
#pragma once
#include "simd.h"

namespace cbkernels {

template <class Value>
struct DistanceKernels {
  // Is some |a[k] - b[k]|, rounded to Value, above the bound? Sets *looked_at to the values compared.
  bool (*apart)(const Value* a, const Value* b, int64_t count, Value bound, int64_t* looked_at);
  // Where |values[k] - centre[k]| is largest; count >= 1.
  int64_t (*farthest)(const Value* values, const Value* centre, int64_t count);
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
bool apart(const Value* a, const Value* b, int64_t count, Value bound, int64_t* looked_at) {
  typedef typename VectorOf<Value>::type V;
  constexpr int64_t lanes = vector_bytes / sizeof(Value), piece = 8 * lanes;
  const V limit = splat(bound);
  int64_t k = 0;
  for (; k + piece <= count; k += piece) {
    typename VectorOf<Value>::mask beyond{};
    for (int64_t u = 0; u < piece; u += lanes)
      beyond |= magnitude(load_values(a + k + u) - load_values(b + k + u)) > limit;
    if (any((Words)beyond)) {
      *looked_at = k + piece;
      return true;
    }
  }
  *looked_at = count;
  for (; k < count; ++k) {
    const Value d = a[k] - b[k];
    if ((d < 0 ? -d : d) > bound) return true;
  }
  return false;
}

template <class Value>
int64_t farthest(const Value* values, const Value* centre, int64_t count) {
  typedef typename VectorOf<Value>::type V;
  constexpr int64_t lanes = vector_bytes / sizeof(Value);
  V best = splat(Value(-1));
  int64_t k = 0;
  for (; k + lanes <= count; k += lanes) {
    const V d = magnitude(load_values(values + k) - load_values(centre + k));
    best = d > best ? d : best;
  }
  Value most = -1;
  for (int64_t lane = 0; lane < lanes; ++lane) most = best[lane] > most ? best[lane] : most;
  const auto deviation = [&](int64_t at) {
    const Value d = values[at] - centre[at];
    return d < 0 ? -d : d;
  };
  for (; k < count; ++k) most = deviation(k) > most ? deviation(k) : most;
  for (k = 0; k < count; ++k)
    if (deviation(k) == most) return k;
  return 0;
}

template <class Value>
constexpr DistanceKernels<Value> distance_kernels_of() {
  return {apart<Value>, farthest<Value>};
}

}  // namespace
}  // namespace simd
}  // namespace cbkernels
