// What "equal" means for 32 bytes of a row: each kind of element turns them into eight canonical words
// (equal values <=> equal words, -0 became +0) and says which lanes hold a NaN. The loops over rows
// (row_kernels_loops.h) are the same for all kinds. Other types are converted to one of these first (staging.h).
// `Plain` compares without the grid: values that are equal there are equal on it, at less cost.
#pragma once
#include "simd.h"

namespace cbkernels {

// What the row kernels read. `bits`: integers of any width and bool.
enum class Element : int {
  bits,
  float32,
  float64,
  float16,
  bfloat16,
  float8_e4m3fn,
  float8_e5m2,
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
  static constexpr bool has_nan = false;
};

struct Float32 {
  explicit Float32(const UpdateGrid&) {}
  Words canonical(Words raw, Words& nan) const {
    const Floats v = (Floats)raw + 0.0f;  // -0 + 0 is +0
    nan |= (Words)(v != v);
    return (Words)v;
  }
  Words differ(Words raw, Words leader) const { return ~(Words)((Floats)raw == (Floats)leader); }
  Words prepare(Words raw) const { return raw; }
  using Plain = Float32;
  static constexpr bool has_nan = true;
};

struct Float64 {
  explicit Float64(const UpdateGrid&) {}
  Words canonical(Words raw, Words& nan) const {
    const Doubles v = (Doubles)raw + 0.0;
    nan |= (Words)(v != v);
    return (Words)v;
  }
  Words differ(Words raw, Words leader) const { return ~(Words)((Doubles)raw == (Doubles)leader); }
  Words prepare(Words raw) const { return raw; }
  using Plain = Float64;
  static constexpr bool has_nan = true;
};

// Packed 16-bit floats; `infinity` is the pattern behind which the NaN begin.
template <int16_t infinity>
struct Packed16 {
  explicit Packed16(const UpdateGrid&) {}
  Words canonical(Words raw, Words& nan) const {
    const Halves magnitude = (Halves)raw & (int16_t)0x7fff;
    nan |= (Words)(magnitude > infinity);
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
  using Plain = Packed16;
  static constexpr bool has_nan = true;
};
using Float16 = Packed16<0x7c00>;
using Bfloat16 = Packed16<0x7f80>;

// Packed 8-bit floats; `largest` is the last pattern that is not a NaN.
template <int8_t largest>
struct Packed8 {
  explicit Packed8(const UpdateGrid&) {}
  Words canonical(Words raw, Words& nan) const {
    const SignedBytes magnitude = (SignedBytes)raw & (int8_t)0x7f;
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
  using Plain = Packed8;
  static constexpr bool has_nan = true;
};
using Float8E4M3 = Packed8<0x7e>;
using Float8E5M2 = Packed8<0x7c>;

struct GridFloat32 {
  Floats w, lr, inverse;
  explicit GridFloat32(const UpdateGrid& g)
      : w(splat((float)g.weight_amplitude)), lr(splat((float)g.learning_rate)),
        inverse(splat((float)g.inverse_batch_size)) {}
  Floats seen(Words raw) const { return cbkernels::on_grid((Floats)raw, w, lr, inverse); }
  Words canonical(Words raw, Words& nan) const {
    const Floats v = seen(raw) + 0.0f;
    nan |= (Words)(v != v);
    return (Words)v;
  }
  Words differ(Words raw, Words leader) const { return ~(Words)(seen(raw) == (Floats)leader); }
  Words prepare(Words raw) const { return (Words)seen(raw); }
  using Plain = Float32;
  static constexpr bool has_nan = true;
};

struct GridFloat64 {
  Doubles w, lr, inverse;
  explicit GridFloat64(const UpdateGrid& g)
      : w(splat(g.weight_amplitude)), lr(splat(g.learning_rate)), inverse(splat(g.inverse_batch_size)) {}
  Doubles seen(Words raw) const { return cbkernels::on_grid((Doubles)raw, w, lr, inverse); }
  Words canonical(Words raw, Words& nan) const {
    const Doubles v = seen(raw) + 0.0;
    nan |= (Words)(v != v);
    return (Words)v;
  }
  Words differ(Words raw, Words leader) const { return ~(Words)(seen(raw) == (Doubles)leader); }
  Words prepare(Words raw) const { return (Words)seen(raw); }
  using Plain = Float64;
  static constexpr bool has_nan = true;
};

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
template <class Numbers, class E>
inline void load_canonical_numbers(const E& element, const std::byte* from, int64_t apart, Words* two, Words& nan) {
  Words unused{};
  load_canonical_pair<E>(element, from, apart, two, unused);
  nan |= unordered((Numbers)two[0], (Numbers)two[1]);
}
inline void load_canonical_pair(const Float32& e, const std::byte* from, int64_t apart, Words* two, Words& nan) {
  load_canonical_numbers<Floats>(e, from, apart, two, nan);
}
inline void load_canonical_pair(const Float64& e, const std::byte* from, int64_t apart, Words* two, Words& nan) {
  load_canonical_numbers<Doubles>(e, from, apart, two, nan);
}
inline void load_canonical_pair(const GridFloat32& e, const std::byte* from, int64_t apart, Words* two, Words& nan) {
  load_canonical_numbers<Floats>(e, from, apart, two, nan);
}
inline void load_canonical_pair(const GridFloat64& e, const std::byte* from, int64_t apart, Words* two, Words& nan) {
  load_canonical_numbers<Doubles>(e, from, apart, two, nan);
}
#endif

}  // namespace
}  // namespace simd
}  // namespace cbkernels
