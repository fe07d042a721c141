// Grouping of rows by direct comparison: the heart of the one-shot calls. Read group_rows.cpp from the bottom.
#pragma once
#include <cstdint>

#include "row_blocks.h"

namespace cbkernels {

struct Grouping {
  int64_t num_bundles;
  int64_t num_nan_rows;  // all of them with check_nan, else those that were noticed
};

// Writes (N,) ids. Exact: hashes route, comparisons decide.
Grouping group_rows(const RowBlocks& rows, bool check_nan, int num_threads, int64_t* ids);

}  // namespace cbkernels
