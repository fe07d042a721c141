// Groups positions by a 64-bit key: each gets the first position of its key as its leader. Of many keys those that
// share no slot of a bitmap with another one are alone and go no further. The others are split into buckets whose
// tables fit an L2 cache, and the buckets shared out to the threads. The order within a bucket is the order of the
// positions, so first ones win. Cost at 10^6 keys: about 4 ns for a key that is alone, 18 for another one.
#pragma once
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "../contract.h"
#include "scratch_array.h"
#include "threads.h"

namespace cbkernels {

constexpr int64_t most_keys_in_one_table = 1 << 16;  // 1 MiB of slots, an L2 cache
constexpr int64_t keys_per_bucket = 1 << 15;
constexpr int64_t least_keys_for_threads = 1 << 17;  // below: under a millisecond

// 24 bits of a key and 40 of a position (10^12 rows); 0 is a free slot.
struct TaggedPosition {
  static constexpr int position_bits = 40;
  uint64_t bits;
  static TaggedPosition of(uint64_t key, int64_t position) {
    return {key >> position_bits << position_bits | static_cast<uint64_t>(position + 1)};
  }
  int64_t position() const { return static_cast<int64_t>(bits & ((1ull << position_bits) - 1)) - 1; }
  bool has_tag_of(TaggedPosition other) const { return (bits ^ other.bits) >> position_bits == 0; }
};

// Open addressing, at most half full.
class TaggedTable {
 public:
  explicit TaggedTable(int64_t most_keys) : slots_(2 * most_keys + 1) {}

  void reset(int64_t num_keys) {
    num_slots_ = static_cast<uint64_t>(2 * num_keys + 1);
    std::fill(slots_.data(), slots_.data() + num_slots_, TaggedPosition{0});
  }
  // The 24 bits of the key, spread over the slots; the low bits have chosen the bucket.
  uint64_t place(TaggedPosition entry) const {
    return (entry.bits >> TaggedPosition::position_bits) * num_slots_ >> 24;
  }
  void prefetch(TaggedPosition entry) const { __builtin_prefetch(slots_.data() + place(entry), 1); }

  // The first position for which same() holds, or, having stored it, the entry's own.
  template <class Same>
  int64_t find_or_insert(TaggedPosition entry, const Same& same) {
    for (uint64_t at = place(entry);; at = at + 1 == num_slots_ ? 0 : at + 1) {
      TaggedPosition& slot = slots_[static_cast<int64_t>(at)];
      if (!slot.bits) {
        slot = entry;
        return entry.position();
      }
      if (slot.has_tag_of(entry) && same(slot.position())) return slot.position();
    }
  }

 private:
  ScratchArray<TaggedPosition> slots_;
  uint64_t num_slots_ = 0;
};

// Sorts positions by bucket, stably; returns where each bucket begins.
inline std::vector<int64_t> split_into_buckets(const uint64_t* keys, const uint8_t* alone, int64_t count,
                                               int64_t num_buckets, TaggedPosition* entries, int num_threads) {
  const int64_t shares = std::max(1, num_threads);  // each thread counts, then writes, its share of the positions
  const auto share_begin = [&](int64_t s) { return count / shares * s + std::min(s, count % shares); };
  // the low bits choose the bucket, the high ones the slot
  const auto bucket_of = [&](uint64_t key) {
    return static_cast<int64_t>(key & static_cast<uint64_t>(num_buckets - 1));
  };
  std::vector<std::vector<int64_t>> place(shares, std::vector<int64_t>(num_buckets, 0));
  parallel_for(shares, 1, num_threads, [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s)
      for (int64_t p = share_begin(s); p < share_begin(s + 1); ++p)
        if (!alone || !alone[p]) ++place[s][bucket_of(keys[p])];
  });
  std::vector<int64_t> begins(1, 0);
  int64_t at = 0;
  for (int64_t b = 0; b < num_buckets; ++b) {
    for (int64_t s = 0; s < shares; ++s) at += std::exchange(place[s][b], at);
    begins.push_back(at);
  }
  parallel_for(shares, 1, num_threads, [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s)
      for (int64_t p = share_begin(s); p < share_begin(s + 1); ++p)
        if (!alone || !alone[p]) entries[place[s][bucket_of(keys[p])]++] = TaggedPosition::of(keys[p], p);
  });
  return begins;
}

// Which keys may occur more than once: two bits for each of 8 to 16 slots a key, at most 4 bytes a key.
class RepeatedKeys {
 public:
  explicit RepeatedKeys(int64_t most_keys) : log2_(log2_of_slots(most_keys)), bits_(int64_t{1} << (log2_ - 6)) {
    bits_.fill({0, 0});
  }

  void prefetch(uint64_t key) const { __builtin_prefetch(bits_.data() + word_of(slot_of(key)), 1); }
  void add(const uint64_t* keys, int64_t count) {
    for (int64_t p = 0; p < count; ++p) add(slot_of(keys[p]));
  }
  // Each thread looks at all keys and adds those in its share of the slots.
  void add(const uint64_t* keys, int64_t count, int num_threads) {
    const int64_t num_words = bits_.size(), share = (num_words + num_threads - 1) / num_threads;
    parallel_for(num_words, share, num_threads, [&](int64_t begin, int64_t end) {
      Pace pace;
      for (int64_t p = 0; p < count; ++p) {
        pace.after(sizeof keys[p]);
        const uint64_t slot = slot_of(keys[p]);
        if (word_of(slot) >= begin && word_of(slot) < end) add(slot);
      }
    });
  }
  bool hold(uint64_t key) const { return bits_[word_of(slot_of(key))].again >> slot_of(key) % 64 & 1; }

 private:
  struct Bits { uint64_t once, again; };
  static int log2_of_slots(int64_t most_keys) {
    int log2 = 6;
    while ((int64_t{1} << log2) < 8 * most_keys) ++log2;
    return log2;
  }
  void add(uint64_t slot) {  // without a branch: one in twenty would be predicted wrongly
    Bits& bits = bits_[word_of(slot)];
    const uint64_t bit = uint64_t{1} << slot % 64;
    bits.again |= bits.once & bit;
    bits.once |= bit;
  }
  uint64_t slot_of(uint64_t key) const { return key >> (64 - log2_); }
  static int64_t word_of(uint64_t slot) { return static_cast<int64_t>(slot / 64); }

  const int log2_;
  ScratchArray<Bits> bits_;
};

constexpr auto equal_keys_suffice = [](int64_t, int64_t) { return true; };

// leader[p] = first position q with the key of p and same(p, q); positions with alone[p] != 0 lead themselves.
// Returns how many positions follow another. All of them go into tables.
template <class Same>
int64_t group_in_tables(const uint64_t* keys, const uint8_t* alone, int64_t count, int64_t* leader, int num_threads,
                        const Same& same) {
  last_work().keys_in_tables += count;
  std::iota(leader, leader + count, int64_t{0});
  const auto lead = [&](TaggedTable& table, TaggedPosition entry) -> int64_t {
    const int64_t p = entry.position();
    const int64_t first = table.find_or_insert(entry, [&](int64_t q) { return keys[q] == keys[p] && same(p, q); });
    if (first == p) return 0;  // written already; touching it again would cost a cache miss
    leader[p] = first;
    return 1;
  };
  constexpr int64_t ahead = 12;  // prefetch distance
  if (count <= most_keys_in_one_table) {
    TaggedTable table(count);
    table.reset(count);
    int64_t followers = 0;
    for (int64_t p = 0; p < count; ++p) {
      if (p + ahead < count) table.prefetch(TaggedPosition::of(keys[p + ahead], 0));
      if (!alone || !alone[p]) followers += lead(table, TaggedPosition::of(keys[p], p));
    }
    return followers;
  }
  int64_t num_buckets = 2;
  while (num_buckets < 1024 && num_buckets * keys_per_bucket < count) num_buckets *= 2;
  const int threads = count < least_keys_for_threads ? 1 : num_threads;
  ScratchArray<TaggedPosition> entries(count);
  const std::vector<int64_t> begins = split_into_buckets(keys, alone, count, num_buckets, entries.data(), threads);
  int64_t largest = 0;
  for (int64_t b = 0; b < num_buckets; ++b) largest = std::max(largest, begins[b + 1] - begins[b]);
  std::atomic<int64_t> followers{0};
  parallel_for(num_buckets, std::max<int64_t>(1, num_buckets / (4 * threads)), threads, [&](int64_t from, int64_t to) {
    TaggedTable table(largest);
    int64_t following = 0;
    for (int64_t b = from; b < to; ++b) {
      stop_if_asked();
      table.reset(begins[b + 1] - begins[b]);
      for (int64_t k = begins[b]; k < begins[b + 1]; ++k) {
        if (k + ahead < begins[b + 1]) {
          table.prefetch(entries[k + ahead]);
          __builtin_prefetch(keys + entries[k + ahead].position());  // of keys that are repeated
          __builtin_prefetch(leader + entries[k + ahead].position(), 1);
        }
        following += lead(table, entries[k]);
      }
    }
    followers += following;
  });
  return followers;
}

// The same; only keys that `repeated` holds go into tables. `keys` may be the memory of `leader`.
template <class Same>
int64_t group_repeated_keys(const uint64_t* keys, const uint8_t* alone, int64_t count, int64_t* leader, int num_threads,
                            const Same& same, const RepeatedKeys& repeated) {
  ScratchArray<uint64_t> some_keys(count);  // no page is touched of what is not used
  ScratchArray<int64_t> position(count);
  const int threads = count < least_keys_for_threads ? 1 : num_threads;
  const int64_t share = (count + threads - 1) / threads;
  std::vector<int64_t> found(threads, 0);
  parallel_for(count, share, threads, [&](int64_t begin, int64_t end) {
    int64_t at = begin;
    for (int64_t p = begin; p < end; ++p) {
      const uint64_t key = keys[p];
      repeated.prefetch(keys[std::min(p + 24, end - 1)]);
      leader[p] = p;
      some_keys[at] = key;
      position[at] = p;
      at += repeated.hold(key) && !(alone && alone[p]);
    }
    found[begin / share] = at - begin;
  });
  int64_t num = found[0];
  for (int64_t s = 1; s < threads; num += found[s++]) {
    std::copy_n(some_keys.data() + s * share, found[s], some_keys.data() + num);
    std::copy_n(position.data() + s * share, found[s], position.data() + num);
  }
  ScratchArray<int64_t> first(num);
  const int64_t followers = group_in_tables(some_keys.data(), nullptr, num, first.data(), num_threads,
                                            [&](int64_t p, int64_t q) { return same(position[p], position[q]); });
  if (followers)
    for (int64_t k = 0; k < num; ++k) leader[position[k]] = position[first[k]];
  return followers;
}

template <class Same>
int64_t group_keys(const uint64_t* keys, const uint8_t* alone, int64_t count, int64_t* leader, int num_threads,
                   const Same& same) {
  if (count <= most_keys_in_one_table) return group_in_tables(keys, alone, count, leader, num_threads, same);
  RepeatedKeys repeated(count);
  repeated.add(keys, count, count < least_keys_for_threads ? 1 : num_threads);
  return group_repeated_keys(keys, alone, count, leader, num_threads, same, repeated);
}
inline int64_t group_keys(const uint64_t* keys, const uint8_t* alone, int64_t count, int64_t* leader, int num_threads) {
  return group_keys(keys, alone, count, leader, num_threads, equal_keys_suffice);
}

}  // namespace cbkernels
