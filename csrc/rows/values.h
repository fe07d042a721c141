// What the bits of one value mean, once for both processors.
#pragma once
#include <cstring>

#include "../update_grid.h"
#include "../views.h"

namespace cbkernels {

constexpr bool fits_float32(DType t) { return t == DType::float32 || itemsize(t) <= 2; }

// The bits of the largest magnitude that is no NaN, of a float of 8 or 16 bits.
constexpr uint32_t largest_magnitude(DType t) {
  switch (t) {
    case DType::float16: return 0x7c00;
    case DType::bfloat16: return 0x7f80;
    case DType::float8_e4m3fn: return 0x7e;  // no infinity
    default: return 0x7c;
  }
}

template <class Bits>
CBKERNELS_BOTH Bits load_bits(const std::byte* at) {
#if defined(__CUDA_ARCH__)
  return *reinterpret_cast<const Bits*>(at);  // what is not aligned has been refused
#else
  Bits bits;
  memcpy(&bits, at, sizeof bits);
  return bits;
#endif
}

// Zero-extended.
CBKERNELS_BOTH uint64_t bits_at(const std::byte* at, int itemsize) {
  switch (itemsize) {
    case 8: return load_bits<uint64_t>(at);
    case 4: return load_bits<uint32_t>(at);
    case 2: return load_bits<uint16_t>(at);
    default: return load_bits<uint8_t>(at);
  }
}

// Only whether two labels are equal matters, and both are of one type.
CBKERNELS_BOTH int64_t label_at(const LabelsView& labels, int64_t row) {
  return static_cast<int64_t>(bits_at(labels.data + row * labels.stride_bytes, labels.itemsize));
}

CBKERNELS_BOTH float float_of_bits(uint32_t bits) {
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}
CBKERNELS_BOTH uint32_t bits_of_float(float value) {
  uint32_t bits;
  memcpy(&bits, &value, sizeof bits);
  return bits;
}

CBKERNELS_BOTH float float_of_float16(uint32_t bits) {
  const uint32_t magnitude = bits & 0x7fffu;
  const uint32_t scaled = bits_of_float(float_of_bits(magnitude << 13) * 0x1p112f);  // exact, subnormals too
  return float_of_bits((magnitude >= 0x7c00u ? scaled | 0x7f800000u : scaled) | (bits & 0x8000u) << 16);
}
CBKERNELS_BOTH float float_of_bfloat16(uint32_t bits) { return float_of_bits(bits << 16); }
CBKERNELS_BOTH float float_of_float8_e5m2(uint32_t bits) { return float_of_float16(bits << 8); }
CBKERNELS_BOTH float float_of_float8_e4m3fn(uint32_t bits) {  // 1-4-3, bias 7, all ones is NaN
  const uint32_t magnitude = bits & 0x7fu;
  const uint32_t scaled = bits_of_float(float_of_bits(magnitude << 20) * 0x1p120f);
  return float_of_bits((magnitude == 0x7fu ? 0x7fc00000u : scaled) | (bits & 0x80u) << 24);
}

}  // namespace cbkernels
