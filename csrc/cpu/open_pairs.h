// Which pairs of up to 512 rows may still be closer than the closest one known, as bits; and how one column closes
// pairs: every row of its low tail that is far enough from a row of its high tail.
// Threads may close pairs at once: a closing that another thread overwrites costs a comparison, never a result.
#pragma once
#include <algorithm>
#include <atomic>
#include <bitset>
#include <cstdint>

#include "scratch_array.h"

namespace cbkernels {

class OpenPairs {
 public:
  static constexpr int max_rows = 512, num_words = max_rows / 64;
  struct Rows {  // a set of them
    uint64_t words[num_words] = {};
    void add(int row, bool really = true) { words[row / 64] |= uint64_t{really} << row % 64; }
    void keep_below(int row) {
      if (row % 64 != 0) words[row / 64] &= ~(~uint64_t{0} << row % 64);
    }
    template <class Visit>
    void each(const Visit& visit) const {
      for (int w = 0; w < num_words; ++w)
        for (uint64_t left = words[w]; left != 0; left &= left - 1) visit(w * 64 + __builtin_ctzll(left));
    }
  };

  explicit OpenPairs(int num_rows) : num_rows_(num_rows), words_(int64_t{num_rows} * num_words) {}
  int num_rows() const { return num_rows_; }

  // A pair is kept by one of its rows, which the caller chooses.
  void open(int row, const Rows& others) {
    for (int w = 0; w < num_words; ++w) words_[row * num_words + w].store(others.words[w], std::memory_order_relaxed);
  }
  void close(int row, const Rows& others) {
    for (int w = 0; w < num_words; ++w) {
      std::atomic<uint64_t>& word = words_[row * num_words + w];
      word.store(word.load(std::memory_order_relaxed) & ~others.words[w], std::memory_order_relaxed);
    }
  }
  // Those with which the row keeps an open pair.
  Rows others(int row) const {
    Rows rows;
    for (int w = 0; w < num_words; ++w) rows.words[w] = word(row, w);
    return rows;
  }
  bool more_than(int64_t most) const {
    int64_t counted = 0;
    for (int64_t w = 0; w < words_.size() && counted <= most; ++w)
      counted += static_cast<int64_t>(std::bitset<64>(words_[w].load(std::memory_order_relaxed)).count());
    return counted > most;
  }
  // Leaves only rows with an open pair between both sets.
  void keep_meeting(Rows& some, Rows& others) const {
    Rows of_some, of_others;
    const auto meet = [this](const Rows& from, const Rows& to, Rows& of_from, Rows& of_to) {
      int used[num_words], num_used = 0;
      for (int w = 0; w < num_words; ++w)
        if (to.words[w] != 0) used[num_used++] = w;
      from.each([&](int row) {
        uint64_t any = 0;
        for (int u = 0; u < num_used; ++u) {
          const uint64_t met = word(row, used[u]) & to.words[used[u]];
          of_to.words[used[u]] |= met;
          any |= met;
        }
        if (any != 0) of_from.add(row);
      });
    };
    meet(some, others, of_some, of_others);
    meet(others, some, of_others, of_some);
    some = of_some;
    others = of_others;
  }

 private:
  uint64_t word(int row, int w) const { return words_[row * num_words + w].load(std::memory_order_relaxed); }

  int num_rows_;
  ScratchArray<std::atomic<uint64_t>> words_;
};

// The rows of one tail of a column.
template <class Value>
struct Tail {
  struct Member {
    Value value;
    int row;
  };
  Member members[OpenPairs::max_rows];
  int size = 0;

  // Outermost first: the order that `beyond` says.
  template <class Beyond>
  void take(const Value* column, const OpenPairs::Rows& rows, const Beyond& beyond) {
    size = 0;
    rows.each([&](int row) { members[size++] = {column[row], row}; });
    std::sort(members, members + size, [&](const Member& a, const Member& b) { return beyond(a.value, b.value); });
  }
};

// Closes every pair of `from` and `to` that is_far says is: what is far from a row is far from all further out.
template <class Value, class IsFar>
void close_far(const Tail<Value>& from, const Tail<Value>& to, const IsFar& is_far, OpenPairs& pairs) {
  OpenPairs::Rows far;
  int reached = 0;
  for (int k = from.size; k-- > 0;) {
    for (; reached < to.size && is_far(from.members[k].value, to.members[reached].value); ++reached)
      far.add(to.members[reached].row);
    if (reached > 0) pairs.close(from.members[k].row, far);
  }
}

}  // namespace cbkernels
