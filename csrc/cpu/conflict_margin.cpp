// Smallest L-infinity distance of two rows with different labels, exactly, without looking at most of the pairs. Rows
// are sorted by one column: neighbours give a good first bound, and pairs too far apart in it are never opened. Up to
// 512 rows at a time are read column by column, and a column closes all pairs that are too far apart in it at once
// (open_pairs.h). When comparing the pairs that are left takes less time than going on, they are compared, and given up
// once a component reaches the best. Which column sorts is guessed from a few rows, and only the cost depends on it.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

#include "../contract.h"
#include "../rows/values.h"
#include "float_environment.h"
#include "open_pairs.h"
#include "row_blocks.h"
#include "threads.h"

namespace cbkernels::cpu {
namespace {

constexpr int64_t num_guessed = 32;  // rows from which the sort column is guessed
constexpr int64_t piece_bytes = 1024;  // of a row: 512 turned ones fit an L2 cache, and a prefetcher is worth its start

// Distances of floats are exact doubles or doubles rounded once; of 64-bit integers exact integers.
template <class Value>
using Distance = std::conditional_t<std::is_floating_point_v<Value>, double, uint64_t>;

template <class Value>
inline Distance<Value> distance(Value a, Value b) {
  if constexpr (std::is_floating_point_v<Value>)  // equal infinities are 0 apart
    return a == b ? 0.0 : std::fabs(static_cast<double>(a) - static_cast<double>(b));
  else
    return a > b ? static_cast<uint64_t>(a) - static_cast<uint64_t>(b)
                 : static_cast<uint64_t>(b) - static_cast<uint64_t>(a);
}

template <class Value>
struct Kernels {  // 64-bit integers: plain loops
  int64_t apart(const Value* a, const Value* b, int64_t count, Value bound) const {
    for (int64_t k = 0; k < count; ++k)
      if (distance(a[k], b[k]) >= static_cast<uint64_t>(bound)) return k;
    return count;
  }
  void turn(const Value* const* rows, int64_t count, Value* columns, int64_t stride) const {
    for (int64_t k = 0; k < count; ++k)
      for (int r = 0; r < 8; ++r) columns[k * stride + r] = rows[r][k];
  }
  void range(const Value* values, int64_t count, Value* lowest, Value* highest) const {
    const auto found = std::minmax_element(values, values + count);
    *lowest = *found.first;
    *highest = *found.second;
  }
  void tails(const Value* values, int64_t count, Value low, Value high, uint64_t* at_most, uint64_t* at_least) const {
    std::fill_n(at_most, count / 64, 0);
    std::fill_n(at_least, count / 64, 0);
    for (int64_t k = 0; k < count; ++k) {
      at_most[k / 64] |= static_cast<uint64_t>(values[k] <= low) << k % 64;
      at_least[k / 64] |= static_cast<uint64_t>(values[k] >= high) << k % 64;
    }
  }
};
template <>
struct Kernels<float> : DistanceKernels<float> {
  Kernels() : DistanceKernels(instruction_set_in_use().float_distances) {}
};
template <>
struct Kernels<double> : DistanceKernels<double> {
  Kernels() : DistanceKernels(instruction_set_in_use().double_distances) {}
};

template <class Value>
class Search {
 public:
  using D = Distance<Value>;

  Search(const RowBlocks& rows, const std::vector<int64_t>& labels, int num_threads)
      : rows_(rows), labels_(labels), num_columns_(rows.row_bytes() / static_cast<int64_t>(sizeof(Value))),
        num_threads_(num_threads) {}

  // False when no two rows have different labels.
  bool run(D& margin) {
    list_rows_without_nan();
    if (!two_labels()) return false;
    if (num_columns_ == 0) {
      margin = D{};
      return true;
    }
    guess_sort_column();
    sort_rows();
    const int64_t n = static_cast<int64_t>(order_.size());
    Pace pace;
    for (int64_t k = 1; k < n; ++k) {
      pace.after(64);
      if (sorted_labels_[k - 1] != sorted_labels_[k]) visit(order_[k - 1], order_[k], 0);
    }
    if (best_ != D{}) search_groups();
    last_work().comparisons = comparisons_;
    margin = best_;
    return true;
  }

 private:
  static constexpr int64_t block_values = block_bytes / static_cast<int64_t>(sizeof(Value));
  static constexpr int64_t piece_values = piece_bytes / static_cast<int64_t>(sizeof(Value));
  using Block = std::array<Value, block_values>;

  // `count` values of row i from a column on. Scratch: as many.
  const Value* piece(int64_t i, int64_t column, int64_t count, Value* scratch) const {
    constexpr int64_t item = sizeof(Value);
    const std::byte* bytes = rows_.piece(i, column * item, count * item, reinterpret_cast<std::byte*>(scratch));
    if (reinterpret_cast<uintptr_t>(bytes) % alignof(Value) == 0) return reinterpret_cast<const Value*>(bytes);
    std::memcpy(scratch, bytes, count * item);
    return scratch;
  }
  const Value* block(int64_t i, int64_t b, Block& scratch) const {
    return piece(i, b * block_values, values_in(b), scratch.data());
  }
  int64_t values_in(int64_t b) const { return rows_.block_length(b) / static_cast<int64_t>(sizeof(Value)); }
  Value value(int64_t i, int64_t column) const {
    Value v;
    std::byte scratch[sizeof(Value)];
    std::memcpy(&v, rows_.piece(i, column * static_cast<int64_t>(sizeof(Value)), sizeof(Value), scratch), sizeof v);
    return v;
  }

  void list_rows_without_nan() {
    order_.reserve(rows_.num_rows());
    Block scratch;
    Pace pace;
    for (int64_t i = 0; i < rows_.num_rows(); ++i) {
      bool nan = false;
      for (int64_t b = 0; b < rows_.num_blocks() && !nan; ++b) {
        pace.after(rows_.block_length(b));
        nan = rows_.kernels().holds_nan(rows_.block(i, b, reinterpret_cast<std::byte*>(scratch.data())),
                                        rows_.block_length(b), rows_.grid());
      }
      if (!nan) order_.push_back(i);
    }
  }

  bool two_labels() const {
    return std::any_of(order_.begin(), order_.end(), [&](int64_t i) { return labels_[i] != labels_[order_[0]]; });
  }

  // The column with the widest range in a few evenly spaced rows.
  void guess_sort_column() {
    const int64_t n = static_cast<int64_t>(order_.size()), guessed = std::min(n, num_guessed);
    Block scratch;
    std::array<Value, block_values> low, high;
    D widest{};
    Pace pace;
    for (int64_t b = 0; b < rows_.num_blocks(); ++b) {
      pace.after(guessed * rows_.block_length(b));
      for (int64_t g = 0; g < guessed; ++g) {
        const Value* values = block(order_[n * g / guessed], b, scratch);
        for (int64_t k = 0; k < values_in(b); ++k) {
          low[k] = g == 0 ? values[k] : std::min(low[k], values[k]);
          high[k] = g == 0 ? values[k] : std::max(high[k], values[k]);
        }
      }
      for (int64_t k = 0; k < values_in(b); ++k)
        if (const D range = distance(low[k], high[k]); range > widest) {
          widest = range;
          sort_column_ = b * block_values + k;
        }
    }
  }

  void sort_rows() {
    std::vector<std::pair<Value, int64_t>> keyed;
    keyed.reserve(order_.size());
    keys_.reserve(order_.size());
    sorted_labels_.reserve(order_.size());
    for (const int64_t i : order_) keyed.push_back({or_zero(value(i, sort_column_)), i});
    sort_stoppably(keyed.begin(), keyed.end(), std::less<>());
    for (size_t k = 0; k < keyed.size(); ++k) {
      order_[k] = keyed[k].second;
      keys_.push_back(keyed[k].first);
      sorted_labels_.push_back(labels_[keyed[k].second]);
    }
  }

  // No row here held a NaN, but another thread may have written one since, and no sort survives that.
  static Value or_zero(Value v) { return v == v ? v : Value{}; }

  // Rows of the sorted order: some that follow each other, and some behind them. The first ones are compared with the
  // second ones and, where these follow at once, with each other.
  struct Groups {
    int64_t begin, end, next_begin, next_end;
    int num_rows() const { return static_cast<int>(end - begin + next_end - next_begin); }
    int64_t row(int place) const { return place < end - begin ? begin + place : next_begin + place - (end - begin); }
    int place(int64_t row) const { return static_cast<int>(row < end ? row - begin : row - next_begin + end - begin); }
  };

  // Where groups begin, and the end: at gaps that no close pair crosses, and where there are none, every so many rows.
  std::vector<int64_t> group_bounds() const {
    const int64_t n = static_cast<int64_t>(order_.size());
    std::vector<int64_t> bounds{0};
    for (int64_t k = 1; k <= n; ++k) {
      if (k < n && !are_far(k - 1, k)) continue;
      const int64_t size = k - bounds.back() <= OpenPairs::max_rows ? OpenPairs::max_rows : OpenPairs::max_rows / 2;
      while (k - bounds.back() > size) bounds.push_back(bounds.back() + size);
      bounds.push_back(k);
    }
    return bounds;
  }

  void search_groups() {
    const int64_t n = static_cast<int64_t>(order_.size());
    const std::vector<int64_t> bounds = group_bounds();
    const int64_t num_groups = static_cast<int64_t>(bounds.size()) - 1;
    const int threads = n < 256 ? 1 : num_threads_;
    const bool side_by_side = num_groups >= 2 * threads;
    parallel_for(num_groups, 1 + num_groups / 512, side_by_side ? threads : 1, [&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g) {
        const int64_t begin = bounds[g], end = bounds[g + 1];
        const auto is_near = [&](int64_t next) { return next < num_groups && !are_far(end - 1, bounds[next]); };
        compare({begin, end, end, bounds[is_near(g + 1) ? g + 2 : g + 1]}, side_by_side ? 1 : threads);
        for (int64_t next = g + 2; is_near(next); ++next)
          compare({begin, end, bounds[next], bounds[next + 1]}, side_by_side ? 1 : threads);
      }
    });
  }

  bool are_far(int64_t row, int64_t later) const {
    return distance(keys_[row], keys_[later]) >= best_.load(std::memory_order_relaxed);
  }

  void compare(const Groups& groups, int threads) {
    const int num_rows = groups.num_rows();
    if (num_rows < 2) return;
    OpenPairs pairs(num_rows);
    open_pairs(groups, pairs);
    // To compare a pair takes about half as long as to turn a row and to look through it.
    std::atomic<int64_t> few{2 * num_rows}, next_column{0};
    const int64_t num_pieces = pairs.more_than(few) ? (num_columns_ + piece_values - 1) / piece_values : 0;
    parallel_for(num_pieces, 1, threads, [&](int64_t first, int64_t last) {
      for (int64_t p = first; p < last; ++p)
        if (pairs.more_than(few)) next_column = close_pairs(groups, p * piece_values, pairs, few);
    });
    parallel_for(num_rows, 16, threads, [&](int64_t first, int64_t last) {
      for (int place = static_cast<int>(first); place < last; ++place)
        pairs.others(place).each([&](int other) {
          visit(order_[groups.row(place)], order_[groups.row(other)], next_column / block_values);
        });
    });
  }

  void open_pairs(const Groups& groups, OpenPairs& pairs) const {
    const bool adjoin = groups.next_begin == groups.end;
    for (int place = 0; place < groups.num_rows(); ++place) {
      OpenPairs::Rows others;
      const int64_t row = groups.row(place);
      int64_t other = adjoin ? row + 1 : groups.next_begin;
      if (row < groups.end)
        for (int at = groups.place(other); other < groups.next_end && !are_far(row, other); ++other, ++at)
          others.add(at, sorted_labels_[row] != sorted_labels_[other]);
      pairs.open(place, others);
    }
  }

  // Closes the pairs that a few columns tell apart, until few are left. `few`: as many as are compared in the time that
  // going on would take, which is the longer the more rows lie in the tails. Returns the last column.
  int64_t close_pairs(const Groups& groups, int64_t column, OpenPairs& pairs, std::atomic<int64_t>& few) {
    const int64_t count = std::min(piece_values, num_columns_ - column);
    const int64_t num_rows = (groups.num_rows() + 63) / 64 * 64, stride = num_rows + 64 / sizeof(Value);
    ScratchArray<Value> columns(piece_values * stride);
    ScratchArray<Tail<Value>> tails(2);
    Pace pace;
    for (int64_t from = 0; from < num_rows; from += 8) {
      std::array<Value, piece_values> scratch[8];
      const Value* rows[8];
      for (int64_t r = 0; r < 8; ++r) {
        const int place = static_cast<int>(std::min<int64_t>(from + r, groups.num_rows() - 1));
        rows[r] = piece(order_[groups.row(place)], column, count, scratch[r].data());
      }
      kernels_.turn(rows, count, columns.data() + from, stride);
    }
    int64_t in_tails = 0, asked_at = 0;
    for (int64_t k = 0; k < count; ++k) {
      pace.after(num_rows * static_cast<int64_t>(sizeof(Value)));
      in_tails += close_by_column(columns.data() + k * stride, num_rows, pairs, tails[0], tails[1]);
      if (in_tails - asked_at < 4 * num_rows && k + 1 < count) continue;
      asked_at = in_tails;
      few = 2 * groups.num_rows() + in_tails * count / (k + 1) / 16;
      if (pairs.more_than(few)) continue;
      comparisons_ += groups.num_rows() * (k + 1);
      return column + k;
    }
    comparisons_ += groups.num_rows() * count;
    return column;
  }

  int64_t close_by_column(const Value* column, int64_t num_rows, OpenPairs& pairs, Tail<Value>& low,
                          Tail<Value>& high) const {
    const D best = best_.load(std::memory_order_relaxed);
    Value lowest, highest;
    kernels_.range(column, num_rows, &lowest, &highest);
    if (distance(lowest, highest) < best) return 0;
    OpenPairs::Rows lows, highs;
    kernels_.tails(column, num_rows, below(highest, best), above(lowest, best), lows.words, highs.words);
    lows.keep_below(pairs.num_rows());  // behind them are copies of the last row
    highs.keep_below(pairs.num_rows());
    pairs.keep_meeting(lows, highs);
    low.take(column, lows, std::less<>());
    high.take(column, highs, std::greater<>());
    close_far(low, high, [&](Value l, Value h) { return l < h && distance(l, h) >= best; }, pairs);
    close_far(high, low, [&](Value h, Value l) { return l < h && distance(l, h) >= best; }, pairs);
    return low.size + high.size;
  }

  // Only values beyond these can be far from another one; which pairs are far is then asked exactly.
  static Value below(Value highest, D best) {
    const Value limit = static_cast<Value>(static_cast<D>(highest) - best);
    return limit == limit ? limit : highest;
  }
  static Value above(Value lowest, D best) {
    const Value limit = static_cast<Value>(static_cast<D>(lowest) + best);
    return limit == limit ? limit : lowest;
  }

  // Gives the pair up once it is no closer than the best, else takes its exact distance. Begins where columns have not
  // been looked at: those before have hardly anything left to say.
  void visit(int64_t i, int64_t j, int64_t first_block) {
    const D best = best_.load(std::memory_order_relaxed);
    Block scratch_i, scratch_j;
    int64_t compared = 0;
    bool is_apart = false;
    Pace pace;
    for (int64_t k = 0; k < rows_.num_blocks() && !is_apart; ++k) {
      const int64_t b = (first_block + k) % rows_.num_blocks();
      pace.after(2 * rows_.block_length(b));
      is_apart = are_apart(block(i, b, scratch_i), block(j, b, scratch_j), values_in(b), best, compared);
    }
    if (!is_apart) {
      D furthest{};
      for (int64_t b = 0; b < rows_.num_blocks(); ++b) {
        pace.after(2 * rows_.block_length(b));
        const Value *x = block(i, b, scratch_i), *y = block(j, b, scratch_j);
        for (int64_t k = 0; k < values_in(b); ++k) furthest = std::max(furthest, distance(x[k], y[k]));
      }
      compared += num_columns_;
      D before = best_;
      while (furthest < before && !best_.compare_exchange_weak(before, furthest)) {}
    }
    comparisons_ += compared;
  }

  // The kernels round differences to Value, which keeps their order: where one reaches the rounded bound, the exact
  // ones are asked.
  bool are_apart(const Value* a, const Value* b, int64_t count, D best, int64_t& compared) const {
    const Value bound = static_cast<Value>(best);
    for (int64_t k = 0; k < count;) {
      const int64_t at = k + kernels_.apart(a + k, b + k, count - k, bound);
      const int64_t next = std::min(count, at + values_at_once<Value>);
      compared += next - k;
      for (int64_t u = at; u < next; ++u)
        if (distance(a[u], b[u]) >= best) return true;
      k = next;
    }
    return false;
  }

  const RowBlocks& rows_;
  const std::vector<int64_t>& labels_;
  const int64_t num_columns_;
  const int num_threads_;
  const Kernels<Value> kernels_{};
  std::vector<int64_t> order_;  // rows without NaN, later sorted by the sort column
  std::vector<Value> keys_;  // values of the sort column, ascending
  std::vector<int64_t> sorted_labels_;
  int64_t sort_column_ = 0;
  std::atomic<D> best_{std::numeric_limits<D>::has_infinity ? std::numeric_limits<D>::infinity()
                                                            : std::numeric_limits<D>::max()};
  std::atomic<int64_t> comparisons_{0};
};

template <class Value>
double search(const RowBlocks& rows, const std::vector<int64_t>& labels, int num_threads) {
  Distance<Value> margin;
  return Search<Value>(rows, labels, num_threads).run(margin) ? static_cast<double>(margin) : INFINITY;
}

}  // namespace

double conflict_margin(const RowsView& view, const LabelsView& labels, int num_threads) {
  const FloatEnvironment ieee;
  last_work() = Work{};
  last_work().bytes_total = view.num_rows() * view.num_columns() * itemsize(view.dtype);
  std::vector<int64_t> values(view.num_rows());
  for (int64_t i = 0; i < view.num_rows(); ++i) values[i] = label_at(labels, i);
  // 64-bit integers do not fit a double: their bits are taken as they are
  if (view.dtype == DType::int64) return search<int64_t>({view, {}, ColumnOrder::any}, values, num_threads);
  if (view.dtype == DType::uint64) return search<uint64_t>({view, {}, ColumnOrder::any}, values, num_threads);
  if (fits_float32(view.dtype)) return search<float>(RowBlocks::as_float32(view), values, num_threads);
  return search<double>(RowBlocks::as_float64(view), values, num_threads);
}

}  // namespace cbkernels::cpu
