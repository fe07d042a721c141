// The working memory of one layer on the device: at most 64 bytes a row, laid out once, reused from phase to phase.
#pragma once
#include "device.h"

namespace cbkernels::cuda {

constexpr uint32_t no_row = 0xffffffffu;
constexpr int64_t most_rows = (int64_t{1} << 30) - 1;  // of one launch: two slots a row are counted in 31 bits
constexpr int64_t largest_shared_table = 4096;  // rows whose table fits the shared memory of every GPU

struct LayerCounters {  // start at 0
  uint32_t num_members;  // rows behind a leader, in `order`
  uint32_t num_tiles;
  uint32_t num_pending;  // rows that differ from their leader
  uint32_t num_scanned;  // rows that only a scan for NaN has read
  uint32_t num_lost;     // rows whose hashes collided
};

struct LayerResult {
  int64_t num_bundles, num_nan_rows, num_conflicting, num_conflicting_rows;
  int64_t num_label_counts;  // behind them, as many starts as there are conflicting bundles
  int64_t out_begin;         // in LaunchState::out
  int64_t rows_compared, rows_fingerprinted, rows_searched;
};

struct LayerWork {
  int64_t num_rows;
  uint32_t num_slots;
  uint32_t* slots;  // an open-addressing table of rows
  uint64_t* sums;   // (N, 2) hashes; when they are done, counts of pairs of bundle and label
  uint32_t* leader;
  uint32_t* order;    // rows behind a leader, side by side
  uint32_t* tiles;    // where in `order` a tile begins; later rows to scan
  uint32_t* pending;  // shares its memory with `out`
  uint32_t* members;  // of a leader: how many rows are behind it; later: how many labels they have
  uint32_t* begin;    // of a leader: where they are in `order`; later: where its label counts go
  uint32_t* first_tile;  // of a leader; later: how many label counts are there
  uint32_t* rank;        // of a row in its bundle; later: of a leader among leaders
  uint8_t* holds_nan;
  uint8_t* differs;  // from the leader
  uint8_t* marked;   // of a leader: a row equals it
  uint32_t* out;     // (3 N / 2) label counts and starts
  LayerCounters* counters;
  LayerResult* result;
};

struct LaunchState {  // starts at 0
  unsigned arrived;   // at the barrier of the grid
  uint32_t num_tiles, num_pending, num_scanned;  // of all layers
  unsigned long long out_used;
};

// Calls `take(pointer, count)` for every array of a layer. The order puts large types first, so all are aligned.
template <class Take>
void lay_out_work(LayerWork& work, int64_t num_rows, const Take& take) {
  work.num_rows = num_rows;
  work.num_slots = static_cast<uint32_t>(2 * num_rows < 64 ? 64 : 2 * num_rows);
  take(work.sums, 2 * num_rows < 32 ? 32 : 2 * num_rows);  // pairs are counted in num_slots words of it
  take(work.slots, work.num_slots);
  take(work.leader, num_rows);
  take(work.order, num_rows);
  take(work.tiles, num_rows);
  take(work.members, num_rows);
  take(work.begin, num_rows);
  take(work.first_tile, num_rows);
  take(work.rank, num_rows);
  take(work.holds_nan, num_rows);
  take(work.differs, num_rows);
  take(work.marked, num_rows);
}

CBKERNELS_DEVICE uint32_t* pair_counts(const LayerWork& work) { return reinterpret_cast<uint32_t*>(work.sums); }

}  // namespace cbkernels::cuda
