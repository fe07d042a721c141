// How a search for the conflict margin is cut into pieces of work: arithmetic of the host's, which tests ask about GPUs
// that are not there.
#pragma once
#include <algorithm>
#include <cstdint>

namespace cbkernels::cuda::margin {

constexpr int tile_rows = 64;  // on each side of a tile of pairs
constexpr int64_t columns_at_once = 32;  // of float32, that a tile has in shared memory
constexpr int64_t least_span = 128;  // columns; fewer cost more to put together than to compare
constexpr int64_t least_row_span = 1024;

struct Cut {
  int64_t num_row_spans, row_span;  // columns of a row that one warp takes at a time
  int64_t num_tiles, num_spans, span;  // columns of a tile that one block takes
};

inline int64_t parts(int64_t all, int64_t each) { return (all + each - 1) / each; }
inline int64_t at_least_one(int64_t count) { return count < 1 ? 1 : count; }

// Several items for every warp and two for every block, as far as the columns go.
inline Cut cut_of(int64_t num_rows, int64_t columns, int64_t resident_warps, int64_t resident_blocks) {
  Cut cut{};
  const int64_t wanted = parts(4 * resident_warps, at_least_one(num_rows));
  const int64_t row_spans = at_least_one(std::min(wanted, columns / least_row_span));
  constexpr int64_t unit = 128;  // a tile's columns, and chunks
  cut.row_span = at_least_one(parts(parts(columns, row_spans), unit)) * unit;
  cut.num_row_spans = at_least_one(parts(columns, cut.row_span));

  const int64_t side = parts(num_rows, tile_rows);
  cut.num_tiles = side * (side + 1) / 2;
  const bool is_cut = cut.num_tiles > 0 && cut.num_tiles <= resident_blocks;
  const int64_t spans = is_cut ? at_least_one(std::min(2 * resident_blocks / cut.num_tiles, columns / least_span)) : 1;
  cut.span = at_least_one(parts(parts(columns, spans), columns_at_once)) * columns_at_once;
  cut.num_spans = at_least_one(parts(columns, cut.span));
  return cut;
}

}  // namespace cbkernels::cuda::margin
