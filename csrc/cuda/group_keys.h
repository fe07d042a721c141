// Groups rows by a key with an open-addressing table of row numbers: the smallest row of a key ends up in its slot,
// whatever the order in which threads come.
#pragma once
#include "../fingerprint.h"
#include "layer_work.h"
#include "teams.h"

namespace cbkernels::cuda {

CBKERNELS_DEVICE uint32_t first_slot(uint64_t hash, uint32_t num_slots) {
  return static_cast<uint32_t>(__umul64hi(fingerprint::mix(hash), num_slots));
}
CBKERNELS_DEVICE uint32_t next_slot(uint32_t slot, uint32_t num_slots) { return slot + 1 == num_slots ? 0 : slot + 1; }

constexpr int slots_of_a_group = 4;  // see find_slots

// The slot of the row's key. same_key(other): has that row this row's key? Every row in the table has its key written
// before; rows of one slot have one key.
template <class SameKey>
CBKERNELS_DEVICE uint32_t find_slot(uint32_t* slots, uint32_t num_slots, uint64_t hash, uint32_t row,
                                    const SameKey& same_key, bool* is_new) {
  *is_new = false;
  for (uint32_t slot = first_slot(hash, num_slots);; slot = next_slot(slot, num_slots)) {
    uint32_t there = read_now(slots + slot);
    if (there == no_row) {
      there = atomicCAS(slots + slot, no_row, row);
      if (there == no_row) {
        *is_new = true;
        return slot;
      }
    }
    if (!same_key(there)) continue;
    if (row < there) atomicMin(slots + slot, row);
    return slot;
  }
}

// find_slot for the lanes that take part: those of a warp that have the first one's key let it search for them, so that
// equal rows do not queue for one slot. Whole warps.
template <class SameKey>
CBKERNELS_DEVICE uint32_t find_slot_together(uint32_t* slots, uint32_t num_slots, uint64_t hash, uint32_t row,
                                             bool takes_part, const SameKey& same_key, bool* is_new) {
  const int lane = lane_index();
  const unsigned peers =
      __match_any_sync(whole_warp, static_cast<unsigned long long>(hash)) & __ballot_sync(whole_warp, takes_part);
  const int first = takes_part ? __ffs(peers) - 1 : lane;
  const uint32_t row_of_first = __shfl_sync(whole_warp, row, first);
  const bool follows = first != lane && same_key(row_of_first);  // keys may differ although their hashes are the same
  uint32_t slot = 0;
  *is_new = false;
  if (takes_part && !follows) slot = find_slot(slots, num_slots, hash, row, same_key, is_new);
  const uint32_t slot_of_first = __shfl_sync(whole_warp, slot, first);
  if (!follows) return slot;
  if (row < row_of_first) atomicMin(slots + slot_of_first, row);
  return slot_of_first;
}

// Adds every lane's amount to *total, with one atomic; gives each lane what the total was before its own turn. Whole
// warps.
CBKERNELS_DEVICE uint32_t add_together(uint32_t* total, uint32_t amount) {
  const int lane = lane_index();
  uint32_t inclusive = amount;
#pragma unroll
  for (int step = 1; step < warp_size; step *= 2) {
    const uint32_t add = __shfl_up_sync(whole_warp, inclusive, step);
    if (lane >= step) inclusive += add;
  }
  uint32_t before = 0;
  if (lane == warp_size - 1 && inclusive != 0) before = atomicAdd(total, inclusive);
  before = __shfl_sync(whole_warp, before, warp_size - 1);
  return before + inclusive - amount;
}

// Adds 1 to counters[key] for every lane that takes part, with one atomic for lanes of the same key; gives each lane
// what the counter was before its own turn. Whole warps; key < 2^31.
CBKERNELS_DEVICE uint32_t count_together(uint32_t* counters, uint32_t key, bool takes_part) {
  const int lane = lane_index();
  const uint32_t mine = takes_part ? key : 0x80000000u + lane;
  const unsigned peers = __match_any_sync(whole_warp, mine);
  const int first = __ffs(peers) - 1;
  uint32_t before = 0;
  if (takes_part && lane == first) before = atomicAdd(counters + key, static_cast<uint32_t>(__popc(peers)));
  before = __shfl_sync(whole_warp, before, first);
  return before + __popc(peers & ((1u << lane) - 1));
}

// for (k of this thread; k < count) with whole warps: `there` says whether the thread has an item.
template <class Body>
CBKERNELS_DEVICE void for_each_in_warps(const Team& team, int64_t count, const Body& body) {
  for (int64_t k = team.rank(); k - lane_index() < count; k += team.size()) body(k, k < count);
}

// Four slots at a time.
CBKERNELS_DEVICE void clear_slots(const Team& team, uint32_t* slots, uint32_t num_slots) {
  uint4* const groups = reinterpret_cast<uint4*>(slots);
  for (int64_t i = team.rank(); i < num_slots / slots_of_a_group; i += team.size())
    groups[i] = make_uint4(no_row, no_row, no_row, no_row);
}

// --- several items of every thread at once --------------------------------------------------------------------------
// A pass over rows is a chain of loads, each of which waits for the one before it. With four rows a thread, four chains
// are under way: every loop below goes over the rows of a batch, and nothing in it waits for the row before.

constexpr int batch_size = 4;
template <class T>
using OfBatch = T[batch_size];

struct Batch {
  uint32_t k[batch_size];  // the first one where there is none: it may be read
  bool there[batch_size];
};

// Whole warps; neighbours have neighbouring items.
template <class Body>
CBKERNELS_DEVICE void for_each_batch(const Team& team, int64_t count, const Body& body) {
#pragma unroll 1
  for (int64_t first = team.rank(); first - lane_index() < count; first += batch_size * team.size()) {
    Batch batch;
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      const int64_t k = first + j * team.size();
      batch.there[j] = k < count;
      batch.k[j] = k < count ? static_cast<uint32_t>(k) : 0;
    }
    body(batch);
  }
}

// Groups rows by hash alone: the slots of the rows that take part. Four slots side by side are read at once. Lanes of
// one hash let the first one search. Whole warps.
template <class HashOf>
CBKERNELS_DEVICE void find_slots(uint32_t* slots, uint32_t num_slots, const OfBatch<uint64_t>& hash,
                                 const OfBatch<uint32_t>& row, const OfBatch<bool>& takes_part, const HashOf& hash_of,
                                 OfBatch<uint32_t>& slot) {
  const int lane = lane_index();
  int first[batch_size];
  unsigned open = 0;  // bit j: row j has no slot yet
#pragma unroll
  for (int j = 0; j < batch_size; ++j) {
    const unsigned peers = __match_any_sync(whole_warp, static_cast<unsigned long long>(hash[j])) &
                           __ballot_sync(whole_warp, takes_part[j]);
    first[j] = takes_part[j] ? __ffs(peers) - 1 : lane;
    if (takes_part[j] && first[j] == lane) open |= 1u << j;
    slot[j] = first_slot(hash[j], num_slots / slots_of_a_group) * slots_of_a_group;
  }
  while (open != 0) {
    uint32_t there[batch_size][slots_of_a_group];
    uint64_t key[batch_size][slots_of_a_group];
#pragma unroll
    for (int j = 0; j < batch_size; ++j)
#pragma unroll
      for (int g = 0; g < slots_of_a_group; ++g)
        there[j][g] = (open >> j & 1u) != 0 ? read_now(slots + slot[j] + g) : no_row;
#pragma unroll
    for (int j = 0; j < batch_size; ++j)
#pragma unroll
      for (int g = 0; g < slots_of_a_group; ++g) key[j][g] = there[j][g] != no_row ? hash_of(there[j][g]) : 0;
    uint32_t at[batch_size], other[batch_size];  // the first slot that is free or has the hash
    bool is_free[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      at[j] = slots_of_a_group;
      other[j] = no_row;
      is_free[j] = false;
#pragma unroll
      for (int g = slots_of_a_group - 1; g >= 0; --g) {
        if (there[j][g] != no_row && key[j][g] != hash[j]) continue;
        at[j] = g;
        other[j] = there[j][g];
        is_free[j] = there[j][g] == no_row;
      }
      if ((open >> j & 1u) == 0) is_free[j] = false;
    }
    uint32_t taken[batch_size];
#pragma unroll
    for (int j = 0; j < batch_size; ++j)
      taken[j] = is_free[j] ? atomicCAS(slots + slot[j] + at[j], no_row, row[j]) : no_row;
#pragma unroll
    for (int j = 0; j < batch_size; ++j) {
      if ((open >> j & 1u) == 0 || taken[j] != no_row) continue;  // another took it: read the group again
      if (at[j] == slots_of_a_group) {
        slot[j] = slot[j] + slots_of_a_group == num_slots ? 0 : slot[j] + slots_of_a_group;
        continue;
      }
      slot[j] += at[j];
      open &= ~(1u << j);
      if (!is_free[j] && row[j] < other[j]) atomicMin(slots + slot[j], row[j]);
    }
  }
#pragma unroll
  for (int j = 0; j < batch_size; ++j) {
    const uint32_t row_of_first = __shfl_sync(whole_warp, row[j], first[j]);
    const uint32_t slot_of_first = __shfl_sync(whole_warp, slot[j], first[j]);
    if (!takes_part[j] || first[j] == lane) continue;
    slot[j] = slot_of_first;
    if (row[j] < row_of_first) atomicMin(slots + slot_of_first, row[j]);
  }
}

// count_together for every row of a batch.
CBKERNELS_DEVICE void count_together(uint32_t* counters, const OfBatch<uint32_t>& key, const OfBatch<bool>& takes_part,
                                     OfBatch<uint32_t>& before) {
  const int lane = lane_index();
  unsigned peers[batch_size];
#pragma unroll
  for (int j = 0; j < batch_size; ++j)
    peers[j] = __match_any_sync(whole_warp, takes_part[j] ? key[j] : 0x80000000u + lane);
#pragma unroll
  for (int j = 0; j < batch_size; ++j)
    before[j] = takes_part[j] && lane == __ffs(peers[j]) - 1
                    ? atomicAdd(counters + key[j], static_cast<uint32_t>(__popc(peers[j])))
                    : 0;
#pragma unroll
  for (int j = 0; j < batch_size; ++j)
    before[j] = __shfl_sync(whole_warp, before[j], __ffs(peers[j]) - 1) + __popc(peers[j] & ((1u << lane) - 1));
}

// Appends the values of a batch that take part; true for the warp that appended the first. Whole warps.
CBKERNELS_DEVICE bool append(uint32_t* list, uint32_t* size, const OfBatch<uint32_t>& value,
                             const OfBatch<bool>& takes_part) {
  const int lane = lane_index();
  unsigned peers[batch_size];
  uint32_t num_values = 0, at = 0;
#pragma unroll
  for (int j = 0; j < batch_size; ++j) {
    peers[j] = __ballot_sync(whole_warp, takes_part[j]);
    num_values += static_cast<uint32_t>(__popc(peers[j]));
  }
  if (num_values == 0) return false;
  if (lane == 0) at = atomicAdd(size, num_values);
  at = __shfl_sync(whole_warp, at, 0);
  const bool is_first = at == 0;
#pragma unroll
  for (int j = 0; j < batch_size; ++j) {
    if (takes_part[j]) list[at + __popc(peers[j] & ((1u << lane) - 1))] = value[j];
    at += static_cast<uint32_t>(__popc(peers[j]));
  }
  return is_first;
}

}  // namespace cbkernels::cuda
