// Leaders by 64-bit key: open addressing that starts small, so that few bundles stay in the L1 cache, and doubles when
// three quarters full. A slot holds the key itself: a probe touches one cache line.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

namespace cbkernels {

class LeaderTable {
 public:
  explicit LeaderTable(size_t num_slots = 512) : slots_(num_slots, Slot{0, free_slot}) {}

  void prefetch(uint64_t key) const { __builtin_prefetch(&slots_[place(key)]); }

  // The first leader with this key for which same(leader) holds; otherwise stores `candidate` and returns it.
  template <class Same>
  int64_t find_or_insert(uint64_t key, int64_t candidate, const Same& same) {
    size_t at = place(key);
    for (; slots_[at].leader != free_slot; at = next(at))
      if (slots_[at].key == key && same(slots_[at].leader)) return slots_[at].leader;
    slots_[at] = {key, candidate};
    if (4 * ++used_ > 3 * slots_.size()) grow();
    return candidate;
  }

  void clear() {
    std::fill(slots_.begin(), slots_.end(), Slot{0, free_slot});
    used_ = 0;
  }

 private:
  struct Slot {
    uint64_t key;
    int64_t leader;
  };
  static constexpr int64_t free_slot = -1;

  size_t place(uint64_t key) const {  // the high bits of the key: the low ones may have chosen the table
    return static_cast<size_t>((static_cast<unsigned __int128>(key) * slots_.size()) >> 64);
  }
  size_t next(size_t at) const { return at + 1 == slots_.size() ? 0 : at + 1; }
  void grow() {
    std::vector<Slot> old(2 * slots_.size(), Slot{0, free_slot});
    old.swap(slots_);
    for (const Slot& slot : old) {
      if (slot.leader == free_slot) continue;
      size_t at = place(slot.key);
      while (slots_[at].leader != free_slot) at = next(at);
      slots_[at] = slot;
    }
  }

  std::vector<Slot> slots_;
  size_t used_ = 0;
};

}  // namespace cbkernels
