// The kernel that finds the leader of every row of every layer, exactly, and the phases it is made of. A hash of a few
// places routes; rows that are then alone are done. The others are compared with their leader; what differs is hashed
// to its end, grouped again and compared again; rows whose hashes still collide are compared, leader after leader.
#pragma once
#include "count_labels.h"
#include "row_kernels_loops.h"

namespace cbkernels::cuda {

// --- one warp's work ------------------------------------------------------------------------------------------------

template <class Kind>
CBKERNELS_DEVICE void sample_item(const Layer& layer, int64_t item, const uint32_t* block_keys, uint64_t routing_mask) {
  const int64_t row = item * rows_per_sample + lane_index() / lanes_per_sample;
  const int64_t last = layer.work.num_rows - 1;
  const RowSample sample = sample_row<Kind>(layer.elements, row < last ? row : last, layer.places, block_keys);
  if (row > last || lane_index() % lanes_per_sample != 0) return;
  layer.work.sums[2 * row] = sample.hash & routing_mask;
  layer.work.holds_nan[row] = sample.holds_nan;
  layer.work.differs[row] = layer.work.marked[row] = 0;
}

// One piece of the rows of one tile, against their leader.
template <class Kind>
CBKERNELS_DEVICE void compare_item(const Layer& layer, int64_t item) {
  const LayerWork& work = layer.work;
  const Elements& e = layer.elements;
  const int width = lanes_per_row(e), rows_side_by_side = warp_size / width;
  const int64_t tile = item / layer.num_spans, span = item % layer.num_spans;
  const uint32_t num_members = work.counters->num_members;
  const uint32_t begin_of_tile = work.tiles[tile];
  const int64_t leader = work.leader[work.order[begin_of_tile]];
  int64_t rows[rows_per_lane];
  unsigned is_open = 0;  // bit r: there is a row r, and it has not been found to differ
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) {
    const int64_t at = begin_of_tile + lane_index() / width + r * rows_side_by_side;
    rows[r] = at < num_members ? static_cast<int64_t>(work.order[at]) : leader;
    if (at >= num_members || work.leader[rows[r]] != leader || read_now(work.differs + rows[r])) continue;
    is_open |= 1u << r;
  }
  // The same for all lanes of a row: another warp may have found it to differ between their looks, and then some of
  // them would read the leader in its place, whose NaN is not the row's.
  is_open = __shfl_sync(whole_warp, is_open, lane_index() / width * width);
  if (!__any_sync(whole_warp, is_open != 0)) return;
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r)
    if ((is_open >> r & 1u) == 0) rows[r] = leader;  // costs nothing: it is being read
  const int64_t begin = span * layer.chunks_per_span, end = begin + layer.chunks_per_span;
  const Comparison seen = compare_rows<Kind>(e, leader, rows, begin, end < e.num_chunks ? end : e.num_chunks, width);
  unsigned bits = seen.differs | seen.holds_nan << 8 | (seen.leader_holds_nan ? 1u << 16 : 0u);
  for (int step = width / 2; step > 0; step /= 2) bits |= __shfl_xor_sync(whole_warp, bits, step);
  if (lane_index() % width != 0) return;
  const bool leader_holds_nan = (bits >> 16 & 1u) != 0;
  // Which rows these are is read again: kept in registers meanwhile, they would leave too few for the loads.
  if (leader_holds_nan) work.holds_nan[work.leader[read_now(work.order + begin_of_tile)]] = 1;
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) {
    if ((is_open >> r & 1u) == 0) continue;
    const bool holds_nan = (bits >> (8 + r) & 1u) != 0;
    if ((bits >> r & 1u) == 0 && !holds_nan && !leader_holds_nan) continue;
    const uint32_t row = read_now(work.order + begin_of_tile + (lane_index() / width + r * rows_side_by_side));
    if (holds_nan) work.holds_nan[row] = 1;
    work.differs[row] = 1;
  }
}

// One piece of rows that nothing else has read to their end: is there a NaN? Here a tile is rows of a list.
template <class Kind>
CBKERNELS_DEVICE void scan_item(const Layer& layer, int64_t item) {
  const LayerWork& work = layer.work;
  const Elements& e = layer.elements;
  const int width = lanes_per_row(e), rows_side_by_side = warp_size / width;
  const int64_t tile = item / layer.num_spans, span = item % layer.num_spans;
  const int64_t last = static_cast<int64_t>(work.counters->num_scanned) - 1;
  int64_t rows[rows_per_lane];
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) {
    const int64_t at = (tile * rows_per_lane + r) * rows_side_by_side + lane_index() / width;
    rows[r] = work.unread[at < last ? at : last];  // the last one again costs nothing
  }
  const int64_t begin = span * layer.chunks_per_span, end = begin + layer.chunks_per_span;
  const unsigned with_nan = scan_rows<Kind>(e, rows, begin, end < e.num_chunks ? end : e.num_chunks, width);
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r)
    if (with_nan >> r & 1u) work.holds_nan[rows[r]] = 1;
}

// Some blocks of as many pending rows, hashed.
template <class Kind>
CBKERNELS_DEVICE void hash_item(const Layer& layer, int64_t item, const uint32_t* block_keys) {
  constexpr int num_sums = num_routing_sums, num_rows = rows_per_hash;
  const LayerWork& work = layer.work;
  const int64_t first = item / layer.num_hash_spans * num_rows, span = item % layer.num_hash_spans;
  const int64_t last = static_cast<int64_t>(work.counters->num_pending) - 1;
  int64_t rows[num_rows];
#pragma unroll
  for (int r = 0; r < num_rows; ++r) rows[r] = work.pending[first + r < last ? first + r : last];
  const int64_t begin = span * layer.blocks_per_hash_span, end = begin + layer.blocks_per_hash_span;
  const int64_t num_blocks = num_blocks_of(layer.elements);
  unsigned with_nan;
  const uint64_t sum =
      sum_blocks<Kind>(layer.elements, rows, begin, end < num_blocks ? end : num_blocks, block_keys, &with_nan);
  const int lane = lane_index();
  if (lane < 16 && first + lane / num_sums <= last) {
    const int64_t row = work.pending[first + lane / num_sums];
    atomicAdd(reinterpret_cast<unsigned long long*>(work.sums + 2 * row + lane % num_sums),
              static_cast<unsigned long long>(sum));
  }
  if (lane < num_rows && first + lane <= last && (with_nan >> lane & 1u))
    work.holds_nan[work.pending[first + lane]] = 1;
}

// --- one team's work ------------------------------------------------------------------------------------------------
// These functions copy the LayerWork: the compiler then loads the address of an array once, and not again after every
// store that might have changed the struct.

// Groups the rows of a list (null: the first `count` rows) by sums[2 * row]: leaders, and the others side by side in
// tiles.
CBKERNELS_DEVICE void group_by_hash(const Team& team, const Layer& layer, uint32_t* slots, const uint32_t* list,
                                    int64_t count) {
  const LayerWork work = layer.work;
  const auto row_at = [list](int64_t k) { return list != nullptr ? list[k] : static_cast<uint32_t>(k); };
  LayerCounters& counters = *work.counters;
  const uint32_t tile_rows = static_cast<uint32_t>(rows_per_tile(layer.elements));
  clear_slots(team, slots, work.num_slots);
  for (int64_t k = team.rank(); k < count; k += team.size()) work.members[row_at(k)] = 0;
  if (team.rank() == 0) counters.num_members = counters.num_tiles = 0;
  team.sync();
  for_each_in_warps(team, count, [&](int64_t k, bool there) {
    const uint32_t row = there ? row_at(k) : 0;
    const bool takes_part = there && !work.holds_nan[row];
    const uint64_t hash = takes_part ? work.sums[2 * static_cast<int64_t>(row)] : 0;
    bool is_new;
    const uint32_t slot = find_slot_together(
        slots, work.num_slots, hash, row, takes_part,
        [&](uint32_t other) { return work.sums[2 * static_cast<int64_t>(other)] == hash; }, &is_new);
    if (takes_part) work.slot[row] = slot;
  });
  team.sync();
  for_each_in_warps(team, count, [&](int64_t k, bool there) {
    const uint32_t row = there ? row_at(k) : 0;
    uint32_t leader = row;
    if (there) work.leader[row] = leader = work.holds_nan[row] ? row : slots[work.slot[row]];
    const uint32_t rank = count_together(work.members, leader, leader != row);
    if (leader != row) work.rank[row] = rank;
  });
  team.sync();
  for_each_in_warps(team, count, [&](int64_t k, bool there) {
    const uint32_t row = there ? row_at(k) : 0;
    const uint32_t members = there ? work.members[row] : 0;
    if (!__any_sync(whole_warp, members != 0)) return;
    const uint32_t begin = add_together(&counters.num_members, members);
    const uint32_t first_tile = add_together(&counters.num_tiles, (members + tile_rows - 1) / tile_rows);
    if (members == 0) return;
    work.begin[row] = begin;
    work.first_tile[row] = first_tile;
  });
  team.sync();
  for (int64_t k = team.rank(); k < count; k += team.size()) {
    const uint32_t row = row_at(k), leader = work.leader[row];
    if (leader == row) continue;
    const uint32_t rank = work.rank[row], at = work.begin[leader] + rank;
    work.order[at] = row;
    if (rank % tile_rows == 0) work.tiles[work.first_tile[leader] + rank / tile_rows] = at;
  }
}

// After a comparison: what differs from its leader is pending; leaders that nothing equals may be scanned for NaN.
CBKERNELS_DEVICE void list_pending(const Team& team, const Layer& layer, bool scan_for_nan) {
  const LayerWork work = layer.work;
  LayerCounters& counters = *work.counters;
  for_each_in_warps(team, counters.num_members, [&](int64_t k, bool there) {
    const uint32_t row = there ? work.order[k] : 0;
    const bool differs = there && work.differs[row], is_pending = differs && !work.holds_nan[row];
    if (there && !differs) work.marked[work.leader[row]] = 1;
    if (differs) work.leader[row] = row;
    if (is_pending) work.sums[2 * static_cast<int64_t>(row)] = work.sums[2 * static_cast<int64_t>(row) + 1] = 0;
    append(work.pending, &counters.num_pending, row, is_pending);
  });
  team.sync();
  if (!scan_for_nan || layer.sample_is_whole_row || !layer.elements.may_hold_nan) return;
  for_each_in_warps(team, work.num_rows, [&](int64_t i, bool there) {
    const bool unread = there && work.leader[i] == i && !work.marked[i] && !work.differs[i] && !work.holds_nan[i];
    append(work.unread, &counters.num_scanned, static_cast<uint32_t>(i), unread);
  });
  team.sync();
}

// Makes one hash of what was summed over all values of the pending rows.
CBKERNELS_DEVICE void finish_hashes(const Team& team, const Layer& layer, uint64_t routing_mask) {
  const LayerWork work = layer.work;
  if (team.rank() == 0) work.result->rows_compared += work.counters->num_members;
  for (int64_t k = team.rank(); k < work.counters->num_pending; k += team.size()) {
    const int64_t row = work.pending[k];
    const uint64_t hash = fingerprint::mix(work.sums[2 * row] ^ fingerprint::mix(work.sums[2 * row + 1]));
    work.sums[2 * row] = hash & routing_mask;
    work.differs[row] = 0;
  }
  team.sync();
}

// Rows that differ from the leader that all of their values' hash gave them: their hashes collide. One after the other
// becomes a leader, the rest is compared with it. Of one block.
template <class Kind>
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
      if (!rows_are_equal<Kind>(layer.elements, row, smallest) || lane != 0) continue;
      work.leader[row] = smallest;
      work.differs[row] = 0;
    }
    __syncthreads();
  }
}

// After the second comparison: every row's leader is final.
template <class Kind>
CBKERNELS_DEVICE void settle(const Team& team, const Layer& layer) {
  const LayerWork work = layer.work;
  for_each_in_warps(team, work.counters->num_members, [&](int64_t k, bool there) {
    const uint32_t row = there ? work.order[k] : 0;
    const bool differs = there && work.differs[row], is_lost = differs && !work.holds_nan[row];
    if (differs) work.leader[row] = row;
    append(work.pending, &work.counters->num_lost, row, is_lost);
  });
  team.sync();
  if (team.rank() == 0) {
    work.result->rows_compared += work.counters->num_members;
    work.result->rows_fingerprinted = work.counters->num_pending;
    work.result->rows_searched = work.counters->num_lost;
  }
  if (work.counters->num_lost == 0) return;
  if (team.holds_first_block()) settle_collisions<Kind>(layer, team.space);
  team.sync();
}

// --- the kernel -----------------------------------------------------------------------------------------------------

constexpr size_t scan_bytes = (sizeof(ScanSpace) + 15) / 16 * 16;
constexpr size_t keys_and_scan_bytes = (bytes_of_block_keys(num_routing_keys) + 15) / 16 * 16 + scan_bytes;
// What every GPU gives a block unasked: more would have to be asked for, on each device anew.
static_assert(keys_and_scan_bytes + 2 * largest_shared_table * sizeof(uint32_t) <= 48 << 10);

CBKERNELS_DEVICE int64_t tiles_of(int64_t rows, int64_t rows_of_a_tile) {
  return (rows + rows_of_a_tile - 1) / rows_of_a_tile;
}

// Layers of one launch have the same number of rows. Few rows: a block groups a layer, with a table in shared memory;
// many: all blocks group one layer after the other.
struct Layers {
  const Layer* layer;
  int count;
  Team team;
  uint32_t* shared_slots;

  template <class Body>
  CBKERNELS_DEVICE void for_each(const Body& body) const {
    const int step = team.is_block ? static_cast<int>(gridDim.x) : 1;
    for (int l = team.is_block ? static_cast<int>(blockIdx.x) : 0; l < count; l += step) {
      body(layer[l], team.is_block ? shared_slots : layer[l].work.slots);
      team.sync();
    }
  }
};

// Two blocks of 256 threads a multiprocessor, 128 registers a thread. One block where that would spill: of 384 threads,
// 168 registers, for kinds that make eight words of a chunk, and of 256 for those that read one in words.
template <class Kind>
constexpr int threads_of_grouping = Kind::words_per_chunk > 4 && is_in_chunks<Kind> ? 384 : threads_of_a_block;

template <class Kind>
__global__ void __launch_bounds__(threads_of_grouping<Kind>, Kind::words_per_chunk > 4 || !is_in_chunks<Kind> ? 1 : 2)
    group_rows_kernel(const __grid_constant__ GroupingLaunch launch, const __grid_constant__ Layer only) {
  CBKERNELS_DYNAMIC_SHARED(shared);
  ScanSpace* const space = reinterpret_cast<ScanSpace*>(shared + keys_and_scan_bytes - scan_bytes);
  const Layer* const layer = launch.layers != nullptr ? launch.layers : &only;
  const int num_layers = launch.num_layers;
  LaunchState* const state = launch.state;
  GridBarrier barrier{&state->arrived};
  const Team team{layer[0].has_few_rows, space, &barrier, launch.of_block};
  const Layers layers{layer, num_layers, team, reinterpret_cast<uint32_t*>(shared + keys_and_scan_bytes)};

  const uint32_t* const block_keys = fill_block_keys(shared, launch.routing_key, num_routing_keys);
  __syncthreads();
  for_each_item(
      num_layers, [&](int l) { return tiles_of(layer[l].work.num_rows, rows_per_sample); },
      [&](int l, int64_t item) { sample_item<Kind>(layer[l], item, block_keys, launch.routing_mask); });
  barrier.wait();

  // Each wait stands between what the phase before it wrote, in lists and in `state`, and who reads that. What is added
  // to `state` in a phase is read behind its wait by every block, and nothing adds to the same number before another.
#pragma unroll 1
  for (bool by_sample = true;; by_sample = false) {
    layers.for_each([&](const Layer& of, uint32_t* slots) {
      if (!by_sample) finish_hashes(team, of, launch.routing_mask);
      group_by_hash(team, of, slots, by_sample ? nullptr : of.work.pending,
                    by_sample ? of.work.num_rows : of.work.counters->num_pending);
      if (team.rank() == 0 && of.work.counters->num_tiles != 0) atomicAdd(&state->layers_with_tiles, 1u);
    });
    barrier.wait();
    if (state->layers_with_tiles == 0 && !launch.scan_for_nan) break;  // no block has anything to read: no second wait
    if (state->layers_with_tiles != 0)
      for_each_item(
          num_layers, [&](int l) { return layer[l].num_spans * layer[l].work.counters->num_tiles; },
          [&](int l, int64_t item) { compare_item<Kind>(layer[l], item); });
    barrier.wait();
    if (!by_sample) break;

    layers.for_each([&](const Layer& of, uint32_t*) {
      list_pending(team, of, launch.scan_for_nan);
      if (team.rank() != 0) return;
      if (of.work.counters->num_pending != 0) atomicAdd(&state->layers_with_pending, 1u);
      if (of.work.counters->num_scanned != 0) atomicAdd(&state->layers_to_scan, 1u);
    });
    barrier.wait();
    if (state->layers_with_pending == 0 && state->layers_to_scan == 0) break;
    if (state->layers_with_pending != 0)
      for_each_item(
          num_layers,
          [&](int l) { return tiles_of(layer[l].work.counters->num_pending, rows_per_hash) * layer[l].num_hash_spans; },
          [&](int l, int64_t item) { hash_item<Kind>(layer[l], item, block_keys); });
    if (state->layers_to_scan != 0)
      for_each_item(
          num_layers,
          [&](int l) {
            return layer[l].num_spans * tiles_of(layer[l].work.counters->num_scanned, rows_per_tile(layer[l].elements));
          },
          [&](int l, int64_t item) { scan_item<Kind>(layer[l], item); });
    barrier.wait();
    if (state->layers_with_pending == 0) break;
  }

  layers.for_each([&](const Layer& of, uint32_t* slots) {
    settle<Kind>(team, of);
    const LabelWork known = second_life(of.work);
    number_bundles(team, known, of.ids);
    if (launch.labels.data != nullptr)
      count_labels(team, known, slots, launch.labels, launch.routing_key, launch.out_used);
  });
}

}  // namespace cbkernels::cuda
