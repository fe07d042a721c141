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

// Appends the values of the lanes that take part; their order is that of the lanes. Whole warps.
CBKERNELS_DEVICE void append(uint32_t* list, uint32_t* size, uint32_t value, bool takes_part) {
  const int lane = lane_index();
  const unsigned peers = __ballot_sync(whole_warp, takes_part);
  if (peers == 0) return;
  const int first = __ffs(peers) - 1;
  uint32_t before = 0;
  if (lane == first) before = atomicAdd(size, static_cast<uint32_t>(__popc(peers)));
  before = __shfl_sync(whole_warp, before, first);
  if (takes_part) list[before + __popc(peers & ((1u << lane) - 1))] = value;
}

// for (k of this thread; k < count) with whole warps: `there` says whether the thread has an item.
template <class Body>
CBKERNELS_DEVICE void for_each_in_warps(const Team& team, int64_t count, const Body& body) {
  for (int64_t k = team.rank(); k - lane_index() < count; k += team.size()) body(k, k < count);
}

CBKERNELS_DEVICE void clear_slots(const Team& team, uint32_t* slots, uint32_t num_slots) {
  for (int64_t i = team.rank(); i < num_slots; i += team.size()) slots[i] = no_row;
}

}  // namespace cbkernels::cuda
