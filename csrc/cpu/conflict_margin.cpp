// Smallest L-infinity distance of two rows with different labels, exactly, without looking at most of the data. Rows
// are sorted by one column: neighbours give a good first bound, and pairs too far apart in it are never visited. A pair
// is first compared in the columns where one of its rows is most unusual, which ends about half of the pairs after a
// few values; what is left is compared in full and given up as soon as one component exceeds the best. Which columns
// are looked at first is guessed from a few rows; only the cost depends on it.
#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <type_traits>

#include "../contract.h"
#include "float_environment.h"
#include "labels.h"
#include "row_blocks.h"
#include "threads.h"

namespace cbkernels::cpu {
namespace {

constexpr int num_unusual = 16;  // columns per row; more of them cost more cache misses than they save
constexpr int64_t num_guessed = 32;  // rows from which centres and the sort column are guessed

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

// The kernels round differences to Value: a rounded difference above this bound is an exact one above `best`.
inline float rounded_bound(double best, float) {
  const float nearest = static_cast<float>(best);
  return nearest > std::numeric_limits<float>::max() ? nearest : std::nextafter(nearest * (1 + 0x1p-22f), INFINITY);
}
inline double rounded_bound(double best, double) { return best; }  // the distance is this rounded difference itself

template <class Value>
struct Kernels {  // 64-bit integers: plain loops
  bool apart(const Value* a, const Value* b, int64_t count, uint64_t best, int64_t* looked_at) const {
    for (int64_t k = 0; k < count; ++k)
      if (distance(a[k], b[k]) > best) {
        *looked_at = k + 1;
        return true;
      }
    *looked_at = count;
    return false;
  }
  int64_t farthest(const Value* values, const Value* centre, int64_t count) const {
    int64_t at = 0;
    for (int64_t k = 1; k < count; ++k)
      if (distance(values[k], centre[k]) > distance(values[at], centre[at])) at = k;
    return at;
  }
};
template <class Value, const DistanceKernels<Value> InstructionSet::* kernels>
struct FloatKernels {
  const DistanceKernels<Value>& use = instruction_set_in_use().*kernels;
  bool apart(const Value* a, const Value* b, int64_t count, double best, int64_t* looked_at) const {
    return use.apart(a, b, count, rounded_bound(best, Value{}), looked_at);
  }
  int64_t farthest(const Value* values, const Value* centre, int64_t count) const {
    return use.farthest(values, centre, count);
  }
};
template <>
struct Kernels<float> : FloatKernels<float, &InstructionSet::float_distances> {};
template <>
struct Kernels<double> : FloatKernels<double, &InstructionSet::double_distances> {};

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
    guess_centres();
    sort_rows();
    const int64_t n = static_cast<int64_t>(order_.size());
    Pace pace;
    for (int64_t k = 1; k < n; ++k) {
      pace.after(64);
      if (labels_[order_[k - 1]] != labels_[order_[k]]) visit(order_[k - 1], order_[k]);
    }
    const int threads = n < 256 ? 1 : num_threads_;
    parallel_for(n, 16, threads, [&](int64_t begin, int64_t end) {
      for (int64_t k = begin; k < end; ++k) visit_followers(k);
    });
    last_work().comparisons = comparisons_;
    margin = best_;
    return true;
  }

 private:
  static constexpr int64_t block_values = block_bytes / static_cast<int64_t>(sizeof(Value));
  using Block = std::array<Value, block_values>;

  struct Unusual {
    int64_t column;
    Value value;
    D deviation;
  };

  const Value* block(int64_t i, int64_t b, Block& scratch) const {
    const std::byte* bytes = rows_.block(i, b, reinterpret_cast<std::byte*>(scratch.data()));
    const auto* values = reinterpret_cast<const Value*>(bytes);
    if (reinterpret_cast<uintptr_t>(bytes) % alignof(Value) == 0) return values;
    std::memcpy(scratch.data(), bytes, rows_.block_length(b));
    return scratch.data();
  }
  int64_t values_in(int64_t b) const { return rows_.block_length(b) / static_cast<int64_t>(sizeof(Value)); }
  Value value(int64_t i, int64_t column) const {
    Value v;
    std::byte scratch[sizeof(Value)];
    std::memcpy(&v, rows_.piece(i, column * static_cast<int64_t>(sizeof(Value)), sizeof(Value), scratch), sizeof v);
    return v;
  }

  void list_rows_without_nan() {
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

  // Column means and the column with the widest range, of a few evenly spaced rows.
  void guess_centres() {
    const int64_t n = static_cast<int64_t>(order_.size()), guessed = std::min(n, num_guessed);
    centre_.resize(num_columns_);
    Block scratch;
    std::array<double, block_values> sum, low, high;
    double widest = -1;
    Pace pace;
    for (int64_t b = 0; b < rows_.num_blocks(); ++b) {
      pace.after(guessed * rows_.block_length(b));
      sum.fill(0);
      low.fill(INFINITY);
      high.fill(-INFINITY);
      for (int64_t g = 0; g < guessed; ++g) {
        const Value* values = block(order_[n * g / guessed], b, scratch);
        for (int64_t k = 0; k < values_in(b); ++k) {
          const double v = static_cast<double>(values[k]);
          sum[k] += v;
          low[k] = std::min(low[k], v);
          high[k] = std::max(high[k], v);
        }
      }
      for (int64_t k = 0; k < values_in(b); ++k) {
        const double mean = sum[k] / static_cast<double>(guessed), range = high[k] - low[k];
        constexpr double largest = 0x1p62;  // within every Value
        centre_[b * block_values + k] = std::fabs(mean) < largest ? static_cast<Value>(mean) : Value{};
        if (range > widest) {
          widest = range;
          sort_column_ = b * block_values + k;
        }
      }
    }
  }

  void sort_rows() {
    std::vector<std::pair<Value, int64_t>> keyed;
    for (const int64_t i : order_) keyed.push_back({or_zero(value(i, sort_column_)), i});
    sort_stoppably(keyed.begin(), keyed.end(), std::less<>());
    for (size_t k = 0; k < keyed.size(); ++k) {
      order_[k] = keyed[k].second;
      keys_.push_back(keyed[k].first);
    }
  }

  // No row here held a NaN, but another thread may have written one since, and no sort survives that.
  static Value or_zero(Value v) { return v == v ? v : Value{}; }

  // The most unusual value of each of about 16 stretches of the row, most unusual first.
  std::vector<Unusual> unusual_columns(int64_t i) const {
    const int64_t stretch = std::max<int64_t>(1, (num_columns_ + num_unusual - 1) / num_unusual);
    std::vector<Unusual> found;
    Block scratch;
    Pace pace;
    for (int64_t b = 0; b < rows_.num_blocks(); ++b) {
      pace.after(rows_.block_length(b));
      const Value* values = block(i, b, scratch);
      const Value* centre = centre_.data() + b * block_values;
      for (int64_t from = 0; from < values_in(b); from += stretch) {
        const int64_t at =
            from + kernels_.farthest(values + from, centre + from, std::min(stretch, values_in(b) - from));
        const Value unusual = or_zero(values[at]);
        found.push_back({b * block_values + at, unusual, distance(unusual, centre[at])});
      }
    }
    std::sort(found.begin(), found.end(), [](const Unusual& a, const Unusual& b) { return a.deviation > b.deviation; });
    if (found.size() > num_unusual) found.resize(num_unusual);
    return found;
  }

  void visit_followers(int64_t k) {
    const int64_t n = static_cast<int64_t>(order_.size()), i = order_[k];
    const std::vector<Unusual> unusual = unusual_columns(i);
    int64_t compared = 0;
    for (int64_t m = k + 1; m < n; ++m) {
      if (m % 4096 == 0) stop_if_asked();
      const D best = best_.load(std::memory_order_relaxed);
      if (best == D{} || distance(keys_[k], keys_[m]) >= best) break;  // and all behind it
      const int64_t j = order_[m];
      if (labels_[i] == labels_[j]) continue;
      const auto too_far = [&](const Unusual& u) {
        ++compared;
        return distance(u.value, value(j, u.column)) >= best;  // no closer than what is known
      };
      if (std::none_of(unusual.begin(), unusual.end(), too_far)) visit(i, j);
    }
    comparisons_ += compared;
  }

  // Gives the pair up once it exceeds the best, else takes its exact distance.
  void visit(int64_t i, int64_t j) {
    const D best = best_.load(std::memory_order_relaxed);
    Block scratch_i, scratch_j;
    int64_t compared = 0;
    bool is_apart = false;
    Pace pace;
    for (int64_t b = 0; b < rows_.num_blocks() && !is_apart; ++b) {
      pace.after(2 * rows_.block_length(b));
      int64_t looked_at = 0;
      is_apart = kernels_.apart(block(i, b, scratch_i), block(j, b, scratch_j), values_in(b), best, &looked_at);
      compared += looked_at;
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

  const RowBlocks& rows_;
  const std::vector<int64_t>& labels_;
  const int64_t num_columns_;
  const int num_threads_;
  const Kernels<Value> kernels_{};
  std::vector<int64_t> order_;  // rows without NaN, later sorted by the sort column
  std::vector<Value> keys_;  // values of the sort column, ascending
  std::vector<Value> centre_;
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

bool fits_float32(DType dtype) {
  switch (dtype) {
    case DType::float64:
    case DType::int64:
    case DType::int32:
    case DType::uint64:
    case DType::uint32: return false;
    default: return true;
  }
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
  if (fits_float32(view.dtype)) return search<float>(RowBlocks::as_float32(view), values, num_threads);
  return search<double>(RowBlocks::as_float64(view), values, num_threads);
}

}  // namespace cbkernels::cpu
