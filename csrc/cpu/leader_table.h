// Leaders by 64-bit key: open addressing that starts small, so that few bundles stay in the L1 cache, and doubles when
// three quarters full. A slot holds the key itself: a probe touches one cache line.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include "row_kernels.h"

namespace cbkernels {

class LeaderTable {
 public:
  explicit LeaderTable(size_t num_slots = 512) : slots_(num_slots, LeaderSlot{0, free_slot}) {}

  void prefetch(uint64_t key) const { __builtin_prefetch(&slots_[first_slot(key, slots_.size())]); }

  // The first leader with this key for which same(leader) holds; otherwise stores `candidate` and returns it.
  template <class Same>
  int64_t find_or_insert(uint64_t key, int64_t candidate, const Same& same) {
    uint64_t at = first_slot(key, slots_.size());
    for (; slots_[at].leader != free_slot; at = next_slot(at, slots_.size()))
      if (slots_[at].key == key && same(slots_[at].leader)) return slots_[at].leader;
    slots_[at] = {key, candidate};
    if (4 * ++used_ > 3 * slots_.size()) grow();
    return candidate;
  }

  void clear() {
    std::fill(slots_.begin(), slots_.end(), LeaderSlot{0, free_slot});
    used_ = 0;
  }

  const std::vector<LeaderSlot>& slots() const { return slots_; }

 private:
  static constexpr int64_t free_slot = -1;

  void grow() {
    std::vector<LeaderSlot> old(2 * slots_.size(), LeaderSlot{0, free_slot});
    old.swap(slots_);
    for (const LeaderSlot& slot : old) {
      if (slot.leader == free_slot) continue;
      uint64_t at = first_slot(slot.key, slots_.size());
      while (slots_[at].leader != free_slot) at = next_slot(at, slots_.size());
      slots_[at] = slot;
    }
  }

  std::vector<LeaderSlot> slots_;
  size_t used_ = 0;
};

}  // namespace cbkernels
