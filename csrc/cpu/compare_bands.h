// Rows whose columns lie further apart than they do themselves, compared in the order of the memory: band by band (one
// block of all rows), each row with its leader. Row by row, every cache line would be fetched once a row that it holds.
// Where the values of a column lie side by side, rows are compared along the columns, and only those chunks of rows in
// which one leaves its leader are turned into rows.
#pragma once
#include <cstdint>
#include <vector>

#include "row_blocks.h"

namespace cbkernels {

constexpr int32_t equal_to_leader = -1;

struct Follower {
  int64_t row, leader;  // leader < row
  int32_t from;  // the blocks before are known to be equal
};

struct Departure {
  int32_t block = equal_to_leader;  // the first in which the row differs from its leader
  bool nan = false;  // in what was hashed
  uint64_t key = 0;  // hash of that block and of all behind it, up to `hashed_to`
};

// Above, the lists of a comparison by bands, 16 bytes a row and thread among them, would be more than scratch memory.
constexpr int64_t most_rows_of_bands = 1 << 16;

// Leaders whose blocks are kept while rows are compared with them: 2.5 MiB where bands are copied.
constexpr int64_t most_leaders_of_copied_bands = 8192;

// `followers` by row; departures has as many. A row that differs is hashed from there on in the same pass, which has
// its values at hand anyway. Returns `hashed_to`: where no row was equal to its leader any more, or the end; with
// to_the_end, or several threads, always the end. Adds to last_work().
int32_t compare_bands(const RowBlocks& rows, const std::vector<Follower>& followers, bool to_the_end, int num_threads,
                      std::vector<Departure>& departures);

// Sets nan of the rows listed, ascending, that hold a NaN in their block `from` or behind it. Adds to last_work().
void scan_bands(const RowBlocks& rows, const std::vector<int64_t>& unread, const int32_t* from, int num_threads,
                uint8_t* nan);

}  // namespace cbkernels
