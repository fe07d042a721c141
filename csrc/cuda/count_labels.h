// From leaders to ids and counts. Integers only; what goes out is the same for every order of threads but the order of
// the label counts inside one bundle, which the host sorts.
#pragma once
#include "../rows/values.h"
#include "group_keys.h"

namespace cbkernels::cuda {

// Numbers the leaders in the order of their rows; ids may be null.
CBKERNELS_DEVICE void number_bundles(const Team& team, LabelWork work, int64_t* ids) {
  const Share share = share_of(team, work.num_rows);
  uint64_t mine = 0, total;
  for (int64_t i = share.begin; i < share.end; ++i)
    mine += (work.leader[i] == i ? 1ull : 0ull) + (work.holds_nan[i] ? 1ull << 32 : 0ull);
  uint32_t number = static_cast<uint32_t>(team.exclusive_sum(mine, &total));
  for (int64_t i = share.begin; i < share.end; ++i)
    if (work.leader[i] == i) work.number[i] = number++;
  if (team.rank() == 0) {
    work.result->num_bundles = static_cast<uint32_t>(total);
    work.result->num_nan_rows = static_cast<int64_t>(total >> 32);
  }
  team.sync();
  if (ids != nullptr)
    for (int64_t i = team.rank(); i < work.num_rows; i += team.size()) ids[i] = work.number[work.leader[i]];
}

// Counts the labels of every bundle of two rows or more, after number_bundles.
CBKERNELS_DEVICE void count_labels(const Team& team, LabelWork work, uint32_t* slots, const LabelsView& labels,
                                   const fingerprint::Key& routing_key, unsigned long long* out_used) {
  if (work.result->num_bundles == work.num_rows) return;  // the same for the whole team
  uint32_t *const num_labels = work.num_labels, *const counts = work.pair_counts;
  clear_slots(team, slots, work.num_slots);
  for (int64_t i = team.rank(); i < work.num_slots; i += team.size()) counts[i] = 0;
  for (int64_t i = team.rank(); i < work.num_rows; i += team.size()) {
    num_labels[i] = work.filled[i] = 0;
    work.is_followed[i] = 0;
  }
  team.sync();
  for (int64_t i = team.rank(); i < work.num_rows; i += team.size())
    if (work.leader[i] != i) work.is_followed[work.leader[i]] = 1;
  team.sync();
  for_each_in_warps(team, work.num_rows, [&](int64_t i, bool there) {
    const uint32_t leader = there ? work.leader[i] : 0;
    const bool counted = there && work.is_followed[leader];
    const int64_t label = counted ? label_at(labels, i) : 0;
    bool is_new;
    const uint32_t slot = find_slot_together(
        slots, work.num_slots, fingerprint::pair_hash(routing_key, leader, static_cast<uint64_t>(label)),
        static_cast<uint32_t>(i), counted,
        [&](uint32_t other) { return work.leader[other] == leader && label_at(labels, other) == label; }, &is_new);
    if (is_new) atomicAdd(num_labels + leader, 1u);
    count_together(counts, slot, counted);
  });
  team.sync();
  const Share share = share_of(team, work.num_rows);
  uint64_t mine = 0, total;
  for (int64_t i = share.begin; i < share.end; ++i)
    if (num_labels[i] >= 2) mine += (1ull << 32) + num_labels[i];
  const uint64_t before = team.exclusive_sum(mine, &total);
  const int64_t num_conflicting = static_cast<int64_t>(total >> 32), num_counts = static_cast<uint32_t>(total);
  if (num_conflicting == 0) return;
  if (team.rank() == 0) {
    work.result->num_conflicting = num_conflicting;
    work.result->num_label_counts = num_counts;
    work.result->out_begin =
        static_cast<int64_t>(atomicAdd(out_used, static_cast<unsigned long long>(num_counts + num_conflicting)));
  }
  team.sync();
  uint32_t* const out_counts = work.out + work.result->out_begin;
  uint32_t* const out_starts = out_counts + num_counts;
  uint64_t at = before;
  for (int64_t i = share.begin; i < share.end; ++i) {
    if (num_labels[i] < 2) continue;
    work.place[i] = out_starts[at >> 32] = static_cast<uint32_t>(at);
    at += (1ull << 32) + num_labels[i];
  }
  team.sync();
  uint64_t rows = 0;
  for (int64_t i = team.rank(); i < work.num_slots; i += team.size()) {
    const uint32_t row = slots[i];
    if (row == no_row) continue;
    const uint32_t leader = work.leader[row];
    if (num_labels[leader] < 2) continue;
    out_counts[work.place[leader] + atomicAdd(work.filled + leader, 1u)] = counts[i];
    rows += counts[i];
  }
  team.exclusive_sum(rows, &total);
  if (team.rank() == 0) work.result->num_conflicting_rows = static_cast<int64_t>(total);
}

}  // namespace cbkernels::cuda
