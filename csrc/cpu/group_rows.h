// Grouping of rows by direct comparison: the heart of the one-shot calls. Read group_rows.cpp from the bottom.
#pragma once
#include <cstdint>
#include <limits>

#include "row_blocks.h"

namespace cbkernels {

struct Grouping {
  int64_t num_bundles;
  int64_t num_nan_rows;  // all of them with check_nan, else those that were noticed
};

// Writes (N,) ids. Exact: hashes route, comparisons decide.
Grouping group_rows(RowBlocks rows, bool check_nan, int num_threads, int64_t* ids);

// Where in a row a sample begins that is one cache line of memory, where all rows lie alike: `from` or behind it. Large
// arrays of NumPy begin 16 bytes behind a line, and a sample of two lines takes twice as long.
inline int64_t on_a_line(const RowBlocks& rows, int64_t from) {
  constexpr int64_t line_bytes = 64, largest_value = 8;
  if (!rows.is_direct() || rows.row_stride() % line_bytes != 0) return from;
  const int64_t shift = -reinterpret_cast<intptr_t>(rows.row(0) + from) & (line_bytes - 1);
  return shift % largest_value == 0 && from + shift + line_bytes <= rows.row_bytes() ? from + shift : from;
}

// Hashes collide so often that the keys must be known to whoever made the rows: begin again with others.
struct KeysAreKnown {};
constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();

}  // namespace cbkernels
