#include "group_near_rows.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>

#include "threads.h"

namespace cbkernels {
namespace {

constexpr int64_t values_per_block = block_bytes / 8;

using Block = std::array<double, values_per_block>;

// Without leaving early: `count` is at most 32.
bool all_near(const double* row, const double* leader, int64_t count, const Tolerance& tolerance) {
  int far = 0;
  for (int64_t k = 0; k < count; ++k) {
    const double allowed = tolerance.absolute + tolerance.relative * std::fabs(leader[k]);
    // infinities: equal ones are near, others are not, although infinity <= infinity
    const bool near = (std::fabs(row[k] - leader[k]) <= allowed && std::isfinite(row[k]) && std::isfinite(leader[k])) ||
                      row[k] == leader[k];
    far |= !near;
  }
  return !far;
}

bool is_near(const RowBlocks& rows, const std::vector<double>& row, int64_t leader, const Tolerance& tolerance,
             Pace& pace) {
  Block scratch;
  for (int64_t b = 0; b < rows.num_blocks(); ++b) {
    pace.after(rows.block_length(b));
    const int64_t count = rows.block_length(b) / 8;
    for (int64_t k = 0; k < count; k += 32) {
      const int64_t length = std::min<int64_t>(32, count - k);
      double theirs[32];
      const std::byte* piece =
          rows.piece(leader, b * block_bytes + 8 * k, 8 * length, reinterpret_cast<std::byte*>(scratch.data()));
      std::memcpy(theirs, piece, 8 * length);
      if (!all_near(row.data() + b * values_per_block + k, theirs, length, tolerance)) return false;
    }
  }
  return true;
}

// First of leaders[begin, end) that the row is near to, or end. Looked for by several threads when there are many.
int64_t first_near(const RowBlocks& rows, const std::vector<double>& row, const std::vector<int64_t>& leaders,
                   const Tolerance& tolerance, int num_threads) {
  const int64_t end = static_cast<int64_t>(leaders.size());
  std::atomic<int64_t> found{end};
  parallel_for(end, 4096, end < (1 << 16) ? 1 : num_threads, [&](int64_t from, int64_t to) {
    Pace pace;
    for (int64_t l = from; l < to && l < found.load(std::memory_order_relaxed); ++l) {
      if (!is_near(rows, row, leaders[l], tolerance, pace)) continue;
      int64_t before = found;
      while (l < before && !found.compare_exchange_weak(before, l)) {}
    }
  });
  return found;
}

}  // namespace

Grouping group_near_rows(const RowBlocks& rows, const Tolerance& tolerance, int num_threads, int64_t* ids) {
  Grouping grouping{0, 0};
  std::vector<int64_t> leaders, id_of_leader;
  std::vector<double> row(rows.row_bytes() / 8);
  Block scratch;
  Pace pace;
  for (int64_t i = 0; i < rows.num_rows(); ++i) {
    bool holds_nan = false;
    for (int64_t b = 0; b < rows.num_blocks(); ++b) {
      pace.after(rows.block_length(b));
      const std::byte* block = rows.block(i, b, reinterpret_cast<std::byte*>(scratch.data()));
      std::memcpy(row.data() + b * values_per_block, block, rows.block_length(b));
    }
    for (const double value : row) holds_nan |= value != value;
    if (holds_nan) {
      ++grouping.num_nan_rows;
      ids[i] = grouping.num_bundles++;
      continue;
    }
    const int64_t l = first_near(rows, row, leaders, tolerance, num_threads);
    if (l == static_cast<int64_t>(leaders.size())) {
      leaders.push_back(i);
      id_of_leader.push_back(grouping.num_bundles++);
    }
    ids[i] = id_of_leader[l];
  }
  last_work().rows_compared += rows.num_rows();
  return grouping;
}

}  // namespace cbkernels
