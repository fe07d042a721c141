// Smallest L-infinity distance of two rows with different labels. Rows are compared in tiles of 64 x 64 pairs; where
// there are few tiles, each is cut into spans of columns, so that all multiprocessors work at any shape, and the
// maxima of the spans meet in global memory. A tile is given up when none of its pairs can be the best any more; the
// best is shared by all blocks and starts from neighbours.
//
// Values that fit float32 are compared in float32, two instructions a pair and column: rounding a difference never
// changes an order, so the closest pair is among the pairs whose rounded distance is smallest, and only those are
// compared again in float64.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "elements.h"
#include "labels.h"
#include "runtime.h"

namespace cbkernels::cuda {
namespace {

using Bits = unsigned long long;
constexpr Bits no_distance = ~0ull;  // no pattern of a distance is above it
constexpr uint32_t no_rounded = ~0u;

// Patterns are ordered like the distances that they stand for.
struct Best {
  Bits distance;  // of a pair that exists
  uint32_t rounded;  // pairs whose rounded distance reaches this are not the best: the pattern behind the smallest one
  uint32_t has_pair;
};

// Both call body with what makes a value of its zero-extended bits: one choice for many values.
template <class Body>
CBKERNELS_DEVICE bool with_wide_conversion(DType dtype, const Body& body) {  // false: not a wide type
  switch (dtype) {
    case DType::float64: body([](uint64_t bits) { return __longlong_as_double(static_cast<long long>(bits)); }); break;
    case DType::int32: body([](uint64_t bits) { return static_cast<double>(static_cast<int32_t>(bits)); }); break;
    case DType::uint32: body([](uint64_t bits) { return static_cast<double>(static_cast<uint32_t>(bits)); }); break;
    default: return false;
  }
  return true;
}
template <class Body>
CBKERNELS_DEVICE void with_narrow_conversion(DType dtype, const Body& body) {  // what fits float32
  switch (dtype) {
    case DType::float32: return body([](uint64_t bits) { return __uint_as_float(static_cast<uint32_t>(bits)); });
    case DType::bfloat16: return body([](uint64_t bits) { return float_of_bfloat16(static_cast<uint32_t>(bits)); });
    case DType::float8_e4m3fn:
      return body([](uint64_t bits) { return float_of_float8_e4m3fn(static_cast<uint32_t>(bits)); });
    case DType::float16:
    case DType::float8_e5m2: {
      const int shift = dtype == DType::float16 ? 0 : 8;
      return body([shift](uint64_t bits) { return float_of_float16(static_cast<uint32_t>(bits) << shift); });
    }
    case DType::int8:
    case DType::int16: {
      const int shift = dtype == DType::int16 ? 16 : 24;
      return body([shift](uint64_t bits) {
        return static_cast<float>(static_cast<int32_t>(static_cast<uint32_t>(bits) << shift) >> shift);
      });
    }
    default: return body([](uint64_t bits) { return static_cast<float>(static_cast<uint32_t>(bits)); });
  }
}

// How distances are computed. `Worst` is the maximum so far over some columns; a difference of two equal infinities is
// a NaN, which loses every comparison, so it counts as 0.
struct Doubles {  // exact, or rounded once
  using Value = double;
  using Worst = double;
  using Pattern = Bits;
  static constexpr bool is_rounded = false;
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_tile(DType dtype, const Body& body) {
    with_wide_conversion(dtype, body);
  }
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_scan(DType dtype, const Body& body) {
    if (!with_wide_conversion(dtype, body)) with_narrow_conversion(dtype, body);
  }
  CBKERNELS_DEVICE static void include(Worst& worst, Value a, Value b) {
    const double distance = fabs(a - b);
    worst = distance > worst ? distance : worst;
  }
  CBKERNELS_DEVICE static Pattern pattern(Worst worst) { return static_cast<Bits>(__double_as_longlong(worst)); }
  CBKERNELS_DEVICE static Worst of_pattern(Pattern bits) { return __longlong_as_double(static_cast<long long>(bits)); }
  CBKERNELS_DEVICE static Pattern* limit(Best* best) { return &best->distance; }
  CBKERNELS_DEVICE static Pattern limit_of(Pattern pattern) { return pattern; }
};
struct Integers {  // of 64 bits; signed ones are moved up by 2^63, which changes no distance
  using Value = uint64_t;
  using Worst = Bits;
  using Pattern = Bits;
  static constexpr bool is_rounded = false;
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_tile(DType dtype, const Body& body) {
    const uint64_t sign = dtype == DType::int64 ? uint64_t{1} << 63 : 0;
    body([sign](uint64_t bits) { return bits ^ sign; });
  }
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_scan(DType dtype, const Body& body) {
    convert_in_tile(dtype, body);
  }
  CBKERNELS_DEVICE static void include(Worst& worst, Value a, Value b) {
    const Bits distance = a > b ? a - b : b - a;
    worst = distance > worst ? distance : worst;
  }
  CBKERNELS_DEVICE static Pattern pattern(Worst worst) { return worst; }
  CBKERNELS_DEVICE static Worst of_pattern(Pattern bits) { return bits; }
  CBKERNELS_DEVICE static Pattern* limit(Best* best) { return &best->distance; }
  CBKERNELS_DEVICE static Pattern limit_of(Pattern pattern) { return pattern; }
};
struct Floats {  // rounded to float32
  using Value = float;
  using Worst = float;
  using Pattern = uint32_t;
  static constexpr bool is_rounded = true;
  template <class Body>
  CBKERNELS_DEVICE static void convert_in_tile(DType dtype, const Body& body) {
    with_narrow_conversion(dtype, body);
  }
  CBKERNELS_DEVICE static void include(Worst& worst, Value a, Value b) { worst = fmaxf(worst, fabsf(a - b)); }
  CBKERNELS_DEVICE static Pattern pattern(Worst worst) { return __float_as_uint(worst); }
  CBKERNELS_DEVICE static Worst of_pattern(Pattern bits) { return __uint_as_float(bits); }
  CBKERNELS_DEVICE static Pattern* limit(Best* best) { return &best->rounded; }
  CBKERNELS_DEVICE static Pattern limit_of(Pattern pattern) { return pattern + 1; }  // equal ones are compared again
};

struct Problem {
  RowLayout rows;
  Labels labels;
  Best* best;
  Bits* worst_of_row;  // to its neighbour
  int32_t* neighbours;  // the next row with another label, -1: none near
  uint8_t* is_left_out;  // rows that hold a NaN
  int64_t num_row_spans, row_span;  // columns of a row that one warp takes at a time
  int64_t num_tiles, num_spans, span;  // columns of a tile that one block takes
  uint32_t* rounded;  // [num_tiles][pairs_of_a_tile] where tiles are cut: maxima of Floats
  Bits* distances;  // the same: maxima of the other kinds
  bool takes_chunks;  // tiles are read 16 bytes at a time
  bool is_exact;  // differences of these values are exact in float32
};

template <class T>
CBKERNELS_DEVICE T smallest_of_warp(T value) {
  for (int step = warp_size / 2; step > 0; step /= 2) {
    const T theirs = __shfl_xor_sync(whole_warp, value, step);
    value = theirs < value ? theirs : value;
  }
  return value;
}

// --- two rows by one warp -----------------------------------------------------------------------------------------

struct Scan {
  Bits worst;
  bool holds_nan;  // the first row
};

CBKERNELS_DEVICE uint4 chunk_at(const RowLayout& rows, int64_t row, int64_t chunk) {
  return *(reinterpret_cast<const uint4*>(row_start(rows, row)) + chunk);
}
CBKERNELS_DEVICE uint32_t word_of(const uint4& chunk, int w) {
  return w == 0 ? chunk.x : w == 1 ? chunk.y : w == 2 ? chunk.z : chunk.w;
}

CBKERNELS_DEVICE uint64_t long_of(const uint4& chunk, int v) {
  return static_cast<uint64_t>(word_of(chunk, 2 * v + 1)) << 32 | word_of(chunk, 2 * v);
}

constexpr int loads_at_once = 2;

template <class Kind>
struct Pair {  // what a lane has seen of two rows
  typename Kind::Worst worst{};
  bool holds_nan = false;

  CBKERNELS_DEVICE void include(typename Kind::Value a, typename Kind::Value b) {
    holds_nan |= a != a;
    Kind::include(worst, a, b);
  }
};

template <class Kind, class Convert>
CBKERNELS_DEVICE void include_chunk(Pair<Kind>& pair, const uint4& a, const uint4& b, int itemsize,
                                    const Convert& convert) {
  if (itemsize == 8) {
#pragma unroll
    for (int v = 0; v < 2; ++v) pair.include(convert(long_of(a, v)), convert(long_of(b, v)));
    return;
  }
  const uint32_t mask = 0xffffffffu >> (32 - 8 * itemsize);
#pragma unroll
  for (int w = 0; w < 4; ++w)
#pragma unroll 1
    for (int shift = 0; shift < 32; shift += 8 * itemsize)
      pair.include(convert(word_of(a, w) >> shift & mask), convert(word_of(b, w) >> shift & mask));
}

// The loads of all lanes begin before the first value is looked at.
template <class Kind>
CBKERNELS_DEVICE void include_chunks(Pair<Kind>& pair, const RowLayout& rows, int32_t i, int32_t j, int64_t begin,
                                     int64_t end) {
  uint4 a[loads_at_once], b[loads_at_once];
#pragma unroll
  for (int u = 0; u < loads_at_once; ++u) {
    const int64_t chunk = begin + u * warp_size + lane_index();
    const bool exists = chunk < end;
    a[u] = exists ? chunk_at(rows, i, chunk) : make_uint4(0, 0, 0, 0);
    b[u] = exists ? chunk_at(rows, j, chunk) : make_uint4(0, 0, 0, 0);
  }
  Kind::convert_in_scan(rows.dtype, [&](const auto& convert) {
#pragma unroll
    for (int u = 0; u < loads_at_once; ++u) include_chunk(pair, a[u], b[u], rows.itemsize, convert);
  });
}
template <class Kind>
CBKERNELS_DEVICE void include_values(Pair<Kind>& pair, const RowLayout& rows, int32_t i, int32_t j, int64_t begin,
                                     int64_t end) {
  uint64_t a[loads_at_once], b[loads_at_once];
#pragma unroll
  for (int u = 0; u < loads_at_once; ++u) {
    const int64_t column = begin + u * warp_size + lane_index();
    const bool exists = column < end;
    a[u] = exists ? value_bits(rows, i, column) : 0;
    b[u] = exists ? value_bits(rows, j, column) : 0;
  }
  Kind::convert_in_scan(rows.dtype, [&](const auto& convert) {
#pragma unroll
    for (int u = 0; u < loads_at_once; ++u) pair.include(convert(a[u]), convert(b[u]));
  });
}

// Columns [first, last) of rows i and j; ends where the distance reaches `limit`. A span begins at a chunk.
template <class Kind>
CBKERNELS_DEVICE Scan scan_rows(const RowLayout& rows, int32_t i, int32_t j, int64_t first, int64_t last, Bits limit) {
  Pair<Kind> pair;
  const int64_t per_load = rows.is_in_chunks ? chunk_bytes / rows.itemsize : 1;
  const int64_t end = (last + per_load - 1) / per_load;
  for (int64_t begin = first / per_load; begin < end; begin += loads_at_once * warp_size) {
    if (rows.is_in_chunks)
      include_chunks(pair, rows, i, j, begin, end);
    else
      include_values(pair, rows, i, j, begin, end);
    if (__any_sync(whole_warp, Kind::pattern(pair.worst) >= limit)) break;
  }
  const Bits worst = no_distance - smallest_of_warp(no_distance - Kind::pattern(pair.worst));
  return {worst, __any_sync(whole_warp, pair.holds_nan) != 0};
}

// Every row against the next one with another label, and rows that hold a NaN.
template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block) try_neighbours_kernel(const __grid_constant__ Problem p) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.best = {no_distance, no_rounded, 0};
  const int32_t num_rows = p.rows.num_rows, lane = lane_index();
  for (int64_t item = warp_of_grid(); item < p.num_row_spans * num_rows; item += warps_of_grid()) {
    const int32_t row = static_cast<int32_t>(item % num_rows), near = row + 1 + lane;
    const int64_t first = item / num_rows * p.row_span;
    const bool differs = near < num_rows && label_at(p.labels, near) != label_at(p.labels, row);
    const unsigned others = __ballot_sync(whole_warp, differs);
    const int32_t other = others != 0 ? row + __ffs(others) : row;  // a row is 0 from itself
    const int64_t end = first + p.row_span, last = end < p.rows.num_columns ? end : p.rows.num_columns;
    const Scan seen = scan_rows<Kind>(p.rows, row, other, first, last, no_distance);
    if (lane != 0) continue;
    if (seen.holds_nan) p.is_left_out[row] = 1;
    if (first == 0) p.neighbours[row] = others != 0 ? other : -1;
    atomicMax(p.worst_of_row + row, seen.worst);
  }
}

// A float32 that is no smaller than what the distance of the same pair rounds to, however the distance was rounded.
CBKERNELS_DEVICE uint32_t rounded_up(Bits distance) {
  const double exact = __longlong_as_double(static_cast<long long>(distance));
  const float nearest = static_cast<float>(exact);
  return __float_as_uint(nearest) + (static_cast<double>(nearest) < exact ? 1 : 0);
}

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block) take_best_neighbours_kernel(const __grid_constant__ Problem p) {
  for (int64_t first = warp_of_grid() * warp_size; first < p.rows.num_rows; first += warps_of_grid() * warp_size) {
    const int64_t row = first + lane_index();
    const int32_t other = row < p.rows.num_rows ? p.neighbours[row] : -1;
    const bool counts = other >= 0 && !p.is_left_out[row] && !p.is_left_out[other];
    const Bits smallest = smallest_of_warp(counts ? p.worst_of_row[row] : no_distance);
    if (lane_index() != 0 || smallest == no_distance) continue;
    atomicMin(&p.best->distance, smallest);
    if constexpr (Kind::is_rounded) atomicMin(&p.best->rounded, Kind::limit_of(rounded_up(smallest)));
  }
}

// --- tiles of pairs -----------------------------------------------------------------------------------------------

constexpr int tile_rows = 64, pairs_a_side = 4, threads_a_side = tile_rows / pairs_a_side;
constexpr int pairs_of_a_thread = pairs_a_side * pairs_a_side, pairs_of_a_tile = tile_rows * tile_rows;
static_assert(threads_a_side * threads_a_side == threads_of_a_block);
constexpr int rows_of_both_sides = 2 * tile_rows, bytes_of_tile_row = 128;
constexpr int64_t least_span = 128;  // columns; fewer cost more to put together than to compare
constexpr int64_t least_row_span = 1024;

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
  const unsigned char* row_starts[rows_of_both_sides];  // not in registers, where sixteen of them would not fit
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

using RowStarts = const unsigned char* const*;

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
    const unsigned char* at = starts[row] + offset;
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

template <class Kind>
CBKERNELS_DEVICE typename Kind::Pattern* maxima(const Problem& p) {
  if constexpr (Kind::is_rounded)
    return p.rounded;
  else
    return p.distances;
}

// The pairs that the warp's lanes name, compared again, exactly and from end to end.
CBKERNELS_DEVICE void compare_exactly(const Problem& p, const Place& place, unsigned candidates) {
  for (unsigned owners; (owners = __ballot_sync(whole_warp, candidates != 0)) != 0;) {
    const int owner = __ffs(owners) - 1, k = __shfl_sync(whole_warp, __ffs(candidates) - 1, owner);
    if (lane_index() == owner) candidates &= candidates - 1;
    const int thread = threadIdx.x - lane_index() + owner;
    const Bits limit = __shfl_sync(whole_warp, read_now(&p.best->distance), 0);
    const Scan seen =
        scan_rows<Doubles>(p.rows, place.left(thread, k), place.right(thread, k), 0, p.rows.num_columns, limit);
    if (lane_index() == 0) atomicMin(&p.best->distance, seen.worst);
  }
}

// A tile that one block has compared from end to end.
template <class Kind>
CBKERNELS_DEVICE void finish_tile(const Problem& p, const Place& place, unsigned pairs,
                                  const WorstOfPairs<Kind>& worst) {
  typename Kind::Pattern smallest = ~typename Kind::Pattern{0};
#pragma unroll
  for (int k = 0; k < pairs_of_a_thread; ++k)
    if (pairs >> k & 1u && Kind::pattern(worst[k]) < smallest) smallest = Kind::pattern(worst[k]);
  smallest = smallest_of_warp(smallest);
  if (lane_index() == 0 && smallest != static_cast<typename Kind::Pattern>(~typename Kind::Pattern{0}))
    atomicMin(Kind::limit(p.best), Kind::limit_of(smallest));
  if constexpr (Kind::is_rounded) {
    if (p.is_exact) return;
    __syncthreads();  // the other warps' pairs narrow the choice
    const uint32_t limit = __shfl_sync(whole_warp, read_now(&p.best->rounded), 0);
    if (limit == Floats::limit_of(0)) return;  // equal rows: nothing is closer
    compare_exactly(p, place, open_pairs<Kind>(pairs, worst, limit));
  }
}

template <class Kind, bool is_cut>
__global__ void __launch_bounds__(threads_of_a_block, 2) try_all_pairs_kernel(const __grid_constant__ Problem p) {
  for (int64_t item = blockIdx.x; item < p.num_tiles * p.num_spans; item += gridDim.x) {
    const int64_t tile = item % p.num_tiles, first = item / p.num_tiles * p.span;  // the tiles of a span side by side
    const Place place = place_of(p, tile);
    typename Kind::Pattern* const mine = is_cut ? maxima<Kind>(p) + tile * pairs_of_a_tile + threadIdx.x : nullptr;
    const unsigned pairs = pairs_of(p, place);
    typename Kind::Worst worst[pairs_of_a_thread] = {};
    if constexpr (is_cut)
#pragma unroll
      for (int k = 0; k < pairs_of_a_thread; ++k)
        if (pairs >> k & 1u) worst[k] = Kind::of_pattern(read_now(mine + k * threads_of_a_block));  // in other spans
    if (pairs != 0) p.best->has_pair = 1;
    const int64_t end = first + p.span, last = end < p.rows.num_columns ? end : p.rows.num_columns;
    compare_span<Kind>(p, place, first, last, pairs, worst);
    if constexpr (!is_cut) finish_tile<Kind>(p, place, pairs, worst);
    if constexpr (is_cut)
#pragma unroll
      for (int k = 0; k < pairs_of_a_thread; ++k) {
        if (pairs >> k & 1u)
          atomicMax(mine + k * threads_of_a_block, Kind::pattern(worst[k]));
        else if (first == 0)
          mine[k * threads_of_a_block] = ~typename Kind::Pattern{0};
      }
  }
}

// --- behind tiles that were cut -----------------------------------------------------------------------------------

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block) take_smallest_kernel(const __grid_constant__ Problem p) {
  using Pattern = typename Kind::Pattern;
  constexpr Pattern none = ~Pattern{0};
  const Pattern* const all = maxima<Kind>(p);
  Pattern smallest = none;
  const int64_t step = warps_of_grid() * warp_size;
  for (int64_t k = warp_of_grid() * warp_size + lane_index(); k < p.num_tiles * pairs_of_a_tile; k += step)
    smallest = all[k] < smallest ? all[k] : smallest;
  smallest = smallest_of_warp(smallest);
  if (lane_index() == 0 && smallest != none) atomicMin(Kind::limit(p.best), Kind::limit_of(smallest));
}

// A warp takes 32 pairs of a tile and a span of columns: which of them are among the smallest?
__global__ void __launch_bounds__(threads_of_a_block) compare_smallest_kernel(const __grid_constant__ Problem p) {
  const uint32_t smallest = p.best->rounded - 1;
  if (smallest == 0) return;  // equal rows
  const int64_t groups = p.num_tiles * pairs_of_a_tile / warp_size;
  for (int64_t item = warp_of_grid(); item < groups * p.num_spans; item += warps_of_grid()) {
    const int64_t first_pair = item % groups * warp_size, first = item / groups * p.span;
    unsigned found = __ballot_sync(whole_warp, p.rounded[first_pair + lane_index()] == smallest);
    for (; found != 0; found &= found - 1) {
      const int64_t pair = first_pair + __ffs(found) - 1;
      const Bits so_far = __shfl_sync(whole_warp, read_now(p.distances + pair), 0), limit = p.best->distance;
      if (so_far >= limit) continue;  // because of other columns
      const Place place = place_of(p, pair / pairs_of_a_tile);
      const int k = static_cast<int>(pair % pairs_of_a_tile / threads_of_a_block);
      const int thread = static_cast<int>(pair % threads_of_a_block);
      const int64_t end = first + p.span, last = end < p.rows.num_columns ? end : p.rows.num_columns;
      const Scan seen = scan_rows<Doubles>(p.rows, place.left(thread, k), place.right(thread, k), first, last, limit);
      if (lane_index() == 0) atomicMax(p.distances + pair, seen.worst);
    }
  }
}

__global__ void __launch_bounds__(threads_of_a_block) take_smallest_exactly_kernel(const __grid_constant__ Problem p) {
  const uint32_t rounded = p.best->rounded - 1;
  Bits smallest = no_distance;
  const int64_t step = warps_of_grid() * warp_size;
  if (rounded == 0) return;
  for (int64_t k = warp_of_grid() * warp_size + lane_index(); k < p.num_tiles * pairs_of_a_tile; k += step)
    if (p.rounded[k] == rounded && p.distances[k] < smallest) smallest = p.distances[k];
  smallest = smallest_of_warp(smallest);
  if (lane_index() == 0 && smallest != no_distance) atomicMin(&p.best->distance, smallest);
}

// --- on the host --------------------------------------------------------------------------------------------------

template <class Kind>  // 64 bits are 64 bits where only their order counts
using PatternsOf = std::conditional_t<Kind::is_rounded, Floats, Doubles>;

int64_t parts(int64_t all, int64_t each) { return (all + each - 1) / each; }
int64_t at_least_one(int64_t count) { return count < 1 ? 1 : count; }

template <class Kernel>
LaunchShape shape_of(Kernel kernel, int64_t warps, const Stream& stream) {
  return shape_for(reinterpret_cast<const void*>(kernel), threads_of_a_block, 0, warps, stream);
}
LaunchShape shape_of_tiles(const void* kernel, int64_t blocks, const Stream& stream) {
  return shape_for(kernel, threads_of_a_block, shared_bytes, blocks * (threads_of_a_block / warp_size), stream, true);
}

constexpr int64_t all_resident = int64_t{1} << 40;

// Several items for every warp and two for every block, as far as the columns go.
template <class Exact, class Kind>
void cut(Problem& p, const Stream& stream) {
  const int64_t num_rows = p.rows.num_rows, columns = p.rows.num_columns;
  const LaunchShape warps = shape_of(try_neighbours_kernel<Exact>, all_resident, stream);
  const int64_t wanted = parts(int64_t{4} * warps.blocks * warps.threads / warp_size, at_least_one(num_rows));
  const int64_t row_spans = at_least_one(std::min(wanted, columns / least_row_span));
  constexpr int64_t unit = 128;  // a tile's columns, and chunks
  p.row_span = at_least_one(parts(parts(columns, row_spans), unit)) * unit;
  p.num_row_spans = at_least_one(parts(columns, p.row_span));

  const int64_t side = parts(num_rows, tile_rows);
  p.num_tiles = side * (side + 1) / 2;
  const int64_t resident =
      shape_of_tiles(reinterpret_cast<const void*>(try_all_pairs_kernel<Kind, true>), all_resident, stream).blocks;
  const bool is_cut = p.num_tiles > 0 && p.num_tiles <= resident;
  const int64_t spans = is_cut ? at_least_one(std::min(2 * resident / p.num_tiles, columns / least_span)) : 1;
  p.span = at_least_one(parts(parts(columns, spans), Tile<float>::columns)) * Tile<float>::columns;
  p.num_spans = at_least_one(parts(columns, p.span));
}

template <class Kind>
void search_cut_tiles(const Problem& p, const Stream& stream) {
  const auto kernel = try_all_pairs_kernel<Kind, true>;
  const int64_t pairs = p.num_tiles * pairs_of_a_tile;
  launch(kernel, shape_of_tiles(reinterpret_cast<const void*>(kernel), p.num_tiles * p.num_spans, stream), shared_bytes,
         stream, false, p);
  const auto launch_warps = [&](auto warps_kernel, int64_t warps) {
    launch(warps_kernel, shape_of(warps_kernel, warps, stream), 0, stream, false, p);
  };
  launch_warps(take_smallest_kernel<PatternsOf<Kind>>, pairs / warp_size);
  if (!Kind::is_rounded || p.is_exact) return;
  launch_warps(compare_smallest_kernel, pairs / warp_size * p.num_spans);
  launch_warps(take_smallest_exactly_kernel, pairs / warp_size);
}

template <class Exact, class Kind>
Best search(Problem p, const Stream& stream) {
  cut<Exact, Kind>(p, stream);
  const int64_t num_rows = p.rows.num_rows, maxima = p.num_spans > 1 ? p.num_tiles * pairs_of_a_tile : 0;
  const bool compares_again = Kind::is_rounded && !p.is_exact;
  Workspace workspace(stream);
  const size_t best = workspace.reserve<Best>(1), worst_of_row = workspace.reserve<Bits>(num_rows);
  const size_t distances = workspace.reserve<Bits>(!Kind::is_rounded || compares_again ? maxima : 0);
  const size_t rounded = workspace.reserve<uint32_t>(Kind::is_rounded ? maxima : 0);
  const size_t neighbours = workspace.reserve<int32_t>(num_rows), left_out = workspace.reserve<uint8_t>(num_rows);
  workspace.allocate();
  p.best = workspace.at<Best>(best);
  p.worst_of_row = workspace.at<Bits>(worst_of_row);
  p.distances = workspace.at<Bits>(distances);
  p.rounded = workspace.at<uint32_t>(rounded);
  p.neighbours = workspace.at<int32_t>(neighbours);
  p.is_left_out = workspace.at<uint8_t>(left_out);
  fill_with_zeros(workspace.at<void>(0), workspace.size(), stream);
  launch(try_neighbours_kernel<Exact>, shape_of(try_neighbours_kernel<Exact>, num_rows * p.num_row_spans, stream), 0,
         stream, false, p);
  const auto take_best = take_best_neighbours_kernel<PatternsOf<Kind>>;
  launch(take_best, shape_of(take_best, parts(num_rows, warp_size), stream), 0, stream, false, p);
  if (maxima > 0) {
    search_cut_tiles<Kind>(p, stream);
  } else {
    const auto kernel = try_all_pairs_kernel<Kind, false>;
    launch(kernel, shape_of_tiles(reinterpret_cast<const void*>(kernel), p.num_tiles, stream), shared_bytes, stream,
           false, p);
  }
  Best found;
  copy_to_host(&found, p.best, sizeof found, stream);
  synchronise(stream);
  return found;
}

// Which values are compared in float32 first, and which differences need no second look.
bool fits_float32(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
    case DType::int32:
    case DType::uint64:
    case DType::uint32: return false;
    default: return true;
  }
}
bool is_exact_in_float32(DType dtype) {
  return fits_float32(dtype) && (!is_float(dtype) || dtype == DType::float8_e4m3fn);
}
bool tiles_take_chunks(const RowLayout& rows) {
  switch (rows.dtype) {
    case DType::float64:
    case DType::float32:
    case DType::float16:
    case DType::bfloat16: return rows.is_in_chunks;
    default: return false;
  }
}

template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

}  // namespace

double conflict_margin(const RowsView& rows, const LabelsView& labels, const Stream& stream) {
  const DeviceGuard guard(stream);
  refuse_capture(stream);
  last_work() = Work{};
  Problem p{};
  p.rows = lay_out(rows, ColumnOrder::any);
  p.labels = labels_of(labels);
  p.takes_chunks = tiles_take_chunks(p.rows);
  p.is_exact = is_exact_in_float32(rows.dtype);
  const double none = std::numeric_limits<double>::infinity();
  if (rows.dtype == DType::int64 || rows.dtype == DType::uint64) {
    const Best found = search<Integers, Integers>(p, stream);
    return found.has_pair ? static_cast<double>(found.distance) : none;
  }
  const bool is_rounded = fits_float32(rows.dtype);
  const Best found = is_rounded ? search<Doubles, Floats>(p, stream) : search<Doubles, Doubles>(p, stream);
  if (!found.has_pair) return none;
  const uint32_t rounded = found.rounded - 1;
  // In patterns: the caller may have made this thread take subnormals for zero. No exact difference is one.
  return is_rounded && (p.is_exact || rounded == 0) ? static_cast<double>(same_bits<float>(rounded))
                                                    : same_bits<double>(found.distance);
}

}  // namespace cbkernels::cuda
