// Groups positions by a 64-bit key: each gets the first position of its key as its leader. Open addressing; an entry
// is 24 bits of the key and 40 of the position (10^12 rows), 13 bytes a row with the free slots. Keys only route:
// whoever calls compares the rows.
#pragma once
#include <atomic>
#include <cstdint>
#include <vector>

#include "threads.h"

namespace cbkernels {

class RoutingTable {
 public:
  static constexpr uint64_t position_bits = 40;
  static constexpr uint64_t position_mask = (1ull << position_bits) - 1;

  explicit RoutingTable(int64_t num_keys) : slots_(static_cast<size_t>(num_keys + num_keys * 5 / 8 + 16), 0) {}

  int64_t capacity() const { return static_cast<int64_t>(slots_.size()); }
  int64_t slot_of(uint64_t key) const {
    return static_cast<int64_t>((static_cast<unsigned __int128>(key) * slots_.size()) >> 64);
  }
  void prefetch(uint64_t key) const { __builtin_prefetch(&slots_[slot_of(key)], 1); }

  static constexpr int64_t inserted = -1, full = -2;

  // The position stored for which same(position) holds, or `inserted` after storing `position` itself, or `full`;
  // slots in [from, to), of which slot_of(key) is one.
  template <class Same>
  int64_t find_or_insert(uint64_t key, int64_t position, int64_t from, int64_t to, const Same& same) {
    const uint64_t tag = key << position_bits;
    const int64_t home = slot_of(key);
    int64_t slot = home;
    do {
      const uint64_t entry = slots_[slot];
      if (!entry) {
        slots_[slot] = tag | static_cast<uint64_t>(position + 1);
        return inserted;
      }
      if (!((entry ^ tag) >> position_bits)) {
        const int64_t there = static_cast<int64_t>(entry & position_mask) - 1;
        if (same(there)) return there;
      }
      if (++slot == to) slot = from;
    } while (slot != home);
    return full;
  }

 private:
  std::vector<uint64_t> slots_;
};

// One range of slots: all positions whose home is in it. False when it has no room.
inline bool group_range(RoutingTable& table, const uint64_t* keys, const uint8_t* alone, int64_t count,
                        int64_t from, int64_t to, int64_t* leader) {
  constexpr int64_t ahead = 24;  // prefetch distance: a miss costs about 24 inserts
  const auto mine = [&](uint64_t key) {
    const int64_t slot = table.slot_of(key);
    return from <= slot && slot < to;
  };
  for (int64_t p = 0; p < count; ++p) {
    if (p + ahead < count && mine(keys[p + ahead])) table.prefetch(keys[p + ahead]);
    const uint64_t key = keys[p];
    if (!mine(key)) continue;
    if (alone && alone[p]) {
      leader[p] = p;
      continue;
    }
    const int64_t first = table.find_or_insert(key, p, from, to, [&](int64_t q) { return keys[q] == key; });
    if (first == RoutingTable::full) return false;
    leader[p] = first == RoutingTable::inserted ? p : first;
  }
  return true;
}

// leader[p] = first position with the key of p; positions with alone[p] != 0 lead themselves.
inline void group_keys(const uint64_t* keys, const uint8_t* alone, int64_t count, int64_t* leader, int num_threads) {
  constexpr int64_t parallel_from = 1 << 18;  // keys; below, one thread needs about 1 ms
  if (count >= parallel_from && num_threads > 1) {
    // a thread owns a range of slots and looks at all keys, so that first positions win without locks
    RoutingTable table(count);
    std::atomic<bool> has_room{true};
    parallel_for(num_threads, 1, num_threads, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        if (!group_range(table, keys, alone, count, table.capacity() * r / num_threads,
                         table.capacity() * (r + 1) / num_threads, leader))
          has_room = false;
    });
    if (has_room) return;  // else the keys are crowded: one range has room for all
  }
  RoutingTable table(count);
  group_range(table, keys, alone, count, 0, table.capacity(), leader);
}

}  // namespace cbkernels
