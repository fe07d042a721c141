// What "equal" means for 32 bytes of a row: each kind of element turns them into eight canonical words
// (equal values <=> equal words, -0 became +0) and says which lanes hold a NaN. The loops over rows
// (row_kernels_loops.h) are the same for all kinds. Other types are converted to one of these first (staging.h).
// `Plain` compares without the grid: values that are equal there are equal on it, at less cost. `value_bytes` is the
// size of a value as it is read, 0 for any.
#pragma once
#include "../rows/values.h"
#include "simd.h"

namespace cbkernels {

// What the row kernels read. The first are in the order of DType, those behind `bits` in that of GridKind.
enum class Element : int {
  float64,
  float32,
  float16,
  bfloat16,
  float8_e4m3fn,
  float8_e5m2,
  bits,  // integers of any width and bool
  grid_float32,
  grid_float64,
  grid_float16,
  grid_bfloat16,  // read float32 (float64: float64), apply the grid
};
constexpr int num_elements = 11;

namespace simd {
namespace {

struct Bits {
  explicit Bits(const UpdateGrid&) {}
  Words canonical(Words raw, Words&) const { return raw; }
  Words differ(Words raw, Words leader) const { return raw ^ leader; }
  Words prepare(Words raw) const { return raw; }
  using Plain = Bits;
  static constexpr int value_bytes = 0;
  static constexpr bool has_nan = false;
};

template <class Vector, class Real>
struct Numbers {
  explicit Numbers(const UpdateGrid&) {}
  Words canonical(Words raw, Words& nan) const {
    const Vector v = (Vector)raw + Vector{};  // -0 + 0 is +0
    nan |= (Words)(v != v);
    return (Words)v;
  }
  Words differ(Words raw, Words leader) const { return ~(Words)((Vector)raw == (Vector)leader); }
  Words prepare(Words raw) const { return raw; }
  using Plain = Numbers;
  static constexpr int value_bytes = sizeof(Real);
  static constexpr bool has_nan = true;
};
using Float32 = Numbers<Floats, float>;
using Float64 = Numbers<Doubles, double>;

// Of 16 or 8 bits; `largest` is the last pattern that is not a NaN.
template <class Vector, class Lane, Lane largest>
struct Packed {
  explicit Packed(const UpdateGrid&) {}
  Words canonical(Words raw, Words& nan) const {
    const Vector magnitude = (Vector)raw & (Lane)((1 << (8 * sizeof(Lane) - 1)) - 1);
    nan |= (Words)(magnitude > largest);
    return raw & ~(Words)(magnitude == 0);
  }
  Words differ(Words raw, Words leader) const {
    Words nan{};
    const Words words = canonical(raw, nan);
    return (words ^ leader) | nan;
  }
  Words prepare(Words raw) const {
    Words nan{};
    return canonical(raw, nan);
  }
  using Plain = Packed;
  static constexpr int value_bytes = sizeof(Lane);
  static constexpr bool has_nan = true;
};
using Float16 = Packed<Halves, int16_t, largest_magnitude(DType::float16)>;
using Bfloat16 = Packed<Halves, int16_t, largest_magnitude(DType::bfloat16)>;
using Float8E4M3 = Packed<SignedBytes, int8_t, largest_magnitude(DType::float8_e4m3fn)>;
using Float8E5M2 = Packed<SignedBytes, int8_t, largest_magnitude(DType::float8_e5m2)>;

template <class Vector, class Real>
struct GridNumbers {
  Vector w, lr, inverse;
  explicit GridNumbers(const UpdateGrid& g)
      : w(splat((Real)g.weight_amplitude)), lr(splat((Real)g.learning_rate)),
        inverse(splat((Real)g.inverse_batch_size)) {}
  Vector seen(Words raw) const { return cbkernels::on_grid((Vector)raw, w, lr, inverse); }
  Words canonical(Words raw, Words& nan) const {
    const Vector v = seen(raw) + Vector{};
    nan |= (Words)(v != v);
    return (Words)v;
  }
  Words differ(Words raw, Words leader) const { return ~(Words)(seen(raw) == (Vector)leader); }
  Words prepare(Words raw) const { return (Words)seen(raw); }
  using Plain = Numbers<Vector, Real>;
  static constexpr int value_bytes = sizeof(Real);
  static constexpr bool has_nan = true;
};
using GridFloat32 = GridNumbers<Floats, float>;
using GridFloat64 = GridNumbers<Doubles, double>;

// float32 arithmetic, the result rounded once to 16 bits: one zero-extended pattern a word.
template <bool brain>
struct GridRounded {
  GridFloat32 grid;
  explicit GridRounded(const UpdateGrid& g) : grid(g) {}
  Words canonical(Words raw, Words& nan) const {
    const Floats v = grid.seen(raw);
    nan |= (Words)(v != v);
    const Words rounded = brain ? to_bfloat16(v) : to_float16(v);
    return rounded & ~(Words)((rounded & 0x7fffu) == 0u);
  }
  Words differ(Words raw, Words leader) const {
    Words nan{};
    const Words words = canonical(raw, nan);
    return (words ^ leader) | nan;
  }
  Words prepare(Words raw) const {
    Words nan{};
    const Words words = canonical(raw, nan);
    return words | nan;  // a rounded NaN may look like any number: all ones are none
  }
  using Plain = Float32;
  static constexpr int value_bytes = sizeof(float);
  static constexpr bool has_nan = true;
};
using GridFloat16 = GridRounded<false>;
using GridBfloat16 = GridRounded<true>;

// Two vectors, `apart` bytes from each other.
template <class E>
inline void load_canonical_pair(const E& element, const std::byte* from, int64_t apart, Words* two, Words& nan) {
  for (int i = 0; i < 2; ++i) two[i] = element.canonical(load(from + i * apart), nan);
}
#if defined(__AVX2__)
// Where the words of a NaN stay one, a single comparison answers for both; only AVX2 has that comparison.
template <template <class, class> class Kind, class Vector, class Real>
inline void load_canonical_pair(const Kind<Vector, Real>& element, const std::byte* from, int64_t apart, Words* two,
                                Words& nan) {
  Words unused{};
  for (int i = 0; i < 2; ++i) two[i] = element.canonical(load(from + i * apart), unused);
  nan |= unordered((Vector)two[0], (Vector)two[1]);
}
#endif

}  // namespace
}  // namespace simd
}  // namespace cbkernels
