// The distance of two rows, found by one warp, and whether the first of them holds a NaN.
#pragma once
#include "distances.h"
#include "row_layout.h"

namespace cbkernels::cuda::margin {

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

}  // namespace cbkernels::cuda::margin
