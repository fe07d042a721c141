// What "equal" means for the values of a row: every kind of element turns 16 bytes of a row into canonical words, four
// at a time (equal values <=> equal words, -0 became +0), and says whether a value is a NaN. The words are those of
// docs/fingerprint.md; the loops over rows (row_kernels_loops.h) are the same for all kinds.
#pragma once
#include <type_traits>

#include "row_layout.h"

namespace cbkernels::cuda {

// How a layer's values are read. Each kind has kernels of its own (row_kernels.h).
enum class Element : int {
  bits,     // integers of any width and bool
  float32,
  float64,
  packed16,  // float16 and bfloat16: two to a word
  packed8,   // the float8 types: four to a word
  grid32,          // float32 on a float32 grid
  grid32_rounded,  // on a float16 or bfloat16 grid
  grid16,          // float16 and bfloat16, widened, on a float32 grid
  grid16_rounded,
  any,       // value by value: rows that are not in words, every other type on a grid, every type on a float64 grid
};

// Everything a kernel needs to read rows as words.
struct Elements {
  RowLayout rows;
  Element element = Element::bits;
  Element plain = Element::bits;  // without a grid: what `any` gathers
  GridKind grid = GridKind::none;
  float w = 0, lr = 0, inverse = 0;  // float32 arithmetic
  double w64 = 0, lr64 = 0, inverse64 = 0;
  uint32_t beyond_largest = 0;  // packed: what to add to a magnitude so that its top bit says NaN
  bool may_hold_nan = false;
  int64_t num_words = 0;   // before padding
  int64_t words_in_memory = 0;  // of rows in words
  int64_t num_chunks = 0;  // of 16 bytes; of four words for Element::any
};

Elements elements_of(const RowsView& rows, const UpdateGrid& grid, ColumnOrder order);

// A value converted to the type that the arithmetic is done in, rounded to nearest even.
template <class Real>
CBKERNELS_DEVICE Real value_as(DType dtype, uint64_t bits) {
  switch (dtype) {
    case DType::float64: return static_cast<Real>(__longlong_as_double(static_cast<long long>(bits)));
    case DType::float32: return static_cast<Real>(__uint_as_float(static_cast<uint32_t>(bits)));
    case DType::float16: return static_cast<Real>(float_of_float16(static_cast<uint32_t>(bits)));
    case DType::bfloat16: return static_cast<Real>(float_of_bfloat16(static_cast<uint32_t>(bits)));
    case DType::float8_e4m3fn: return static_cast<Real>(float_of_float8_e4m3fn(static_cast<uint32_t>(bits)));
    case DType::float8_e5m2: return static_cast<Real>(float_of_float8_e5m2(static_cast<uint32_t>(bits)));
    case DType::int64: return static_cast<Real>(static_cast<int64_t>(bits));
    case DType::int32: return static_cast<Real>(static_cast<int32_t>(bits));
    case DType::int16: return static_cast<Real>(static_cast<int16_t>(bits));
    case DType::int8: return static_cast<Real>(static_cast<int8_t>(bits));
    case DType::uint64: return static_cast<Real>(bits);
    default: return static_cast<Real>(static_cast<uint32_t>(bits));
  }
}

template <class Real>
CBKERNELS_DEVICE Real value_at(const RowLayout& rows, int64_t row, int64_t column) {
  return value_as<Real>(rows.dtype, value_bits(rows, row, column));
}

struct FourWords { uint32_t word[4]; };

CBKERNELS_DEVICE uint32_t float16_of_float(float value) {
#if defined(__CUDA_ARCH__)
  uint16_t bits;  // one instruction instead of thirty
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
#else
  return round_to_float16(__float_as_uint(value));
#endif
}

// float32 arithmetic; `is_rounded`: to the grid's 16 bits.
template <bool is_rounded>
CBKERNELS_DEVICE uint32_t word_on_grid(const Elements& e, float value, bool& holds_nan) {
  const float seen = on_grid(value, e.w, e.lr, e.inverse) + 0.0f;  // -0 + 0 is +0
  holds_nan |= seen != seen;
  if constexpr (!is_rounded) return __float_as_uint(seen);
  const uint32_t rounded =
      e.grid == GridKind::bfloat16 ? round_to_bfloat16(__float_as_uint(seen)) : float16_of_float(seen);
  return (rounded & 0x7fffu) == 0 ? 0 : rounded;
}

struct Bits {
  static constexpr int words_per_chunk = 4;
  static constexpr bool moves_zero = false;
  CBKERNELS_DEVICE static FourWords words(const Elements&, const uint4& raw, int, bool&) {
    return {{raw.x, raw.y, raw.z, raw.w}};
  }
};

struct Float32 {
  static constexpr int words_per_chunk = 4;
  static constexpr bool moves_zero = false;
  CBKERNELS_DEVICE static FourWords words(const Elements&, const uint4& raw, int, bool& holds_nan) {
    FourWords out{{raw.x, raw.y, raw.z, raw.w}};
    for (uint32_t& word : out.word) {
      const float value = __uint_as_float(word) + 0.0f;
      holds_nan |= value != value;
      word = __float_as_uint(value);
    }
    return out;
  }
};

struct Float64 {
  static constexpr int words_per_chunk = 4;
  static constexpr bool moves_zero = false;
  // in integers: most GPUs have few units for float64
  CBKERNELS_DEVICE static FourWords words(const Elements&, const uint4& raw, int, bool& holds_nan) {
    FourWords out{{raw.x, raw.y, raw.z, raw.w}};
    for (int v = 0; v < 4; v += 2) {
      const uint32_t low = out.word[v], magnitude = out.word[v + 1] & 0x7fffffffu;
      holds_nan |= magnitude > 0x7ff00000u || (magnitude == 0x7ff00000u && low != 0);
      if ((magnitude | low) == 0) out.word[v + 1] = 0;
    }
    return out;
  }
};

// Several floats in one word; `magnitudes` masks the sign of each away.
template <uint32_t magnitudes>
struct Packed {
  static constexpr int words_per_chunk = 4;
  static constexpr bool moves_zero = false;
  CBKERNELS_DEVICE static FourWords words(const Elements& e, const uint4& raw, int, bool& holds_nan) {
    FourWords out{{raw.x, raw.y, raw.z, raw.w}};
    for (uint32_t& word : out.word) {
      const uint32_t magnitude = word & magnitudes;  // no sum below carries into the next value
      holds_nan |= ((magnitude + e.beyond_largest) & ~magnitudes) != 0;
      const uint32_t is_not_zero = (magnitude + magnitudes) & ~magnitudes;
      word = magnitude | (word & is_not_zero);
    }
    return out;
  }
};
using Packed16 = Packed<0x7fff7fffu>;
using Packed8 = Packed<0x7f7f7f7fu>;

template <bool is_rounded>
struct Grid32 {
  static constexpr int words_per_chunk = 4;
  static constexpr bool moves_zero = true;  // padding must stay zero
  CBKERNELS_DEVICE static FourWords words(const Elements& e, const uint4& raw, int, bool& holds_nan) {
    FourWords out{{raw.x, raw.y, raw.z, raw.w}};
    for (uint32_t& word : out.word) word = word_on_grid<is_rounded>(e, __uint_as_float(word), holds_nan);
    return out;
  }
};

template <bool is_rounded>
struct Grid16 {
  static constexpr int words_per_chunk = 8;
  static constexpr bool moves_zero = true;
  CBKERNELS_DEVICE static FourWords words(const Elements& e, const uint4& raw, int part, bool& holds_nan) {
    const uint32_t first = part == 0 ? raw.x : raw.z, second = part == 0 ? raw.y : raw.w;
    FourWords out{{first & 0xffffu, first >> 16, second & 0xffffu, second >> 16}};
    // both types by one formula, which takes half the registers of two and a choice
    const bool is_brain = e.rows.dtype == DType::bfloat16;
    const int shift = is_brain ? 16 : 13;
    const uint32_t infinity = is_brain ? 0x7f80u : 0x7c00u;
    const float scale = is_brain ? 1.0f : 0x1p112f;  // exact, subnormals too
    for (uint32_t& word : out.word) {
      const uint32_t magnitude = word & 0x7fffu;
      const uint32_t scaled = __float_as_uint(__uint_as_float(magnitude << shift) * scale);
      const uint32_t bits = (magnitude >= infinity ? scaled | 0x7f800000u : scaled) | (word & 0x8000u) << 16;
      word = word_on_grid<is_rounded>(e, __uint_as_float(bits), holds_nan);
    }
    return out;
  }
};

struct GatheredWords {
  FourWords four;
  bool holds_nan;
};

CBKERNELS_DEVICE GatheredWords plain_words(const Elements& e, const uint4& raw) {
  GatheredWords out{{{0, 0, 0, 0}}, false};
  switch (e.plain) {
    case Element::float32: out.four = Float32::words(e, raw, 0, out.holds_nan); break;
    case Element::float64: out.four = Float64::words(e, raw, 0, out.holds_nan); break;
    case Element::packed16: out.four = Packed16::words(e, raw, 0, out.holds_nan); break;
    case Element::packed8: out.four = Packed8::words(e, raw, 0, out.holds_nan); break;
    default: out.four = Bits::words(e, raw, 0, out.holds_nan);
  }
  return out;
}

// Four words of a row, whatever its type, grid and strides.
CBKERNELS_DEVICE_CALL GatheredWords gather_words(const Elements& e, int64_t row, int64_t chunk) {
  GatheredWords out{{{0, 0, 0, 0}}, false};
  if (e.grid == GridKind::none) {
    const int per_chunk = chunk_bytes / e.rows.itemsize;
    uint64_t low = 0, high = 0;
    for (int k = 0; k < per_chunk && chunk * per_chunk + k < e.rows.num_columns; ++k) {
      const int bit = 8 * e.rows.itemsize * k;
      const uint64_t value = value_bits(e.rows, row, chunk * per_chunk + k);
      if (bit < 64)
        low |= value << bit;
      else
        high |= value << (bit - 64);
    }
    const uint4 raw = make_uint4(static_cast<uint32_t>(low), static_cast<uint32_t>(low >> 32),
                                 static_cast<uint32_t>(high), static_cast<uint32_t>(high >> 32));
    return plain_words(e, raw);
  }
  if (e.grid == GridKind::float64) {
    for (int k = 0; k < 2 && 2 * chunk + k < e.rows.num_columns; ++k) {
      const double value = value_at<double>(e.rows, row, 2 * chunk + k);
      const double seen = on_grid(value, e.w64, e.lr64, e.inverse64) + 0.0;
      out.holds_nan |= seen != seen;
      const uint64_t bits = static_cast<uint64_t>(__double_as_longlong(seen));
      out.four.word[2 * k] = static_cast<uint32_t>(bits);
      out.four.word[2 * k + 1] = static_cast<uint32_t>(bits >> 32);
    }
    return out;
  }
  for (int k = 0; k < 4 && 4 * chunk + k < e.rows.num_columns; ++k) {
    const float value = value_at<float>(e.rows, row, 4 * chunk + k);
    out.four.word[k] = e.grid == GridKind::float32 ? word_on_grid<false>(e, value, out.holds_nan)
                                                   : word_on_grid<true>(e, value, out.holds_nan);
  }
  return out;
}

// A kind in rows that do not begin and end at multiples of 16 bytes, but of 4.
template <class Kind>
struct InWords : Kind {};
template <class Kind>
constexpr bool is_in_chunks = true;
template <class Kind>
constexpr bool is_in_chunks<InWords<Kind>> = false;

// The kind of Element::any: gather_words stands in the place of words.
struct Gathered { static constexpr int words_per_chunk = 4; };
template <class Kind>
constexpr bool is_gathered = std::is_same_v<Kind, Gathered>;

}  // namespace cbkernels::cuda
