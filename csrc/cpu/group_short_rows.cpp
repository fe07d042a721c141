#include "group_short_rows.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <vector>

#include "../fingerprint.h"
#include "group_rows.h"
#include "leader_table.h"
#include "threads.h"

namespace cbkernels {
namespace {

// One thread's share of the rows.
class Pass {
 public:
  Pass(const RowBlocks& rows, const uint8_t* skip, int64_t* leader, uint8_t* nan)
      : rows_(rows), kernels_(rows.kernels()), skip_(skip), leader_(leader), nan_(nan) {}

  void run(int64_t begin, int64_t end) {
    int64_t previous = -1;  // leader of the rows just seen, when they agreed
    for (int64_t i = begin; i < end;) {
      if (previous >= 0 && rows_.is_direct() && !skip_) {
        const int64_t run = kernels_.equal_run(rows_.row(i), rows_.row_stride(), end - i, rows_.row(previous),
                                               rows_.row_bytes(), rows_.grid());
        std::fill(leader_ + i, leader_ + i + run, previous);
        rows_read_ += run;
        i += run;
        if (i == end) break;
      }
      const int64_t stop = std::min(end, i + rows_at_once_);
      previous = look_up(i, stop);
      i = stop;
    }
    bytes_touched_ += rows_read_ * rows_.row_bytes();
  }

  // Rows of a later share whose bundle began in this one join it.
  void absorb(const Pass& later) {
    for (const int64_t row : later.leaders_) {
      bool holds_nan = false;
      const uint64_t key = key_of(row, &holds_nan);
      leader_[row] = find_or_insert(key, row);
    }
  }

  int64_t bytes_touched() const { return bytes_touched_; }

 private:
  static constexpr int64_t most_at_once = 32;

  const std::byte* row_bytes_of(int64_t i) { return rows_.piece(i, 0, rows_.row_bytes(), row_scratch_->data()); }

  uint64_t key_of(int64_t i, bool* holds_nan) {
    return kernels_.route(row_bytes_of(i), rows_.row_bytes(), rows_.grid(), 0, holds_nan) & routing_mask();
  }

  int64_t find_or_insert(uint64_t key, int64_t i) {
    const std::byte* row = row_bytes_of(i);
    return table_.find_or_insert(key, i, [&](int64_t candidate) {
      bytes_touched_ += rows_.row_bytes();
      const std::byte* leader = rows_.piece(candidate, 0, rows_.row_bytes(), leader_scratch_->data());
      return kernels_.equal_run(row, 0, 1, leader, rows_.row_bytes(), rows_.grid()) == 1;
    });
  }

  // Rows [begin, stop), at most 32; returns their leader when they have one in common.
  int64_t look_up(int64_t begin, int64_t stop) {
    std::array<uint64_t, most_at_once> keys;
    for (int64_t i = begin; i < stop; ++i) {
      if (skip_ && skip_[i]) continue;
      bool holds_nan = false;
      keys[i - begin] = key_of(i, &holds_nan);
      nan_[i] = holds_nan;
      table_.prefetch(keys[i - begin]);
      ++rows_read_;
    }
    int64_t common = -2;
    for (int64_t i = begin; i < stop; ++i) {
      if (skip_ && skip_[i]) continue;
      leader_[i] = nan_[i] ? i : find_or_insert(keys[i - begin], i);
      if (leader_[i] == i && !nan_[i]) leaders_.push_back(i);
      common = common == -2 || common == leader_[i] ? leader_[i] : -1;
    }
    return common < 0 || nan_[common] ? -1 : common;
  }

  const RowBlocks& rows_;
  const RowKernels& kernels_;
  const int64_t rows_at_once_ = std::clamp<int64_t>((16 << 10) / rows_.row_bytes(), 4, most_at_once);  // half an L1 cache
  const uint8_t* skip_;
  int64_t* leader_;
  uint8_t* nan_;
  LeaderTable table_;
  std::vector<int64_t> leaders_;  // in the order of their rows
  std::unique_ptr<std::array<std::byte, block_bytes>> row_scratch_ = std::make_unique<std::array<std::byte, block_bytes>>();
  std::unique_ptr<std::array<std::byte, block_bytes>> leader_scratch_ = std::make_unique<std::array<std::byte, block_bytes>>();
  int64_t rows_read_ = 0;
  int64_t bytes_touched_ = 0;
};

}  // namespace

void group_short_rows(const RowBlocks& rows, const uint8_t* skip, int num_threads, int64_t* leader, uint8_t* nan) {
  constexpr int64_t parallel_bytes = 8 << 20;
  const int64_t n = rows.num_rows();
  const int64_t shares = n * rows.row_bytes() < parallel_bytes ? 1 : std::max(1, num_threads);
  std::vector<Pass> passes;
  passes.reserve(shares);
  for (int64_t s = 0; s < shares; ++s) passes.emplace_back(rows, skip, leader, nan);
  const auto share_begin = [&](int64_t s) { return n / shares * s + std::min(s, n % shares); };
  parallel_for(shares, 1, num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t s = begin; s < end; ++s) passes[s].run(share_begin(s), share_begin(s + 1));
  });
  for (int64_t s = 1; s < shares; ++s) passes[0].absorb(passes[s]);
  if (shares > 1)
    for (int64_t i = share_begin(1); i < n; ++i) leader[i] = leader[leader[i]];
  last_work().rows_compared += n;
  for (const Pass& pass : passes) last_work().bytes_touched += pass.bytes_touched();
}

}  // namespace cbkernels
