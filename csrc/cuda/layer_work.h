// The working memory of one layer on the device: at most 64 bytes a row, one allocation with two lives. While leaders
// are being found it is a LayerWork; when they are known, labels are counted in the same memory as a LabelWork.
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
  uint64_t* sums;   // (N, 2) hashes
  uint32_t* leader;
  uint32_t* order;    // rows behind a leader, side by side
  uint32_t* tiles;    // where in `order` a tile begins
  uint32_t* unread;   // rows to scan for NaN, listed when the tiles are done: the same memory
  uint32_t* pending;  // rows that differ from their leader; shares its memory with `out`
  uint32_t* members;  // of a leader: how many rows are behind it
  uint32_t* begin;    // of a leader: where they are in `order`
  uint32_t* first_tile;  // of a leader
  uint32_t* slot;  // of a row's key
  uint32_t* rank;  // of a row among those behind its leader, when the leader is known: the same memory
  uint8_t* holds_nan;
  uint8_t* differs;  // from the leader
  uint8_t* marked;   // of a leader: a row equals it
  uint32_t* out;     // (3 N / 2) label counts and starts
  LayerCounters* counters;
  LayerResult* result;
};

struct LabelWork {  // the second life; leader and holds_nan, num_rows and num_slots are those of the first
  int64_t num_rows;
  uint32_t num_slots;
  const uint32_t* leader;
  const uint8_t* holds_nan;
  uint32_t* number;       // of a leader among leaders
  uint32_t* pair_counts;  // (num_slots) how many rows have the bundle and label of a slot
  uint32_t* num_labels;   // of a leader
  uint32_t* place;        // of a leader: where its label counts go
  uint32_t* filled;       // of a leader: how many of them are there
  uint8_t* is_followed;   // of a leader: it is not alone
  uint32_t* out;
  LayerResult* result;
};
CBKERNELS_DEVICE LabelWork second_life(const LayerWork& work) {
  return {
      work.num_rows, work.num_slots, work.leader,     work.holds_nan, work.rank, reinterpret_cast<uint32_t*>(work.sums),
      work.members,  work.begin,     work.first_tile, work.marked,    work.out,  work.result};
}

struct LaunchState {  // starts at 0
  unsigned arrived;  // at the barrier of the grid
  uint32_t layers_with_tiles, layers_with_pending, layers_to_scan;
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
  work.unread = work.tiles;
  work.slot = work.rank;
}

}  // namespace cbkernels::cuda
