// Smallest L-infinity distance of two rows with different labels, exactly, without looking at most of the data. Rows
// are sorted by one column: neighbours give a good first bound, and pairs too far apart in it are never visited. A
// pair is first compared in the columns where one of its rows is most unusual, which ends nearly all of them after a
// few values; what is left is compared in full, in pieces, and given up as soon as it exceeds the best.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "../contract.h"
#include "float_environment.h"
#include "labels.h"
#include "row_blocks.h"
#include "threads.h"

namespace cbkernels::cpu {
namespace {

constexpr int num_unusual = 32;       // columns per row; a pair of unrelated rows survives them with under 1 %
constexpr int64_t piece_values = 64;  // looked at between two decisions to give up

// Distances of doubles are doubles; of 64-bit integers exact 64-bit integers, rounded once at the very end.
template <class Value>
using Distance = std::conditional_t<std::is_same_v<Value, double>, double, uint64_t>;

inline double distance(double a, double b) { return a == b ? 0.0 : std::fabs(a - b); }  // infinities: 0 or infinity
inline uint64_t distance(int64_t a, int64_t b) {
  return a > b ? static_cast<uint64_t>(a) - static_cast<uint64_t>(b) : static_cast<uint64_t>(b) - static_cast<uint64_t>(a);
}
inline uint64_t distance(uint64_t a, uint64_t b) { return a > b ? a - b : b - a; }

template <class Value>
class Search {
 public:
  using D = Distance<Value>;

  Search(const RowBlocks& rows, std::vector<int64_t> labels, int num_threads)
      : rows_(rows), labels_(std::move(labels)), num_columns_(rows.row_bytes() / 8), num_threads_(num_threads) {}

  // Nothing found: false.
  bool run(D& margin) {
    find_rows_and_columns();
    if (!two_labels()) return false;
    sort_rows();
    for (size_t k = 1; k < order_.size(); ++k)
      if (labels_[order_[k - 1]] != labels_[order_[k]]) visit(order_[k - 1], order_[k]);
    const int64_t n = static_cast<int64_t>(order_.size());
    parallel_for(n, 16, n < 256 ? 1 : num_threads_, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) visit_followers(k);
    });
    last_work().comparisons = comparisons_;
    margin = best_;
    return true;
  }

 private:
  struct Unusual {
    int64_t column;
    Value value;
    double deviation;
  };

  // One read: rows without NaN, the centre of every column and the column with the widest range.
  void find_rows_and_columns() {
    const int64_t n = rows_.num_rows();
    std::vector<double> sum(num_columns_, 0.0), low(num_columns_, INFINITY), high(num_columns_, -INFINITY);
    for (int64_t i = 0; i < n; ++i) {
      const bool usable = for_each_piece(i, [&](int64_t from, const Value* values, int64_t count) {
        bool nan = false;
        for (int64_t k = 0; k < count; ++k) nan |= values[k] != values[k];
        return !nan;
      });
      if (!usable) continue;
      order_.push_back(i);
      for_each_piece(i, [&](int64_t from, const Value* values, int64_t count) {
        for (int64_t k = 0; k < count; ++k) {
          const double v = static_cast<double>(values[k]);
          sum[from + k] += v;
          low[from + k] = v < low[from + k] ? v : low[from + k];
          high[from + k] = v > high[from + k] ? v : high[from + k];
        }
        return true;
      });
    }
    centre_.resize(num_columns_);
    double widest = -1;
    for (int64_t c = 0; c < num_columns_; ++c) {
      const double mean = sum[c] / static_cast<double>(order_.size());
      centre_[c] = std::isfinite(mean) ? mean : 0;
      if (high[c] - low[c] > widest) {
        widest = high[c] - low[c];
        sort_column_ = c;
      }
    }
  }

  bool two_labels() const {
    for (const int64_t i : order_)
      if (labels_[i] != labels_[order_[0]]) return true;
    return false;
  }

  void sort_rows() {
    if (num_columns_ == 0) return;
    std::vector<std::pair<Value, int64_t>> keyed;
    for (const int64_t i : order_) keyed.push_back({value(i, sort_column_), i});
    std::sort(keyed.begin(), keyed.end());
    keys_.clear();
    for (size_t k = 0; k < keyed.size(); ++k) {
      order_[k] = keyed[k].second;
      keys_.push_back(keyed[k].first);
    }
  }

  // The most unusual value of each of 32 stretches of the row, most unusual first.
  std::vector<Unusual> unusual_columns(int64_t i) {
    const int64_t stretches = std::min<int64_t>(num_unusual, num_columns_);
    std::vector<Unusual> found(stretches, Unusual{0, Value{}, -1});
    for_each_piece(i, [&](int64_t from, const Value* values, int64_t count) {
      for (int64_t k = 0; k < count;) {
        const int64_t s = (from + k) * stretches / num_columns_;
        const int64_t stop = std::min(count, ((s + 1) * num_columns_ + stretches - 1) / stretches - from);
        for (; k < stop; ++k) {
          const double deviation = std::fabs(static_cast<double>(values[k]) - centre_[from + k]);
          if (deviation > found[s].deviation) found[s] = {from + k, values[k], deviation};
        }
      }
      return true;
    });
    std::sort(found.begin(), found.end(), [](const Unusual& a, const Unusual& b) { return a.deviation > b.deviation; });
    return found;
  }

  void visit_followers(int64_t k) {
    const int64_t n = static_cast<int64_t>(order_.size()), i = order_[k];
    const std::vector<Unusual> unusual = unusual_columns(i);
    int64_t compared = 0;
    for (int64_t m = k + 1; m < n; ++m) {
      const D best = best_.load(std::memory_order_relaxed);
      if (best == D{}) break;
      if (num_columns_ && distance(keys_[k], keys_[m]) > best) break;  // and all behind it
      const int64_t j = order_[m];
      if (labels_[i] == labels_[j]) continue;
      bool too_far = false;
      for (const Unusual& u : unusual) {
        ++compared;
        if (distance(u.value, value(j, u.column)) > best) {
          too_far = true;
          break;
        }
      }
      if (!too_far) visit(i, j);
    }
    comparisons_ += compared;
  }

  // Full distance, given up once it exceeds the best; lowers the best.
  void visit(int64_t i, int64_t j) {
    std::array<Value, piece_values> scratch_i, scratch_j;
    D furthest{};
    int64_t compared = 0;
    for (int64_t c = 0; c < num_columns_; c += piece_values) {
      const int64_t count = std::min(piece_values, num_columns_ - c);
      const Value* a = values(i, c, count, scratch_i);
      const Value* b = values(j, c, count, scratch_j);
      for (int64_t k = 0; k < count; ++k) {
        const D d = distance(a[k], b[k]);
        furthest = d > furthest ? d : furthest;
      }
      compared += count;
      if (furthest > best_.load(std::memory_order_relaxed)) break;
    }
    comparisons_ += compared;
    D before = best_;
    while (furthest < before && !best_.compare_exchange_weak(before, furthest)) {
    }
  }

  const Value* values(int64_t i, int64_t from, int64_t count, std::array<Value, piece_values>& scratch) const {
    const std::byte* piece = rows_.piece(i, 8 * from, 8 * count, reinterpret_cast<std::byte*>(scratch.data()));
    if (piece != reinterpret_cast<const std::byte*>(scratch.data())) std::memcpy(scratch.data(), piece, 8 * count);
    return scratch.data();
  }
  Value value(int64_t i, int64_t column) const {
    Value v;
    std::byte scratch[8];
    std::memcpy(&v, rows_.piece(i, 8 * column, 8, scratch), 8);
    return v;
  }
  template <class Piece>  // piece(first column, values, count) says whether to go on
  bool for_each_piece(int64_t i, const Piece& piece) const {
    constexpr int64_t at_once = block_bytes / 8;
    std::array<Value, at_once> values;
    for (int64_t b = 0; b < rows_.num_blocks(); ++b) {
      const int64_t bytes = rows_.block_length(b);
      const std::byte* block = rows_.block(i, b, reinterpret_cast<std::byte*>(values.data()));
      if (block != reinterpret_cast<const std::byte*>(values.data())) std::memcpy(values.data(), block, bytes);
      if (!piece(b * at_once, values.data(), bytes / 8)) return false;
    }
    return true;
  }

  const RowBlocks& rows_;
  const std::vector<int64_t> labels_;
  const int64_t num_columns_;
  const int num_threads_;
  std::vector<int64_t> order_;  // rows without NaN, later sorted by the sort column
  std::vector<Value> keys_;     // values of the sort column, ascending
  std::vector<double> centre_;
  int64_t sort_column_ = 0;
  std::atomic<D> best_{std::numeric_limits<D>::has_infinity ? std::numeric_limits<D>::infinity()
                                                            : std::numeric_limits<D>::max()};
  std::atomic<int64_t> comparisons_{0};
};

template <class Value>
double search(const RowBlocks& rows, const std::vector<int64_t>& labels, int num_threads) {
  Distance<Value> margin;
  if (!Search<Value>(rows, labels, num_threads).run(margin)) return INFINITY;
  return static_cast<double>(margin);
}

}  // namespace

double conflict_margin(const RowsView& view, const LabelsView& labels, int num_threads) {
  const FloatEnvironment ieee;
  last_work() = Work{};
  last_work().bytes_total = view.num_rows() * view.num_columns() * itemsize(view.dtype);
  std::vector<int64_t> values(view.num_rows());
  const LabelAt at = label_reader(labels.dtype);
  for (int64_t i = 0; i < view.num_rows(); ++i) values[i] = at(labels, i);
  // 64-bit integers do not fit a double: their bits are taken as they are
  if (view.dtype == DType::int64) return search<int64_t>({view, {}, ColumnOrder::any}, values, num_threads);
  if (view.dtype == DType::uint64) return search<uint64_t>({view, {}, ColumnOrder::any}, values, num_threads);
  return search<double>(RowBlocks::as_float64(view), values, num_threads);
}

}  // namespace cbkernels::cpu
