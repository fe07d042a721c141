// From leaders to ids and counts. Integers only; what goes out is the same for every order of threads but the order of
// the label counts inside one bundle, which the host sorts.
#pragma once
#include "group_keys.h"
#include "labels.h"

namespace cbkernels::cuda {

// Numbers the leaders in the order of their rows and returns how many there are; ids may be null.
CBKERNELS_DEVICE uint32_t number_bundles(const Team& team, LayerWork work, int64_t* ids) {
  constexpr int unrolled = 4;
  const Share share = share_of_warp(team, work.num_rows);
  const int lane = lane_index();
  uint64_t mine = 0, total;
#pragma unroll 4
  for (int64_t i = share.begin + lane; i < share.end; i += warp_size)
    mine += (work.leader[i] == i ? 1ull : 0ull) + (work.holds_nan[i] ? 1ull << 32 : 0ull);
  // What the warps before this one have is what its first lane gets.
  uint32_t number = static_cast<uint32_t>(__shfl_sync(whole_warp, team.exclusive_sum(mine, &total), 0));
  if (team.rank() == 0) {
    work.result->num_bundles = static_cast<uint32_t>(total);
    work.result->num_nan_rows = static_cast<int64_t>(total >> 32);
  }
  if (ids == nullptr) return static_cast<uint32_t>(total);
#pragma unroll 1
  for (int64_t begin = share.begin; begin < share.end; begin += unrolled * warp_size) {
    bool leads[unrolled];
#pragma unroll
    for (int j = 0; j < unrolled; ++j) {
      const int64_t i = begin + j * warp_size + lane;
      leads[j] = i < share.end && work.leader[i] == i;
    }
#pragma unroll
    for (int j = 0; j < unrolled; ++j) {
      const unsigned leaders = __ballot_sync(whole_warp, leads[j]);
      if (leads[j]) work.rank[begin + j * warp_size + lane] = number + __popc(leaders & ((1u << lane) - 1));
      number += static_cast<uint32_t>(__popc(leaders));
    }
  }
  team.sync();
  for_each_batch(team, work.num_rows, [&](const Batch& batch) {
    uint32_t leader[batch_size], rank[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) leader[j] = work.leader[batch.k[j]];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) rank[j] = work.rank[leader[j]];
#pragma unroll
    for (int j = 0; j < batch_size; ++j)
      if (batch.there[j]) ids[batch.k[j]] = rank[j];
  });
  return static_cast<uint32_t>(total);
}

// Counts the labels of every bundle of two rows or more.
CBKERNELS_DEVICE void count_labels(const Team& team, LayerWork work, uint32_t num_bundles, uint32_t* slots,
                                   const Labels& labels, uint32_t* out, unsigned long long* out_used) {
  if (num_bundles == work.num_rows) return;
  uint32_t *const num_labels = work.members, *const place = work.begin, *const filled = work.filled;
  uint32_t* const counts = pair_counts(work);
  clear_slots(team, slots, work.num_slots);
  for (int64_t i = team.rank(); i < work.num_slots; i += team.size()) counts[i] = 0;
  for (int64_t i = team.rank(); i < work.num_rows; i += team.size()) {
    num_labels[i] = filled[i] = 0;
    work.marked[i] = 0;
  }
  team.sync();
  for (int64_t i = team.rank(); i < work.num_rows; i += team.size())
    if (work.leader[i] != i) work.marked[work.leader[i]] = 1;
  team.sync();
  for_each_in_warps(team, work.num_rows, [&](int64_t i, bool there) {
    const uint32_t leader = there ? work.leader[i] : 0;
    const bool counted = there && work.marked[leader];
    const int64_t label = counted ? label_at(labels, i) : 0;
    bool is_new;
    const uint32_t slot = find_slot_together(
        slots, work.num_slots, leader + 0x9e3779b97f4a7c15ull * static_cast<uint64_t>(label), static_cast<uint32_t>(i),
        counted, [&](uint32_t other) { return work.leader[other] == leader && label_at(labels, other) == label; },
        &is_new);
    if (is_new) atomicAdd(num_labels + leader, 1u);
    count_together(counts, slot, counted);
  });
  team.sync();
  const Share share = share_of_warp(team, work.num_rows);
  const int lane = lane_index();
  uint64_t mine = 0, total;
#pragma unroll 4
  for (int64_t i = share.begin + lane; i < share.end; i += warp_size)
    if (num_labels[i] >= 2) mine += (1ull << 32) + num_labels[i];
  uint64_t before = __shfl_sync(whole_warp, team.exclusive_sum(mine, &total), 0);  // of the warps before this one
  const int64_t num_conflicting = static_cast<int64_t>(total >> 32), num_counts = static_cast<uint32_t>(total);
  if (num_conflicting == 0) return;
  if (team.rank() == 0) {
    work.result->num_conflicting = num_conflicting;
    work.result->num_label_counts = num_counts;
    work.result->out_begin =
        static_cast<int64_t>(atomicAdd(out_used, static_cast<unsigned long long>(num_counts + num_conflicting)));
  }
  team.sync();
  uint32_t* const out_counts = out + work.result->out_begin;
  uint32_t* const out_starts = out_counts + num_counts;
  for (int64_t begin = share.begin; begin < share.end; begin += warp_size) {
    const int64_t i = begin + lane;
    const uint32_t labels_here = i < share.end ? num_labels[i] : 0;
    const uint64_t here = labels_here >= 2 ? (1ull << 32) + labels_here : 0;
    if (!__any_sync(whole_warp, here != 0)) continue;
    uint64_t inclusive = here;
#pragma unroll
    for (int step = 1; step < warp_size; step *= 2) {
      const uint64_t add = __shfl_up_sync(whole_warp, inclusive, step);
      if (lane >= step) inclusive += add;
    }
    const uint64_t at = before + inclusive - here;
    if (here != 0) place[i] = out_starts[at >> 32] = static_cast<uint32_t>(at);
    before += __shfl_sync(whole_warp, inclusive, warp_size - 1);
  }
  team.sync();
  uint64_t rows = 0;
  for (int64_t i = team.rank(); i < work.num_slots; i += team.size()) {
    const uint32_t row = slots[i];
    if (row == no_row) continue;
    const uint32_t leader = work.leader[row];
    if (num_labels[leader] < 2) continue;
    out_counts[place[leader] + atomicAdd(filled + leader, 1u)] = counts[i];
    rows += counts[i];
  }
  team.exclusive_sum(rows, &total);
  if (team.rank() == 0) work.result->num_conflicting_rows = static_cast<int64_t>(total);
}

}  // namespace cbkernels::cuda
