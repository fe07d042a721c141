// Rows of at most 4 KiB, many of them duplicates: one pass, in order. A row is compared with the leader of
// the row before; else hashed, looked up and compared with the leader it finds while it is in the L1 cache.
#pragma once
#include <cstdint>

#include "row_blocks.h"

namespace cbkernels {

// Sets leader[i] and, where a NaN is seen, nan[i], for every row with skip[i] == 0 (skip may be null). All rows
// that are not skipped are read whole.
void group_short_rows(const RowBlocks& rows, const uint8_t* skip, int num_threads, int64_t* leader, uint8_t* nan);

}  // namespace cbkernels
