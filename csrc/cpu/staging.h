// Copies a run of values, any stride apart, into a contiguous piece, converting them to what the row kernels
// read: the same bits, float32 or float64 (nearest even, overflow to infinity). Included once per instruction
// set by row_kernels_loops.h, because float16 has an instruction of its own. Cost: one pass through an L1 cache.
#pragma once
#include "../rows/values.h"
#include "simd.h"

namespace cbkernels {

enum class Staged : int { bits, float32, float64 };
// `count` values from `from`, `stride` bytes apart, to `to`.
using StageRun = void (*)(const std::byte* from, int64_t stride, int64_t count, std::byte* to);
// The same for rows whose values lie beside each other (a column-major matrix): a cache line is read once for all
// of them.
using StageTile = void (*)(const std::byte* const* from, int num_rows, int64_t stride, int64_t count,
                           std::byte* const* to);
// The same for neighbouring rows: `count` values of each of `num_rows` rows, row_stride bytes apart, to pieces
// to_stride bytes apart. Memory is walked in its own order, whichever of the strides is the smaller.
using StageBand = void (*)(const std::byte* from, int64_t row_stride, int64_t num_rows, int64_t stride, int64_t count,
                           std::byte* to, int64_t to_stride);
struct Stagers {
  StageRun run;
  StageTile tile;
  StageBand band;
};

namespace simd {
namespace {

struct HalfFloat { uint16_t bits; };
struct BrainFloat { uint16_t bits; };
struct E4M3 { uint8_t bits; };
struct E5M2 { uint8_t bits; };
struct Boolean { uint8_t byte; };

template <class To, class From>
inline To convert(From v) {
  return (To)v;
}
template <class To>
inline To convert(HalfFloat v) {
  return (To)float_of_float16(v.bits);
}
template <class To>
inline To convert(BrainFloat v) {
  return (To)float_of_bfloat16(v.bits);
}
template <class To>
inline To convert(E5M2 v) {
  return (To)float_of_float8_e5m2(v.bits);
}
template <class To>
inline To convert(E4M3 v) {
  return (To)float_of_float8_e4m3fn(v.bits);
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

template <class T>
struct Lanes {
  typedef T type __attribute__((vector_size(16)));
};

// A square of as many rows as 16 bytes hold values; the columns are contiguous.
template <class Bits>
inline void transpose_square(const std::byte* from, int64_t stride, std::byte* to, int64_t to_stride) {
  constexpr int side = 16 / sizeof(Bits);
  typename Lanes<Bits>::type v[side], zipped[side];
  for (int c = 0; c < side; ++c) memcpy(&v[c], from + c * stride, 16);
  for (int step = 1; step < side; step *= 2) {
    for (int i = 0; i < side / 2; ++i) {
      zipped[2 * i] = zip_low(v[i], v[i + side / 2]);
      zipped[2 * i + 1] = zip_high(v[i], v[i + side / 2]);
    }
    memcpy(v, zipped, sizeof v);
  }
  for (int r = 0; r < side; ++r) memcpy(to + r * to_stride, &v[r], 16);
}

// Sixteen columns at a time, each cache line of them at once: columns a power of two apart share few places of an L1
// cache. The next sixteen, or the next band's, are asked for meanwhile; into L2, for the same reason.
template <class Bits>
void transpose(const std::byte* from, int64_t num_rows, int64_t stride, int64_t count, std::byte* to,
               int64_t to_stride) {
  constexpr int64_t side = 16 / sizeof(Bits), together = 16, size = sizeof(Bits), line_rows = 64 / size;
  const int64_t whole_rows = num_rows / side * side, whole_columns = count / side * side;
  for (int64_t begin = 0; begin < whole_columns; begin += together) {
    const int64_t end = begin + together < whole_columns ? begin + together : whole_columns;
    for (int64_t line = 0; line < whole_rows; line += line_rows) {
      const int64_t last = line + line_rows < whole_rows ? line + line_rows : whole_rows;
      for (int64_t c = begin; c < end; ++c) __builtin_prefetch(from + (c + together) * stride + line * size, 0, 2);
      for (int64_t c = begin; c < end; c += side)
        for (int64_t r = line; r < last; r += side)
          transpose_square<Bits>(from + c * stride + r * size, stride, to + r * to_stride + c * size, to_stride);
    }
  }
  for (int64_t c = 0; c < count; ++c)
    for (int64_t r = c < whole_columns ? whole_rows : 0; r < num_rows; ++r)
      memcpy(to + r * to_stride + c * size, from + c * stride + r * size, sizeof(Bits));
}

template <int size>
struct BitsOf;
template <>
struct BitsOf<1> {
  using type = uint8_t;
};
template <>
struct BitsOf<2> {
  using type = uint16_t;
};
template <>
struct BitsOf<4> {
  using type = uint32_t;
};
template <>
struct BitsOf<8> {
  using type = uint64_t;
};

// The rows behind these are asked for meanwhile: they come next, after other pieces of these rows, which lie elsewhere.
template <int64_t num_bytes>
void copy_pieces(const std::byte* from, int64_t row_stride, int64_t num_rows, std::byte* to, int64_t to_stride) {
  for (int64_t r = 0; r < num_rows; ++r) {
    ask_for(from + (num_rows + r) * row_stride);
    memcpy(to + r * to_stride, from + r * row_stride, num_bytes);
  }
}

template <class From, class To>
void convert_band(const std::byte* from, int64_t row_stride, int64_t num_rows, int64_t stride, int64_t count,
                  std::byte* to, int64_t to_stride) {
  using Bits = typename BitsOf<sizeof(From)>::type;
  constexpr int64_t size = sizeof(From), values_of_a_run = 8, values_at_once = 64, rows_at_once = 16;
  if (row_stride == -size)  // backwards is as good as forwards
    return convert_band<From, To>(from + (num_rows - 1) * row_stride, size, num_rows, stride, count,
                                  to + (num_rows - 1) * to_stride, -to_stride);
  const int64_t copied_bytes = stride == size && __is_same(From, To) ? count * size : 0;
  if (copied_bytes == 8) return copy_pieces<8>(from, row_stride, num_rows, to, to_stride);
  if (copied_bytes == 16) return copy_pieces<16>(from, row_stride, num_rows, to, to_stride);
  if (copied_bytes == 32) return copy_pieces<32>(from, row_stride, num_rows, to, to_stride);
  if (stride == size && count >= values_of_a_run) {
    for (int64_t r = 0; r < num_rows; ++r)
      convert_run<From, To>(from + r * row_stride, stride, count, to + r * to_stride);
  } else if (row_stride == size && __is_same(From, To)) {
    transpose<Bits>(from, num_rows, stride, count, to, to_stride);
  } else if (row_stride == size) {
    std::byte turned[rows_at_once * values_at_once * sizeof(From)];
    constexpr int64_t turned_stride = values_at_once * size;
    for (int64_t c = 0; c < count; c += values_at_once) {
      const int64_t columns = count - c < values_at_once ? count - c : values_at_once;
      for (int64_t first = 0; first < num_rows; first += rows_at_once) {
        const int64_t rows = num_rows - first < rows_at_once ? num_rows - first : rows_at_once;
        transpose<Bits>(from + c * stride + first * size, rows, stride, columns, turned, turned_stride);
        for (int64_t r = 0; r < rows; ++r)
          convert_run<From, To>(turned + r * turned_stride, size, columns,
                                to + (first + r) * to_stride + c * static_cast<int64_t>(sizeof(To)));
      }
    }
  } else {
    for (int64_t c = 0; c < count; ++c)
      for (int64_t r = 0; r < num_rows; ++r)
        convert_run<From, To>(from + c * stride + r * row_stride, 0, 1,
                              to + r * to_stride + c * static_cast<int64_t>(sizeof(To)));
  }
}

template <class From, class To>
constexpr Stagers converting() {
  return {convert_run<From, To>, convert_tile<From, To>, convert_band<From, To>};
}
template <class Bits>
constexpr Stagers copying() {
  return {copy_run<Bits>, convert_tile<Bits, Bits>, convert_band<Bits, Bits>};
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
