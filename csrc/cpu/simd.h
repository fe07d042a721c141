// Vectors of 32 bytes in the compiler's own notation (GCC and Clang): one text that becomes SSE2, NEON or
// AVX2 by the flags of the file that includes it. Only the widening product and the narrowing to float16 need
// the processor's name. Everything is static: the same function compiled for two instruction sets must
// never be merged by the linker. For the same reason no header of the C++ library is included here.
#pragma once
#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "../update_grid.h"

namespace cbkernels::simd {
namespace {

typedef int8_t SignedBytes __attribute__((vector_size(32)));
typedef int16_t Halves __attribute__((vector_size(32)));
typedef uint32_t Words __attribute__((vector_size(32)));
typedef uint64_t Longs __attribute__((vector_size(32)));
typedef int32_t Mask32 __attribute__((vector_size(32)));
typedef int64_t Mask64 __attribute__((vector_size(32)));
typedef float Floats __attribute__((vector_size(32)));
typedef double Doubles __attribute__((vector_size(32)));

constexpr int vector_bytes = 32;

inline Words load(const std::byte* from) {
  Words v;
  memcpy(&v, from, sizeof v);
  return v;
}
// Asks for a cache line that will be read soon, into the L2 cache. A core with AVX2 was seen to wait for memory and
// to compute in turn where a loop has much to compute; asked for 16 KiB ahead, the fingerprints of rows in memory
// became 20 to 40 % faster there. On a core with AVX-512 they became slower.
inline void ask_for([[maybe_unused]] const std::byte* line) {
#if !defined(__AVX512F__)
  __builtin_prefetch(line, 0, 2);
#endif
}
// What was loaded stays in a register: with 16 of them GCC would rather load it again, three times.
inline void keep_in_register([[maybe_unused]] Words& v) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  asm("" : "+x"(v));
#endif
}
inline Words splat(uint32_t x) { return Words{x, x, x, x, x, x, x, x}; }
inline Floats splat(float x) { return Floats{x, x, x, x, x, x, x, x}; }
inline Doubles splat(double x) { return Doubles{x, x, x, x}; }

// The values of a column at these places, side by side. (Written into memory first, they would be waited for.)
template <class Lane>
__attribute__((always_inline)) inline Words gather(const std::byte* column, const int32_t* places) {
  const auto value = [&](int i) __attribute__((always_inline)) {
    Lane v;
    memcpy(&v, column + places[i] * (int64_t)sizeof(Lane), sizeof v);
    return v;
  };
  if constexpr (sizeof(Lane) == vector_bytes) {
    return value(0);
  } else if constexpr (sizeof(Lane) == 8) {
    return (Words)Longs{value(0), value(1), value(2), value(3)};
  } else {
    constexpr int per_word = sizeof(Lane) < 4 ? 4 / sizeof(Lane) : 1;
    const auto word = [&](int k) __attribute__((always_inline)) {
      uint32_t w = 0;
      for (int i = 0; i < per_word; ++i) w |= (uint32_t)value(k * per_word + i) << (8 * sizeof(Lane) * i % 32);
      return w;
    };
    return Words{word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7)};
  }
}

inline bool any(Words v) {
#if defined(__AVX2__)
  return !_mm256_testz_si256((__m256i)v, (__m256i)v);
#else
  const Longs l = (Longs)v;
  return (l[0] | l[1] | l[2] | l[3]) != 0;
#endif
}

#if defined(__AVX2__)
// Lanes where one of the two is a NaN.
inline Words unordered(Floats a, Floats b) { return (Words)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_UNORD_Q); }
inline Words unordered(Doubles a, Doubles b) { return (Words)_mm256_cmp_pd((__m256d)a, (__m256d)b, _CMP_UNORD_Q); }
#endif

// For each pair of words (even, odd): the 64-bit product.
inline Longs multiply_pairs(Words v) {
#if defined(__AVX2__)
  return (Longs)_mm256_mul_epu32((__m256i)v, _mm256_srli_epi64((__m256i)v, 32));
#elif defined(__SSE2__)
  __m128i half[2], product[2];
  memcpy(half, &v, sizeof v);
  for (int i = 0; i < 2; ++i) product[i] = _mm_mul_epu32(half[i], _mm_srli_epi64(half[i], 32));
  Longs out;
  memcpy(&out, product, sizeof out);
  return out;
#else
  const Longs l = (Longs)v;
  return (l & 0xffffffffu) * (l >> 32);
#endif
}

// Four sums and a running key into one key that has no structure left.
inline uint64_t fold(Longs v, uint64_t key) {
  uint64_t z = v[0] * 0x9e3779b97f4a7c15ull + v[1] * 0xc2b2ae3d27d4eb4full + v[2] * 0x165667b19e3779f9ull +
               v[3] * 0xd6e8feb86659fd93ull + key;
  z ^= z >> 32;
  z *= 0xd6e8feb86659fd93ull;
  return z ^ (z >> 32);
}

// Eight float32 -> eight float16 patterns, one in each word, nearest even; NaN is not looked at.
inline Words to_float16(Floats v) {
#if defined(__F16C__)
  return (Words)_mm256_cvtepu16_epi32(_mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT));
#else
  Words bits = (Words)v;
  for (int i = 0; i < 8; ++i) bits[i] = round_to_float16(bits[i]);
  return bits;
#endif
}

// GCC has Clang's name since version 12; its own takes the positions as a vector of the same type.
#if defined(__clang__) || __GNUC__ >= 12
#define CBKERNELS_SHUFFLE __builtin_shufflevector
#else
#define CBKERNELS_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, Vector{__VA_ARGS__})
#endif

// The lower, or upper, halves of two vectors of 16 bytes, lane by lane in turn.
template <class Vector>
inline Vector zip_low(Vector a, Vector b) {
  constexpr int lanes = sizeof(Vector) / sizeof(a[0]);
  if constexpr (lanes == 2)
    return CBKERNELS_SHUFFLE(a, b, 0, 2);
  else if constexpr (lanes == 4)
    return CBKERNELS_SHUFFLE(a, b, 0, 4, 1, 5);
  else if constexpr (lanes == 8)
    return CBKERNELS_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11);
  else
    return CBKERNELS_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
template <class Vector>
inline Vector zip_high(Vector a, Vector b) {
  constexpr int lanes = sizeof(Vector) / sizeof(a[0]);
  if constexpr (lanes == 2)
    return CBKERNELS_SHUFFLE(a, b, 1, 3);
  else if constexpr (lanes == 4)
    return CBKERNELS_SHUFFLE(a, b, 2, 6, 3, 7);
  else if constexpr (lanes == 8)
    return CBKERNELS_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15);
  else
    return CBKERNELS_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}

// The sums of four vectors, side by side.
inline Longs sum_each(const Longs (&v)[4]) {
  using Vector [[maybe_unused]] = Longs;  // of the older compiler's macro
  const Longs first = CBKERNELS_SHUFFLE(v[0], v[1], 0, 4, 2, 6) + CBKERNELS_SHUFFLE(v[0], v[1], 1, 5, 3, 7);
  const Longs last = CBKERNELS_SHUFFLE(v[2], v[3], 0, 4, 2, 6) + CBKERNELS_SHUFFLE(v[2], v[3], 1, 5, 3, 7);
  return CBKERNELS_SHUFFLE(first, last, 0, 1, 4, 5) + CBKERNELS_SHUFFLE(first, last, 2, 3, 6, 7);
}

#undef CBKERNELS_SHUFFLE

inline Words to_bfloat16(Floats v) {
  const Words bits = (Words)v;
  return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
}

}  // namespace
}  // namespace cbkernels::simd
