// Rows of at most 4 KiB, many of them duplicates: one pass, in order, each row compared with a candidate while it is
// in the L1 cache.
#pragma once
#include <cstdint>

#include "row_blocks.h"

namespace cbkernels {

struct ShortRows {
  const uint8_t* skip;  // rows that lead themselves, or follow one that does, and differ from all others; may be null
  int64_t* leader;  // of the others it becomes the first row that is equal
  uint8_t* nan;  // 1 where a NaN was seen, else left
  uint8_t* read_whole;  // 1 for rows whose values were all looked at for NaN, else left; may be null
  int64_t most_collisions;  // of each thread, before it throws KeysAreKnown
};

void group_short_rows(const RowBlocks& rows, const ShortRows& out, int num_threads);

}  // namespace cbkernels
