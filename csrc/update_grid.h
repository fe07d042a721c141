// The update grid g(a) = w - (a * lr) * (1 / batch_size), one text for both processors (DESIGN 3.2).
// Every operation is rounded on its own: the build switches contraction off in both compilers, and the
// tests look for it at batch sizes 50 and 100. float16 and bfloat16 round the float32 result once more.
#pragma once
#include <cstdint>

#if defined(__CUDACC__)
#define CBKERNELS_BOTH __host__ __device__ __forceinline__
#else
// internal: compiled for two instruction sets, the linker must not merge them
#define CBKERNELS_BOTH static inline
#endif

namespace cbkernels {

// The order is that of GRID_DTYPES in cbkernels/grid.py, after "none".
enum class GridKind : int { none, float32, float64, float16, bfloat16 };

struct UpdateGrid {  // parameters already rounded to the arithmetic's type
  GridKind kind = GridKind::none;
  double weight_amplitude = 0, learning_rate = 0, inverse_batch_size = 0;
};

template <class Real>  // float, double or a vector of them
CBKERNELS_BOTH Real on_grid(Real a, Real w, Real lr, Real inverse_batch_size) {
  const Real product = a * lr;
  const Real update = product * inverse_batch_size;
  return w - update;
}

// Nearest even. The sign of a zero and the payload of a NaN are the caller's business.
CBKERNELS_BOTH uint32_t round_to_bfloat16(uint32_t float32_bits) {
  return (float32_bits + 0x7fffu + ((float32_bits >> 16) & 1u)) >> 16;
}

CBKERNELS_BOTH uint32_t round_to_float16(uint32_t float32_bits) {
  const uint32_t sign = (float32_bits >> 16) & 0x8000u;
  uint32_t magnitude = float32_bits & 0x7fffffffu;
  if (magnitude >= 0x477ff000u) return sign | 0x7c00u;  // from 65520 on: infinity
  if (magnitude < 0x38800000u) {                        // below 2^-14: a multiple of 2^-24
    if (magnitude < 0x33000000u) return sign;           // below 2^-25: zero (the tie at 2^-25 is even, too)
    const int shift = 126 - static_cast<int>(magnitude >> 23);  // 14 .. 24 bits fall off
    const uint32_t mantissa = (magnitude & 0x7fffffu) | 0x800000u;
    const uint32_t half = 1u << (shift - 1), kept = mantissa >> shift, rest = mantissa & ((1u << shift) - 1);
    return sign | (kept + (rest > half || (rest == half && (kept & 1u))));
  }
  magnitude += 0xc8000000u;  // exponent bias 127 -> 15
  return sign | ((magnitude + 0xfffu + ((magnitude >> 13) & 1u)) >> 13);
}

}  // namespace cbkernels
