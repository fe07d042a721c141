// The fingerprint of docs/fingerprint.md: keys and the two steps behind the block sums, one text for both
// processors. The routing hashes are made of the same sums, under keys of their own (routing_keys.h). The block sums
// themselves are the hot loop and live in cpu/row_kernels_loops.h and cuda/.
// Everything is a sum of integers that wraps around: no order of additions can change it.
#pragma once
#include <cstdint>

#include "update_grid.h"

namespace cbkernels::fingerprint {

constexpr int block_words = 1024;  // 4 KiB: a page, and small beside an L1 cache
constexpr int num_sums = 4;  // 2^-32 each
constexpr int num_symbols = 4;  // of a block: turn by turn, unit_words to each
constexpr int num_encoded = 8;  // symbols, with keys of their own
constexpr int unit_words = 16;
constexpr int group_words = num_symbols * unit_words;
constexpr int keys_per_symbol = block_words / num_symbols;
constexpr int num_block_keys = num_encoded * keys_per_symbol;

struct Key {  // 128 bits from which all other keys follow; with high = 0 they follow from `low` in one step
  uint64_t low, high;
};

CBKERNELS_BOTH uint64_t mix(uint64_t z) {
  z ^= z >> 30;
  z *= 0xbf58476d1ce4e5b9ull;
  z ^= z >> 27;
  z *= 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}
CBKERNELS_BOTH uint64_t stream(const Key& key, uint64_t purpose, uint64_t i) {
  const uint64_t z = mix((key.low ^ purpose) + 0x9e3779b97f4a7c15ull * (i + 1));
  return key.high == 0 ? z : mix(z ^ key.high);
}

CBKERNELS_BOTH uint32_t block_key(const Key& key, int j) { return static_cast<uint32_t>(stream(key, 0, j) >> 32); }
CBKERNELS_BOTH uint32_t row_key(const Key& key, int64_t block, int i) {
  return static_cast<uint32_t>(stream(key, ~0ull, static_cast<uint64_t>(block) * 8 + i) >> 32);
}
CBKERNELS_BOTH uint64_t compression_key(const Key& key, int m, int i) {
  return stream(key, 0x5555555555555555ull, 9 * m + i);
}

// Two numbers as one to look up in a table, by mix() of it. Whoever does not know the key cannot make many collide.
CBKERNELS_BOTH uint64_t pair_hash(const Key& key, uint64_t a, uint64_t b) { return a + b * (key.high | 1) + key.low; }

// Step 1: eight symbols of four, any two different inputs apart in four of them. Words or vectors of words.
template <class Words>
CBKERNELS_BOTH void encode(const Words (&x)[num_symbols], Words (&y)[num_encoded]) {
  const Words first = x[0] ^ x[1], last = x[2] ^ x[3];
  for (int k = 0; k < num_symbols; ++k) y[k] = x[k];
  y[4] = x[1] ^ last;
  y[5] = x[0] ^ last;
  y[6] = first ^ x[3];
  y[7] = first ^ x[2];
}
// Does a word of the first `num_units` symbols enter y[i]? Where none does, in the last group, nothing is added.
CBKERNELS_BOTH bool is_entered(int i, int num_units) {
  return i < num_symbols ? i < num_units : num_units >= (i == 4 ? 2 : 1);
}
// And four sums of the eight symbols' sums.
template <class Long>
CBKERNELS_BOTH void combine(const Long (&n)[num_encoded], Long (&sums)[num_sums]) {
  sums[0] = n[0] + n[3] + n[5] + n[7];
  sums[1] = n[1] + n[3] + n[6] + n[7];
  sums[2] = n[2] + n[3] + n[5] + n[6];
  sums[3] = n[4] + n[5] + n[6] + n[7];
}

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
