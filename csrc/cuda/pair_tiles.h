// Tiles of 64 x 64 pairs of rows: a block has 128 bytes of each row in shared memory at a time, two buffers by turns,
// and compares all pairs of them, until none can be the best any more.
#pragma once
#include "margin_problem.h"
#include "row_distance.h"
#include "runtime.h"

namespace cbkernels::cuda::margin {

constexpr int pairs_a_side = 4, threads_a_side = tile_rows / pairs_a_side;
constexpr int pairs_of_a_thread = pairs_a_side * pairs_a_side, pairs_of_a_tile = tile_rows * tile_rows;
static_assert(threads_a_side * threads_a_side == threads_of_a_block);
constexpr int rows_of_both_sides = 2 * tile_rows, bytes_of_tile_row = 128;

// 128 bytes of each of 64 rows on the left and 64 on the right, row by row. The padding spreads rows over the banks.
template <class Value>
struct alignas(16) Tile {
  static constexpr int columns = bytes_of_tile_row / static_cast<int>(sizeof(Value));
  static constexpr int per_chunk = chunk_bytes / static_cast<int>(sizeof(Value));
  Value at[rows_of_both_sides][columns + per_chunk];
};
template <class Value>
struct Shared {
  Tile<Value> tiles[2];  // one is filled while the other is compared
  const std::byte* row_starts[rows_of_both_sides];  // not in registers, where sixteen of them would not fit
};
constexpr size_t shared_bytes = sizeof(Shared<float>);
static_assert(sizeof(Shared<double>) == shared_bytes);

// The pairs of one tile and thread: bit pairs_a_side i + j is the pair of the i-th left and the j-th right row.
struct Place {
  int32_t first_left, first_right;
  CBKERNELS_DEVICE int32_t left(int thread, int k) const {
    return first_left + thread / threads_a_side + k / pairs_a_side * threads_a_side;
  }
  CBKERNELS_DEVICE int32_t right(int thread, int k) const {
    return first_right + thread % threads_a_side + k % pairs_a_side * threads_a_side;
  }
  CBKERNELS_DEVICE int32_t row(const Problem& p, int row_of_tile) const {  // the last row again where there is none
    const int32_t row = row_of_tile < tile_rows ? first_left + row_of_tile : first_right + row_of_tile - tile_rows;
    return row < p.rows.num_rows ? row : p.rows.num_rows - 1;
  }
};
CBKERNELS_DEVICE Place place_of(const Problem& p, int64_t tile) {  // left <= right
  int32_t left = 0, of_this_left = (p.rows.num_rows + tile_rows - 1) / tile_rows;
  for (; tile >= of_this_left; ++left) tile -= of_this_left--;
  return {left * tile_rows, (left + static_cast<int32_t>(tile)) * tile_rows};
}

// Bit k: the pair k of this thread exists.
CBKERNELS_DEVICE unsigned pairs_of(const Problem& p, const Place& place) {
  int64_t of_left[pairs_a_side], of_right[pairs_a_side];
  bool has_left[pairs_a_side], has_right[pairs_a_side];
#pragma unroll
  for (int i = 0; i < pairs_a_side; ++i) {
    const int32_t left = place.left(threadIdx.x, pairs_a_side * i), right = place.right(threadIdx.x, i);
    has_left[i] = left < p.rows.num_rows && !p.is_left_out[left];
    has_right[i] = right < p.rows.num_rows && !p.is_left_out[right];
    of_left[i] = has_left[i] ? label_at(p.labels, left) : 0;
    of_right[i] = has_right[i] ? label_at(p.labels, right) : 0;
  }
  unsigned pairs = 0;
#pragma unroll
  for (int k = 0; k < pairs_of_a_thread; ++k) {
    const int i = k / pairs_a_side, j = k % pairs_a_side;
    const bool is_pair = has_left[i] && has_right[j] && of_left[i] != of_right[j];
    if (is_pair && place.left(threadIdx.x, k) < place.right(threadIdx.x, k)) pairs |= 1u << k;
  }
  return pairs;
}

// What a thread has read of the next 128 bytes of the tile's rows, not yet converted.
struct Fetched { uint32_t word[16]; };

using RowStarts = const std::byte* const*;

template <int num_chunks>
CBKERNELS_DEVICE void fetch_chunks(const Problem& p, RowStarts starts, int64_t column, Fetched& to) {
  constexpr int chunks_of_row = num_chunks * threads_of_a_block / rows_of_both_sides;
  const int64_t first = column * p.rows.itemsize / chunk_bytes;
  const int64_t end = p.rows.num_columns * p.rows.itemsize / chunk_bytes;
#pragma unroll
  for (int k = 0; k < num_chunks; ++k) {
    const int index = threadIdx.x + k * threads_of_a_block;
    const int64_t chunk = first + index % chunks_of_row;
    const auto* const at = reinterpret_cast<const uint4*>(starts[index / chunks_of_row]) + chunk;
    const uint4 raw = chunk < end ? *at : make_uint4(0, 0, 0, 0);
    to.word[4 * k] = raw.x;
    to.word[4 * k + 1] = raw.y;
    to.word[4 * k + 2] = raw.z;
    to.word[4 * k + 3] = raw.w;
  }
}

CBKERNELS_DEVICE int64_t offset_in_row(const RowLayout& rows, int64_t column) {
  return value_address(rows, 0, column) - rows.data;
}

// Value by value; a thread's values are all in one column.
template <class Stored, class Value>
CBKERNELS_DEVICE void fetch_values(const Problem& p, RowStarts starts, int64_t first, Fetched& to) {
  constexpr int columns = Tile<Value>::columns, values = rows_of_both_sides * columns / threads_of_a_block;
  static_assert(threads_of_a_block % columns == 0);
  const int64_t column = first + threadIdx.x % columns;
  const bool exists = column < p.rows.num_columns;
  const int64_t offset = !exists                ? 0
                         : p.rows.is_contiguous ? column * static_cast<int64_t>(sizeof(Stored))
                                                : offset_in_row(p.rows, column);
#pragma unroll
  for (int k = 0; k < values; ++k) {
    const int row = threadIdx.x / columns + k * (threads_of_a_block / columns);
    const std::byte* at = starts[row] + offset;
    const uint64_t bits = exists ? *reinterpret_cast<const Stored*>(at) : 0;
    if constexpr (sizeof(Value) == 4) {
      to.word[k] = static_cast<uint32_t>(bits);
    } else {
      to.word[2 * k] = static_cast<uint32_t>(bits);
      to.word[2 * k + 1] = static_cast<uint32_t>(bits >> 32);
    }
  }
}

template <class Value>
CBKERNELS_DEVICE void fetch(const Problem& p, RowStarts starts, int64_t first, Fetched& to) {
  if constexpr (sizeof(Value) == 8) {
    if (p.takes_chunks) return fetch_chunks<4>(p, starts, first, to);
    if (p.rows.itemsize == 8) return fetch_values<uint64_t, Value>(p, starts, first, to);
    return fetch_values<uint32_t, Value>(p, starts, first, to);
  } else {
    if (p.takes_chunks)
      return p.rows.itemsize == 4 ? fetch_chunks<4>(p, starts, first, to) : fetch_chunks<2>(p, starts, first, to);
    if (p.rows.itemsize == 4) return fetch_values<uint32_t, Value>(p, starts, first, to);
    if (p.rows.itemsize == 2) return fetch_values<uint16_t, Value>(p, starts, first, to);
    return fetch_values<uint8_t, Value>(p, starts, first, to);
  }
}

CBKERNELS_DEVICE void put(void* at, uint32_t x, uint32_t y, uint32_t z, uint32_t w) {
  *static_cast<uint4*>(at) = make_uint4(x, y, z, w);
}

// Values of 16 bits, two to a word.
template <class Convert>
CBKERNELS_DEVICE void put_widened(const Fetched& from, Tile<float>& tile, const Convert& convert) {
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    const int index = threadIdx.x + k * threads_of_a_block;
    float* const at = &tile.at[index / 4][index % 4 * 8];
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const uint32_t x = from.word[4 * k + 2 * half], y = from.word[4 * k + 2 * half + 1];
      put(at + 4 * half, __float_as_uint(convert(x & 0xffffu)), __float_as_uint(convert(x >> 16)),
          __float_as_uint(convert(y & 0xffffu)), __float_as_uint(convert(y >> 16)));
    }
  }
}

template <class Kind>
CBKERNELS_DEVICE void put_in_tile(const Problem& p, const Fetched& from, Tile<typename Kind::Value>& tile) {
  using Value = typename Kind::Value;
  constexpr int columns = Tile<Value>::columns, values = rows_of_both_sides * columns / threads_of_a_block;
  if (p.takes_chunks) {
    if constexpr (Kind::is_rounded) {
      if (p.rows.dtype == DType::float16) return put_widened(from, tile, float_of_float16);
      if (p.rows.dtype == DType::bfloat16) return put_widened(from, tile, float_of_bfloat16);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int index = threadIdx.x + k * threads_of_a_block;
      put(&tile.at[index / 8][index % 8 * Tile<Value>::per_chunk], from.word[4 * k], from.word[4 * k + 1],
          from.word[4 * k + 2], from.word[4 * k + 3]);
    }
    return;
  }
  Kind::convert_in_tile(p.rows.dtype, [&](const auto& convert) {
#pragma unroll
    for (int k = 0; k < values; ++k) {
      uint64_t bits = from.word[sizeof(Value) / 4 * k];
      if constexpr (sizeof(Value) == 8) bits |= static_cast<uint64_t>(from.word[2 * k + 1]) << 32;
      const int row = threadIdx.x / columns + k * (threads_of_a_block / columns);
      tile.at[row][threadIdx.x % columns] = convert(bits);
    }
  });
}

CBKERNELS_DEVICE void unpack(const uint4& raw, float (&to)[4]) {
#pragma unroll
  for (int v = 0; v < 4; ++v) to[v] = __uint_as_float(word_of(raw, v));
}
CBKERNELS_DEVICE void unpack(const uint4& raw, double (&to)[2]) {
#pragma unroll
  for (int v = 0; v < 2; ++v) to[v] = __longlong_as_double(static_cast<long long>(long_of(raw, v)));
}
CBKERNELS_DEVICE void unpack(const uint4& raw, uint64_t (&to)[2]) {
#pragma unroll
  for (int v = 0; v < 2; ++v) to[v] = long_of(raw, v);
}

template <class Kind>
using WorstOfPairs = typename Kind::Worst[pairs_of_a_thread];

template <class Kind>
CBKERNELS_DEVICE void compare_tile(const Tile<typename Kind::Value>& tile, WorstOfPairs<Kind>& worst) {
  using Value = typename Kind::Value;
  constexpr int per_chunk = Tile<Value>::per_chunk;
  const int left = threadIdx.x / threads_a_side, right = tile_rows + threadIdx.x % threads_a_side;
#pragma unroll 1
  for (int column = 0; column < Tile<Value>::columns; column += per_chunk) {
    Value a[pairs_a_side][per_chunk], b[per_chunk];
#pragma unroll
    for (int i = 0; i < pairs_a_side; ++i)
      unpack(*reinterpret_cast<const uint4*>(&tile.at[left + i * threads_a_side][column]), a[i]);
#pragma unroll
    for (int j = 0; j < pairs_a_side; ++j) {
      unpack(*reinterpret_cast<const uint4*>(&tile.at[right + j * threads_a_side][column]), b);
#pragma unroll
      for (int i = 0; i < pairs_a_side; ++i)
#pragma unroll
        for (int v = 0; v < per_chunk; ++v) Kind::include(worst[pairs_a_side * i + j], a[i][v], b[v]);
    }
  }
}

// Bit k: pair k of this thread may still be the best.
template <class Kind>
CBKERNELS_DEVICE unsigned open_pairs(unsigned pairs, const WorstOfPairs<Kind>& worst, typename Kind::Pattern limit) {
  unsigned open = 0;
#pragma unroll
  for (int k = 0; k < pairs_of_a_thread; ++k)
    if (Kind::pattern(worst[k]) < limit) open |= 1u << k;
  return open & pairs;
}

// Columns [first, last) of the tile, or fewer when no pair is open any more.
template <class Kind>
CBKERNELS_DEVICE void compare_span(const Problem& p, const Place& place, int64_t first, int64_t last, unsigned pairs,
                                   WorstOfPairs<Kind>& worst) {
  using Value = typename Kind::Value;
  CBKERNELS_DYNAMIC_SHARED(shared_memory);
  Shared<Value>& shared = *reinterpret_cast<Shared<Value>*>(shared_memory);
  if (threadIdx.x < rows_of_both_sides)
    shared.row_starts[threadIdx.x] = row_start(p.rows, place.row(p, static_cast<int>(threadIdx.x)));
  Fetched next;
  int which = 0;
  bool is_filled = false;
  unsigned open = open_pairs<Kind>(pairs, worst, read_now(Kind::limit(p.best)));
  while (__syncthreads_or(open != 0)) {  // and what was put is there, what was compared may be overwritten
    const typename Kind::Pattern limit = read_now(Kind::limit(p.best));
    if (first < last) fetch<Value>(p, shared.row_starts, first, next);  // under way while the last one is compared
    if (is_filled) {
      compare_tile<Kind>(shared.tiles[which], worst);
      open = open_pairs<Kind>(pairs, worst, limit);
    }
    if (first >= last) return;
    which ^= 1;
    put_in_tile<Kind>(p, next, shared.tiles[which]);
    is_filled = true;
    first += Tile<Value>::columns;
  }
}

}  // namespace cbkernels::cuda::margin
