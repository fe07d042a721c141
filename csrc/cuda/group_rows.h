// The phases that find the leader of every row of every layer, exactly. A hash of a few places routes; rows that are
// then alone are done. The others are compared with their leader; what differs is hashed to its end, grouped again and
// compared again; rows whose hashes still collide are compared one leader after the other.
#pragma once
#include "count_labels.h"
#include "row_kernels.h"

namespace cbkernels::cuda {

struct Layer {
  Elements elements;
  LayerWork work;
  int64_t* ids;  // may be null
  Places places;             // of the sample
  bool sample_is_whole_row;  // every value is in the sample
  bool has_few_rows;         // a block groups it, its table in shared memory
  int64_t chunks_per_span, blocks_per_hash_span;  // of a comparison; of a hash
  uint32_t num_spans, num_hash_spans;
};

// --- one warp's work ------------------------------------------------------------------------------------------------

// item = quotient * divisor + rest. Divisions of 64 bits would take a hundred instructions.
struct Division { uint32_t quotient, rest; };
CBKERNELS_DEVICE Division divide(uint32_t item, uint32_t divisor) {
  if (divisor == 1) return {item, 0};
  return {item / divisor, item % divisor};
}

CBKERNELS_DEVICE void sample_item(const Layer& layer, uint32_t item, const uint32_t* block_keys,
                                  uint64_t routing_mask) {
  const RowSample sample =
      sample_rows(layer.elements, layer.places, static_cast<int64_t>(item) * rows_per_sample(layer.places), block_keys);
  if (sample.row < 0) return;
  layer.work.sums[2 * sample.row] = sample.hash & routing_mask;
  layer.work.holds_nan[sample.row] = sample.holds_nan;
  layer.work.differs[sample.row] = layer.work.marked[sample.row] = 0;
  layer.work.members[sample.row] = 0;
}

// One piece of some rows that are side by side in a list: each against its leader, or (is_scan) looking for NaN in rows
// that nothing else has read to the end. *differs becomes 1 when a row does.
CBKERNELS_DEVICE void compare_item(const Layer& layer, uint32_t item, bool is_scan, uint32_t* differs) {
  const LayerWork& work = layer.work;
  const Elements& e = layer.elements;
  const int width = lanes_per_row(e), rows_side_by_side = warp_size / width;
  const Division part = divide(item, layer.num_spans);
  const uint32_t* const list = is_scan ? work.led_by : work.order;
  const uint32_t list_size = is_scan ? work.counters->num_scanned : work.counters->num_members;
  const uint32_t first = part.quotient * rows_per_lane * rows_side_by_side;
  uint32_t rows[rows_per_lane], leaders[rows_per_lane];
  unsigned is_open = 0;  // bit r: there is a row r, and it has not been found to differ
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) {
    const uint32_t wanted = first + lane_index() / width + r * rows_side_by_side;
    const uint32_t at = wanted < list_size ? wanted : list_size - 1;
    rows[r] = list[at];
    leaders[r] = work.led_by[is_scan ? first : at];
    if (wanted < list_size) is_open |= 1u << r;
  }
  if (!is_scan && layer.num_spans > 1) {  // else nobody else compares these rows
#pragma unroll
    for (int r = 0; r < rows_per_lane; ++r)
      if (read_now(work.differs + rows[r])) is_open &= ~(1u << r);
  }
  if (!__any_sync(whole_warp, is_open != 0)) return;
  const uint32_t first_leader = __shfl_sync(whole_warp, leaders[0], 0);
  bool is_same = true;
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) {
    if (leaders[r] != first_leader) is_same = false;
    if ((is_open >> r & 1u) == 0) rows[r] = leaders[r];  // costs nothing: it is being read
  }
  const bool have_one_leader = __all_sync(whole_warp, is_same);
  const int64_t begin = part.rest * layer.chunks_per_span, end = begin + layer.chunks_per_span;
  const Comparison seen =
      compare_rows(e, have_one_leader, leaders, rows, begin, end < e.num_chunks ? end : e.num_chunks, width);
  unsigned bits = seen.differs | seen.holds_nan << 8 | seen.leader_holds_nan << 16;
  for (int step = width / 2; step > 0; step /= 2) bits |= __shfl_xor_sync(whole_warp, bits, step);
  if (lane_index() % width != 0 || bits == 0) return;
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) {
    if ((is_open >> r & 1u) == 0) continue;
    const bool holds_nan = (bits >> (8 + r) & 1u) != 0, leader_holds_nan = (bits >> (16 + r) & 1u) != 0;
    if (holds_nan) work.holds_nan[rows[r]] = 1;
    if (leader_holds_nan) work.holds_nan[leaders[r]] = 1;
    if (!is_scan && ((bits >> r & 1u) || holds_nan || leader_holds_nan)) work.differs[rows[r]] = *differs = 1;
  }
}

// Some blocks of eight pending rows, hashed.
CBKERNELS_DEVICE void hash_item(const Layer& layer, uint32_t item, const uint32_t* block_keys) {
  constexpr int num_sums = 2, num_rows = 16 / num_sums;
  const Division part = divide(item, layer.num_hash_spans);
  const uint32_t first = part.quotient * num_rows;
  uint32_t rows[num_rows];
  {
    const uint32_t last = layer.work.counters->num_pending - 1;
#pragma unroll
    for (int r = 0; r < num_rows; ++r) rows[r] = layer.work.pending[first + r < last ? first + r : last];
  }
  const int64_t begin = part.rest * layer.blocks_per_hash_span, end = begin + layer.blocks_per_hash_span;
  const int64_t num_blocks = num_blocks_of(layer.elements);
  unsigned with_nan;
  const uint64_t sum = sum_blocks_of_any_kind<num_sums>(layer.elements, rows, begin,
                                                        end < num_blocks ? end : num_blocks, block_keys, &with_nan);
  const LayerWork& work = layer.work;
  const uint32_t lane = static_cast<uint32_t>(lane_index()), num_pending = work.counters->num_pending;
  if (lane < 16 && first + lane / num_sums < num_pending) {
    const int64_t row = work.pending[first + lane / num_sums];
    atomicAdd(reinterpret_cast<unsigned long long*>(work.sums + 2 * row + lane % num_sums),
              static_cast<unsigned long long>(sum));
  }
  if (lane < num_rows && first + lane < num_pending && (with_nan >> lane & 1u))
    work.holds_nan[work.pending[first + lane]] = 1;
}

// --- one team's work ------------------------------------------------------------------------------------------------
// These functions copy the LayerWork: the compiler then loads the address of an array once, and not again after every
// store that might have changed the struct.

// Groups the rows of a list (null: the first `count` rows) by sums[2 * row]: leaders, and the others side by side in
// `order`, those of one leader together. Are there others? `members` is 0 for all of them before; the table of a team
// of all blocks is empty.
CBKERNELS_DEVICE bool group_by_hash(const Team& team, const Layer& layer, uint32_t* slots, const uint32_t* list,
                                    int64_t count) {
  const LayerWork work = layer.work;
  const auto row_at = [list](uint32_t k) { return list != nullptr ? list[k] : k; };
  LayerCounters& counters = *work.counters;
  if (team.is_block) {
    clear_slots(team, slots, work.num_slots);
    team.sync();
  }
  for_each_batch(team, count, [&](const Batch& batch) {
    uint32_t row[batch_size], slot[batch_size];
    uint64_t hash[batch_size];
    bool takes_part[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) row[j] = row_at(batch.k[j]);
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      hash[j] = work.sums[2 * static_cast<int64_t>(row[j])];
      takes_part[j] = batch.there[j] && !work.holds_nan[row[j]];
    }
    find_slots(
        slots, work.num_slots, hash, row, takes_part,
        [&](uint32_t other) { return work.sums[2 * static_cast<int64_t>(other)]; }, slot);
#pragma unroll
    for (int j = 0; j < batch_size; ++j)
      if (batch.there[j]) work.rank[row[j]] = takes_part[j] ? slot[j] : 0;  // it is read for every row
  });
  team.sync();
  bool has_members = false;
  for_each_batch(team, count, [&](const Batch& batch) {
    uint32_t row[batch_size], slot[batch_size], leader[batch_size], rank[batch_size];
    bool has_slot[batch_size], is_led[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) row[j] = row_at(batch.k[j]);
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      has_slot[j] = batch.there[j] && !work.holds_nan[row[j]];
      slot[j] = work.rank[row[j]];
    }
#pragma unroll
    for (int j = 0; j < batch_size; ++j) leader[j] = has_slot[j] ? slots[slot[j]] : row[j];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      is_led[j] = leader[j] != row[j];
      has_members |= is_led[j];
      if (batch.there[j]) work.leader[row[j]] = leader[j];
    }
    if (!__any_sync(whole_warp, has_members)) return;
    count_together(work.members, leader, is_led, rank);
#pragma unroll
    for (int j = 0; j < batch_size; ++j)
      if (is_led[j]) work.rank[row[j]] = rank[j];
  });
  if (__any_sync(whole_warp, has_members) && lane_index() == 0) counters.has_members = 1;
  team.sync();
  if (counters.has_members == 0) return false;
  for_each_batch(team, count, [&](const Batch& batch) {
    uint32_t row[batch_size], members[batch_size], all = 0;
#pragma unroll
    for (int j = 0; j < batch_size; ++j) row[j] = row_at(batch.k[j]);
#pragma unroll
    for (int j = 0; j < batch_size; ++j) members[j] = batch.there[j] ? work.members[row[j]] : 0;
#pragma unroll
    for (int j = 0; j < batch_size; ++j) all += members[j];
    if (!__any_sync(whole_warp, all != 0)) return;
    uint32_t begin = add_together(&counters.num_members, all);
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      if (members[j] != 0) work.begin[row[j]] = begin;
      begin += members[j];
    }
  });
  team.sync();
  for_each_batch(team, count, [&](const Batch& batch) {
    uint32_t row[batch_size], leader[batch_size], at[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) row[j] = row_at(batch.k[j]);
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      leader[j] = batch.there[j] ? work.leader[row[j]] : row[j];
      at[j] = work.rank[row[j]];
    }
#pragma unroll
    for (int j = 0; j < batch_size; ++j) at[j] += leader[j] != row[j] ? work.begin[leader[j]] : 0;
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      if (leader[j] == row[j]) continue;
      work.order[at[j]] = row[j];
      work.led_by[at[j]] = leader[j];
    }
  });
  return true;
}

// After a comparison: what differs from its leader is pending (has_differing: there is some in a layer); leaders that
// nothing equals may be scanned for NaN.
CBKERNELS_DEVICE void list_pending(const Team& team, const Layer& layer, bool has_differing, bool scan_for_nan,
                                   LaunchState* state) {
  const LayerWork work = layer.work;
  LayerCounters& counters = *work.counters;
  const bool scans = scan_for_nan && !layer.sample_is_whole_row && layer.elements.may_hold_nan;
  if (!has_differing && !scans) return;
  for_each_batch(team, counters.num_members, [&](const Batch& batch) {
    uint32_t row[batch_size], leader[batch_size];
    bool differs[batch_size], is_pending[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      row[j] = work.order[batch.k[j]];
      leader[j] = work.led_by[batch.k[j]];
    }
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      differs[j] = batch.there[j] && work.differs[row[j]];
      is_pending[j] = differs[j] && !work.holds_nan[row[j]];
    }
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      if (scans && batch.there[j] && !differs[j]) work.marked[leader[j]] = 1;
      if (differs[j]) work.leader[row[j]] = row[j];
      if (is_pending[j])
        work.sums[2 * static_cast<int64_t>(row[j])] = work.sums[2 * static_cast<int64_t>(row[j]) + 1] = 0;
    }
    if (append(work.pending, &counters.num_pending, row, is_pending)) state->has_pending = 1;
  });
  if (!scans) return;
  team.sync();
  for_each_batch(team, work.num_rows, [&](const Batch& batch) {
    bool is_unread[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      const uint32_t row = batch.k[j];
      const unsigned is_known = work.marked[row] | work.differs[row] | work.holds_nan[row];
      is_unread[j] = batch.there[j] && work.leader[row] == row && is_known == 0;
    }
    if (append(work.led_by, &counters.num_scanned, batch.k, is_unread)) state->has_scanned = 1;
  });
}

// Makes one hash of what was summed over all values of the pending rows, and everything ready to group them.
CBKERNELS_DEVICE void finish_hashes(const Team& team, const Layer& layer, uint64_t routing_mask) {
  const LayerWork work = layer.work;
  LayerCounters& counters = *work.counters;
  for_each_batch(team, counters.num_pending, [&](const Batch& batch) {
    int64_t row[batch_size];
    uint64_t hash[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) row[j] = work.pending[batch.k[j]];
#pragma unroll
    for (int j = 0; j < batch_size; ++j)
      hash[j] = fingerprint::mix(work.sums[2 * row[j]] ^ fingerprint::mix(work.sums[2 * row[j] + 1]));
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      if (!batch.there[j]) continue;
      work.sums[2 * row[j]] = hash[j] & routing_mask;
      work.differs[row[j]] = 0;
    }
  });
  if (!team.is_block) clear_slots(team, work.slots, work.num_slots);
  if (team.rank() == 0) {
    work.result->rows_compared += counters.num_members;
    counters.num_members = counters.has_members = 0;
  }
  team.sync();
}

// Rows that differ from the leader that all of their values' hash gave them: their hashes collide. One after the other
// becomes a leader, the rest is compared with it. Of one block.
CBKERNELS_DEVICE void settle_collisions(const Layer& layer, ScanSpace* space) {
  const LayerWork work = layer.work;
  const uint32_t count = work.counters->num_lost;
  const int lane = lane_index(), warp = threadIdx.x / warp_size, num_warps = blockDim.x / warp_size;
  for (;;) {
    uint32_t smallest = no_row;
    for (uint32_t k = threadIdx.x; k < count; k += blockDim.x)
      if (work.differs[work.pending[k]] && work.pending[k] < smallest) smallest = work.pending[k];
    for (int step = warp_size / 2; step > 0; step /= 2) {
      const uint32_t other = __shfl_xor_sync(whole_warp, smallest, step);
      smallest = other < smallest ? other : smallest;
    }
    __syncthreads();
    if (lane == 0) space->of_warp[warp] = smallest;
    __syncthreads();
    for (int w = 0; w < num_warps; ++w)
      if (space->of_warp[w] < smallest) smallest = static_cast<uint32_t>(space->of_warp[w]);
    if (smallest == no_row) return;
    if (threadIdx.x == 0) {
      work.leader[smallest] = smallest;
      work.differs[smallest] = 0;
    }
    __syncthreads();
    for (uint32_t k = warp; k < count; k += num_warps) {
      const uint32_t row = work.pending[k];
      if (!work.differs[row]) continue;
      if (!rows_are_equal(layer.elements, row, smallest) || lane != 0) continue;
      work.leader[row] = smallest;
      work.differs[row] = 0;
    }
    __syncthreads();
  }
}

// After the second comparison, where a row of a layer differed: every row's leader is final.
CBKERNELS_DEVICE void settle(const Team& team, const Layer& layer) {
  const LayerWork work = layer.work;
  for_each_batch(team, work.counters->num_members, [&](const Batch& batch) {
    uint32_t row[batch_size];
    bool is_lost[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) row[j] = work.order[batch.k[j]];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      const bool differs = batch.there[j] && work.differs[row[j]];
      is_lost[j] = differs && !work.holds_nan[row[j]];
      if (differs) work.leader[row[j]] = row[j];
    }
    append(work.pending, &work.counters->num_lost, row, is_lost);
  });
  team.sync();
  if (work.counters->num_lost == 0) return;
  if (team.holds_first_block()) settle_collisions(layer, team.space);
  team.sync();
}

CBKERNELS_DEVICE void note_work(const Team& team, const LayerWork& work) {
  if (team.rank() != 0) return;
  work.result->rows_compared += work.counters->num_members;
  work.result->rows_fingerprinted = work.counters->num_pending;
  work.result->rows_searched = work.counters->num_lost;
}

}  // namespace cbkernels::cuda
