// The fingerprint of docs/fingerprint.md: keys and the two steps behind the block sums, one text for both
// processors. The block sums themselves are the hot loop and live in cpu/row_kernels_loops.h and cuda/.
// Everything is a sum of integers that wraps around: no order of additions can change it.
#pragma once
#include <cstdint>

#include "update_grid.h"

namespace cbkernels::fingerprint {

constexpr int block_words = 1024;  // 4 KiB: a page, and small beside an L1 cache
constexpr int num_sums = 4;        // 2^-32 each
constexpr int toeplitz_shift = 16;
constexpr int num_block_keys = block_words + toeplitz_shift * (num_sums - 1);
constexpr uint64_t seed = 0x243f6a8885a308d3ull;

CBKERNELS_BOTH uint64_t mix(uint64_t z) {
  z ^= z >> 30;
  z *= 0xbf58476d1ce4e5b9ull;
  z ^= z >> 27;
  z *= 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
CBKERNELS_BOTH uint64_t stream(uint64_t from, uint64_t i) { return mix(from + 0x9e3779b97f4a7c15ull * (i + 1)); }

CBKERNELS_BOTH uint32_t block_key(int j) { return static_cast<uint32_t>(stream(seed, j) >> 32); }
CBKERNELS_BOTH uint32_t row_key(int64_t block, int i) {
  return static_cast<uint32_t>(stream(~seed, static_cast<uint64_t>(block) * 8 + i) >> 32);
}
CBKERNELS_BOTH uint64_t compression_key(int m, int i) { return stream(seed ^ 0x5555555555555555ull, 9 * m + i); }

// Step 2 for one block and one of the four sums: what to add to H[s].
CBKERNELS_BOTH uint64_t row_term(uint64_t block_sum, uint32_t key_low, uint32_t key_high) {
  const uint32_t low = static_cast<uint32_t>(block_sum) + key_low;
  const uint32_t high = static_cast<uint32_t>(block_sum >> 32) + key_high;
  return static_cast<uint64_t>(low) * high;
}

// Step 3: 256 bits -> the pair of 64-bit integers.
template <class CompressionKeys>  // keys[m][i], m < 4, i < 9
CBKERNELS_BOTH void compress(const uint64_t row_sums[num_sums], const CompressionKeys& keys, uint64_t out[2]) {
  uint32_t f[4];
  for (int m = 0; m < 4; ++m) {
    uint64_t sum = keys[m][8];
    for (int s = 0; s < num_sums; ++s) {
      sum += keys[m][2 * s] * static_cast<uint32_t>(row_sums[s]);
      sum += keys[m][2 * s + 1] * (row_sums[s] >> 32);
    }
    f[m] = static_cast<uint32_t>(sum >> 32);
  }
  out[0] = f[0] | static_cast<uint64_t>(f[1]) << 32;
  out[1] = f[2] | static_cast<uint64_t>(f[3]) << 32;
}

}  // namespace cbkernels::fingerprint
