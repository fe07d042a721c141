// A row's candidate is the leader of the row before; else the first row with the same sample (one cache line); else,
// when those differ, the first row with the same hash of the whole. Where samples mislead more often than not, only
// whole rows are hashed from there on, so a row is read once and the leaders it is compared with at most twice.
#include "group_short_rows.h"

#include <algorithm>
#include <array>
#include <deque>
#include <memory>
#include <vector>

#include "group_rows.h"
#include "leader_table.h"
#include "threads.h"

namespace cbkernels {
namespace {

// One thread's share of the rows.
class Pass {
 public:
  Pass(const RowBlocks& rows, const ShortRows& out) : rows_(rows), kernels_(rows.kernels()), out_(out) {
    sample_bytes_ = std::min<int64_t>(64, rows.row_bytes());
    sample_from_ = rows.row_bytes() / 64 / 2 * 64;
    if (sample_from_ + sample_bytes_ > rows.row_bytes()) sample_from_ = 0;
    sample_from_ = on_a_line(rows, sample_from_);
  }

  ~Pass() {  // also of a pass that was given up
    last_work().rows_sampled += num_sampled_;
    last_work().bytes_touched += bytes_touched_;
    last_work().collisions += num_collisions_;
  }

  void run(int64_t begin, int64_t end) {
    int64_t previous = -1;  // leader of the rows just seen, when they agreed
    Pace pace;
    for (int64_t i = begin; i < end;) {
      pace.after(rows_at_once * rows_.row_bytes());
      if (rows_.is_direct() && !out_.skip) {
        const int64_t most = std::min(end - i, most_rows_of_a_run);
        int64_t run = previous >= 0 ? run_of(previous, i, most) : 0;
        if (run < most && !hashes_whole_rows_) run += known_run(i + run, most - run);
        i += run;
        if (run == most) continue;
        if (!hashes_whole_rows_) {
          place(i, sample_of(i));
          ++num_sampled_;
          previous = out_.nan[i] ? -1 : out_.leader[i];
          ++i;
          continue;
        }
      }
      const int64_t stop = std::min(end, i + rows_at_once);
      previous = place_all(i, stop);
      i = stop;
    }
  }

  // Leaders of a later share whose bundle began in this one follow it.
  void absorb(const Pass& later) {
    Pace pace;
    for (const int64_t row : later.leaders_) {
      pace.after(rows_.row_bytes());
      place(row, sample_of(row));
    }
  }

 private:
  // How many rows from i on, at most `most`, are equal to a leader ...
  int64_t run_of(int64_t leader, int64_t i, int64_t most) {
    const int64_t run =
        kernels_.equal_run(rows_.row(i), rows_.row_stride(), most, rows_.row(leader), rows_.row_bytes(), rows_.grid());
    std::fill(out_.leader + i, out_.leader + i + run, leader);
    bytes_touched_ += run * rows_.row_bytes();
    return run;
  }
  // ... or each to the one that has its sample.
  int64_t known_run(int64_t i, int64_t most) {
    const std::vector<LeaderSlot>& slots = by_sample_.slots();
    const KnownLeaders known = {slots.data(), slots.size(), sample_from_, sample_bytes_, routing_mask(), rows_.row(0)};
    const int64_t run = kernels_.known_run(rows_.row(i), rows_.row_stride(), most, known, rows_.row_bytes(),
                                           rows_.grid(), rows_.block_keys(), out_.leader + i);
    bytes_touched_ += 2 * run * rows_.row_bytes();
    num_agreed_ += run;
    return run;
  }

  static constexpr int64_t rows_at_once = 8;
  static constexpr int64_t most_rows_of_a_run = 1 << 14;  // 64 MiB at most
  using Scratch = std::array<std::byte, block_bytes>;

  const std::byte* whole(int64_t i, Scratch& scratch) const {
    return rows_.piece(i, 0, rows_.row_bytes(), scratch.data());
  }
  bool equal(const std::byte* row, int64_t leader) {
    bytes_touched_ += rows_.row_bytes();
    return kernels_.equal_run(row, 0, 1, whole(leader, *leader_scratch_), rows_.row_bytes(), rows_.grid()) == 1;
  }
  uint64_t sample_of(int64_t i) {
    bool nan = false;
    const std::byte* sample = rows_.piece(i, sample_from_, sample_bytes_, row_scratch_->data());
    const uint64_t key = rows_.route(sample, sample_bytes_, 0, &nan);
    if (nan) out_.nan[i] = 1;
    return key & routing_mask_;
  }

  void sample_all(int64_t begin, int64_t stop, uint64_t* keys) {
    if (!rows_.is_direct() || out_.skip) {
      for (int64_t i = begin; i < stop; ++i)
        if (!out_.skip || !out_.skip[i]) keys[i - begin] = sample_of(i);
      return;
    }
    std::array<uint8_t, rows_at_once> nan;
    kernels_.route_samples(rows_.row(begin), rows_.row_stride(), stop - begin, &sample_from_, 1, sample_bytes_,
                           rows_.grid(), rows_.block_keys(), keys, nan.data());
    for (int64_t i = begin; i < stop; ++i) {
      keys[i - begin] &= routing_mask_;
      if (nan[i - begin]) out_.nan[i] = 1;
    }
  }

  // Rows [begin, stop), at most eight; returns their leader when they have one in common.
  int64_t place_all(int64_t begin, int64_t stop) {
    std::array<uint64_t, rows_at_once> keys;
    sample_all(begin, stop, keys.data());
    if (rows_.is_direct() && !hashes_whole_rows_) {
      place_together(begin, stop, keys.data());
    } else {
      for (int64_t i = begin; i < stop; ++i)
        if (!out_.skip || !out_.skip[i]) place(i, keys[i - begin]);
    }
    int64_t common = -2;
    for (int64_t i = begin; i < stop; ++i) {
      if (out_.skip && out_.skip[i]) continue;
      common = common == -2 || common == out_.leader[i] ? out_.leader[i] : -1;
    }
    return common < 0 || out_.nan[common] ? -1 : common;
  }

  // As place(), with the comparisons of all rows in one call.
  void place_together(int64_t begin, int64_t stop, const uint64_t* keys) {
    // a prefetcher trained by one line a row fetches no others; of longer rows it fetches them in time
    const int64_t prefetched_bytes = rows_.row_bytes() <= 512 ? rows_.row_bytes() : 0;
    for (int64_t i = begin; i < stop; ++i) {
      if (out_.skip && out_.skip[i]) continue;
      by_sample_.prefetch(keys[i - begin]);
      for (int64_t at = 0; at < prefetched_bytes; at += 64) __builtin_prefetch(rows_.row(i) + at);
    }
    std::array<const std::byte*, rows_at_once> row, candidate;
    std::array<int64_t, rows_at_once> member;
    int num_members = 0;
    for (int64_t i = begin; i < stop; ++i) {
      if (out_.skip && out_.skip[i]) continue;
      out_.leader[i] = i;
      if (out_.nan[i]) continue;
      const int64_t leader = by_sample_.find_or_insert(keys[i - begin], i, [](int64_t) { return true; });
      if (leader == i) {
        bytes_touched_ += sample_bytes_;
        leaders_.push_back(i);
        continue;
      }
      out_.leader[i] = leader;
      row[num_members] = rows_.row(i);
      candidate[num_members] = rows_.row(leader);
      member[num_members++] = i;
    }
    bytes_touched_ += 2 * num_members * rows_.row_bytes();
    const uint32_t equal =
        kernels_.equal_pairs(row.data(), candidate.data(), num_members, rows_.row_bytes(), 0, rows_.grid());
    for (int m = 0; m < num_members; ++m) {
      if (equal >> m & 1)
        ++num_agreed_;
      else
        place_misled(member[m]);
    }
  }

  void place(int64_t i, uint64_t sample) {
    out_.leader[i] = i;
    if (out_.nan[i]) return;
    if (!hashes_whole_rows_) {
      // equal rows have equal samples: a row with a sample of its own is the first of its kind
      const int64_t candidate = by_sample_.find_or_insert(sample, i, [](int64_t) { return true; });
      if (candidate == i) {
        bytes_touched_ += sample_bytes_;
        leaders_.push_back(i);
        return;
      }
      bytes_touched_ += rows_.row_bytes();
      if (equal(whole(i, *row_scratch_), candidate)) {
        ++num_agreed_;
        out_.leader[i] = candidate;
        return;
      }
    } else {
      bytes_touched_ += rows_.row_bytes();
    }
    place_misled(i);
  }

  // A row that its sample does not place.
  void place_misled(int64_t i) {
    if (!hashes_whole_rows_ && ++num_misled_ > 16 + num_agreed_) hash_whole_rows_from_now_on();
    out_.leader[i] = i;
    const std::byte* row = whole(i, *row_scratch_);
    const uint64_t key = whole_key(i, row);
    if (out_.nan[i]) return;
    out_.leader[i] = by_whole_row_.find_or_insert(
        key, i, [&](int64_t candidate) { return equal(row, candidate) || is_collision(); });
    if (out_.leader[i] == i) leaders_.push_back(i);
  }

  bool is_collision() {  // false: the search goes on
    if (++num_collisions_ > out_.most_collisions) throw KeysAreKnown();
    return false;
  }

  uint64_t whole_key(int64_t i, const std::byte* row) {
    bool nan = false;
    const uint64_t key = rows_.route(row, rows_.row_bytes(), 1, &nan);
    if (nan) out_.nan[i] = 1;
    if (out_.read_whole) out_.read_whole[i] = 1;
    return key & routing_mask_;
  }

  // Until now only rows whose samples misled are in the table of whole rows: enter the others.
  void hash_whole_rows_from_now_on() {
    hashes_whole_rows_ = true;
    by_whole_row_ = LeaderTable();
    for (const int64_t leader : leaders_) {
      const uint64_t key = whole_key(leader, whole(leader, *row_scratch_));
      if (!out_.nan[leader]) by_whole_row_.find_or_insert(key, leader, [&](int64_t) { return is_collision(); });
    }
    bytes_touched_ += static_cast<int64_t>(leaders_.size()) * rows_.row_bytes();
  }

  const RowBlocks& rows_;
  const RowKernels& kernels_;
  const ShortRows out_;
  int64_t sample_from_, sample_bytes_;
  LeaderTable by_sample_, by_whole_row_;
  std::vector<int64_t> leaders_;  // in the order of their rows
  const uint64_t routing_mask_ = routing_mask();
  bool hashes_whole_rows_ = false;
  int64_t num_agreed_ = 0, num_misled_ = 0;  // comparisons with the first row of the same sample
  int64_t num_sampled_ = 0, bytes_touched_ = 0, num_collisions_ = 0;
  std::unique_ptr<Scratch> row_scratch_ = std::make_unique<Scratch>();
  std::unique_ptr<Scratch> leader_scratch_ = std::make_unique<Scratch>();
};

}  // namespace

void group_short_rows(const RowBlocks& rows, const ShortRows& out, int num_threads) {
  constexpr int64_t parallel_bytes = 8 << 20;
  const int64_t n = rows.num_rows();
  const int64_t shares = n * rows.row_bytes() < parallel_bytes ? 1 : std::max(1, num_threads);
  std::deque<Pass> passes;
  for (int64_t s = 0; s < shares; ++s) passes.emplace_back(rows, out);
  const auto share_begin = [&](int64_t s) { return n / shares * s + std::min(s, n % shares); };
  parallel_for(shares, 1, num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) passes[s].run(share_begin(s), share_begin(s + 1));
  });
  for (int64_t s = 1; s < shares; ++s) passes[0].absorb(passes[s]);
  if (shares > 1)
    for (int64_t i = share_begin(1); i < n; ++i) out.leader[i] = out.leader[out.leader[i]];  // skipped ones keep theirs
  last_work().rows_compared += out.skip ? std::count(out.skip, out.skip + n, 0) : n;
}

}  // namespace cbkernels
