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

// Hashes collide so often that the keys must be known to whoever made the rows: begin again with others.
struct KeysAreKnown {};
constexpr int64_t no_limit = std::numeric_limits<int64_t>::max();

}  // namespace cbkernels
