// The kernel of a fingerprint's row sums: warps take pieces of some rows and add to sums in global memory, in any
// order. Eight lanes read one row: the four words of a lane lie at the same place of each of the four symbols, so that
// it encodes alone, and a symbol's sixteen words are two whole sectors.
#pragma once
#include "row_kernels_loops.h"

namespace cbkernels::cuda {

using fingerprint::num_encoded, fingerprint::num_sums, fingerprint::num_symbols;
constexpr int lanes_per_sum = 8, rows_per_sum = warp_size / lanes_per_sum;

struct Symbols { FourWords of[num_symbols]; };

// Four words of a row, in `chunk`, and those that lie a unit further on each time; zeros stand behind the `left` words
// of the block that begin here. `from` is where the chunk is, if rows have chunks.
template <class Kind>
CBKERNELS_DEVICE Symbols symbols_at(const Elements& e, int64_t row, int64_t chunk, const uint4* from, int part,
                                    int left, bool& holds_nan) {
  constexpr int chunks_of_unit = fingerprint::unit_words / Kind::words_per_chunk;
  Symbols x;
  if constexpr (is_gathered<Kind>) {
#pragma unroll
    for (int k = 0; k < num_symbols; ++k) {
      const GatheredWords words = gather_words(e, row, chunk + k * chunks_of_unit);
      holds_nan |= words.holds_nan;
      x.of[k] = words.four;
    }
  } else {
    uint4 raw[num_symbols];
#pragma unroll
    for (int k = 0; k < num_symbols; ++k) {
      const int further = k * chunks_of_unit;
      raw[k] = k * fingerprint::unit_words < left
                   ? load_chunk<Kind>(from + further, words_left<Kind>(e, chunk + further))
                   : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int k = 0; k < num_symbols; ++k) {
      x.of[k] = Kind::words(e, raw[k], part, holds_nan);
      if constexpr (Kind::moves_zero)
#pragma unroll
        for (int w = 0; w < 4; ++w)
          if (k * fingerprint::unit_words + w >= left) x.of[k].word[w] = 0;
    }
  }
  return x;
}

// Row sums of this lane's row over blocks [begin, end): lane l gets sum l % num_sums.
template <class Kind>
CBKERNELS_DEVICE uint64_t sum_of_blocks(const Elements& e, int64_t row, int64_t begin, int64_t end,
                                        const uint32_t* block_keys, bool& holds_nan) {
  using namespace fingerprint;
  constexpr int places_at_once = 4 * lanes_per_sum, words_at_once = num_symbols * places_at_once;
  constexpr int per_chunk = Kind::words_per_chunk;
  const int lane = lane_index() % lanes_per_sum;
  const int first_place = 4 * lane, first_word = first_place / unit_words * group_words + first_place % unit_words;
  const int part = first_word % per_chunk / 4;
  uint64_t row_sum = 0;
#pragma unroll 1
  for (int64_t block = begin; block < end; ++block) {
    const int64_t of_row = e.num_words - block * block_words;
    const int num_words = of_row < block_words ? static_cast<int>(of_row) : block_words;
    const int padded = (num_words + unit_words - 1) / unit_words * unit_words;
    const uint32_t* keys = block_keys + first_place;
    int64_t chunk = (block * block_words + first_word) / per_chunk;
    const uint4* from = chunks_of(e, row) + chunk;
    uint64_t hashes[num_encoded] = {}, sums[num_sums];
#pragma unroll 1
    for (int word = first_word; word < padded; word += words_at_once) {
      const Symbols x = symbols_at<Kind>(e, row, chunk, from, part, num_words - word, holds_nan);
      FourWords y[num_encoded];
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        const uint32_t four[num_symbols] = {x.of[0].word[w], x.of[1].word[w], x.of[2].word[w], x.of[3].word[w]};
        uint32_t encoded[num_encoded];
        encode(four, encoded);
#pragma unroll
        for (int i = 0; i < num_encoded; ++i) y[i].word[w] = encoded[i];
      }
      const int num_units = (padded - word + unit_words - 1) / unit_words;
#pragma unroll
      for (int i = 0; i < num_encoded; ++i)
        if (is_entered(i, num_units))
          hashes[i] += products(y[i], *reinterpret_cast<const uint4*>(keys + i * keys_per_symbol));
      keys += places_at_once;
      chunk += words_at_once / per_chunk;
      from += words_at_once / per_chunk;
    }
    combine(hashes, sums);
    row_sum += cuda::row_term(reduce<num_sums, lanes_per_sum>(sums), block_keys, block, lane % num_sums);
  }
  return row_sum;
}

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block, 2)
    sum_rows_kernel(const __grid_constant__ Elements e, fingerprint::Key key, int64_t blocks_per_span,
                    int64_t num_spans, uint64_t* row_sums, uint8_t* holds_nan) {
  CBKERNELS_DYNAMIC_SHARED(shared);
  const uint32_t* const block_keys = fill_block_keys(shared, key, fingerprint::num_block_keys);
  __syncthreads();
  const int64_t last = static_cast<int64_t>(e.rows.num_rows) - 1, num_blocks = num_blocks_of(e);
  const int64_t num_items = (last + rows_per_sum) / rows_per_sum * num_spans;
  const int lane = lane_index() % lanes_per_sum;
  for (int64_t item = warp_of_grid(); item < num_items; item += warps_of_grid()) {
    const int64_t row = item / num_spans * rows_per_sum + lane_index() / lanes_per_sum;
    const int64_t begin = item % num_spans * blocks_per_span;
    const int64_t end = begin + blocks_per_span < num_blocks ? begin + blocks_per_span : num_blocks;
    bool with_nan = false;
    const uint64_t sum = sum_of_blocks<Kind>(e, row < last ? row : last, begin, end, block_keys, with_nan);
    if (row <= last && lane < num_sums)
      atomicAdd(reinterpret_cast<unsigned long long*>(row_sums + num_sums * row + lane),
                static_cast<unsigned long long>(sum));
    if (row <= last && with_nan) holds_nan[row] = 1;
  }
}

}  // namespace cbkernels::cuda
