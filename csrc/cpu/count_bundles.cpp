// The calls that end in counts. Labels are compared as integers and never used as indices.
#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>

#include "../contract.h"
#include "../routing_keys.h"
#include "../rows/values.h"
#include "float_environment.h"
#include "group_keys.h"
#include "group_near_rows.h"
#include "group_rows.h"
#include "threads.h"

namespace cbkernels {
namespace {

// The different labels, numbered as they appear.
class LabelCodes {
 public:
  static constexpr int64_t most = 1024;

  ~LabelCodes() { last_work().collisions += num_collisions_; }

  // Number of the label, or -1 when it is one too many.
  int64_t code_of(int64_t label) {
    size_t slot = fingerprint::mix(fingerprint::pair_hash(key_, 0, static_cast<uint64_t>(label))) % slots_.size();
    for (; slots_[slot] >= 0 && known_[slots_[slot]] != label; ++num_collisions_)
      slot = slot + 1 == slots_.size() ? 0 : slot + 1;
    if (slots_[slot] < 0) {
      if (size() == most) return -1;
      slots_[slot] = static_cast<int32_t>(size());
      known_.push_back(label);
    }
    return slots_[slot];
  }
  int64_t size() const { return static_cast<int64_t>(known_.size()); }

 private:
  const fingerprint::Key key_ = routing_key();
  int64_t num_collisions_ = 0;
  std::vector<int64_t> known_;
  std::vector<int32_t> slots_ = std::vector<int32_t>(4 * most, -1);
};

void close_bundle(BundleCounts& counts) {
  std::sort(counts.label_counts.begin() + counts.starts.back(), counts.label_counts.end());
  counts.starts.push_back(static_cast<int64_t>(counts.label_counts.size()));
}

// Rows of conflicting bundles: conflict_of(i) is the number of the bundle, or pure.
constexpr int64_t pure = -1;

// Few labels: a table of bundles x labels. False, with nothing counted, when it would be larger than the rows.
template <class ConflictOf, class Label>
bool count_in_table(int64_t num_rows, const ConflictOf& conflict_of, const Label& label, BundleCounts& counts) {
  LabelCodes codes;
  for (int64_t i = 0; i < num_rows; ++i)
    if (conflict_of(i) != pure && codes.code_of(label(i)) < 0) return false;
  stop_if_asked();
  const int64_t width = codes.size();
  if (width * counts.num_conflicting > 1024 + counts.num_conflicting_rows) return false;
  std::vector<int64_t> cells(width * counts.num_conflicting, 0);
  for (int64_t i = 0; i < num_rows; ++i) {
    if (conflict_of(i) == pure) continue;
    const int64_t code = codes.code_of(label(i));
    if (code < 0 || code >= width) return false;  // another thread wrote the label meanwhile: it has no cell
    ++cells[conflict_of(i) * width + code];
  }
  for (int64_t b = 0; b < counts.num_conflicting; ++b) {
    for (int64_t c = b * width; c < (b + 1) * width; ++c)
      if (cells[c]) counts.label_counts.push_back(cells[c]);
    close_bundle(counts);
  }
  return true;
}

// Many labels or small bundles: the labels of each bundle side by side, then sorted.
template <class ConflictOf, class Label>
void count_by_sorting(int64_t num_rows, const ConflictOf& conflict_of, const Label& label, BundleCounts& counts) {
  std::vector<int64_t> place(counts.num_conflicting + 1, 0), labels(counts.num_conflicting_rows);
  for (int64_t i = 0; i < num_rows; ++i)
    if (conflict_of(i) != pure) ++place[conflict_of(i) + 1];
  for (int64_t b = 0; b < counts.num_conflicting; ++b) place[b + 1] += place[b];
  for (int64_t i = 0; i < num_rows; ++i)
    if (conflict_of(i) != pure) labels[place[conflict_of(i)]++] = label(i);
  stop_if_asked();
  int64_t begin = 0;  // place[b] is now where bundle b ends
  for (int64_t b = 0; b < counts.num_conflicting; begin = place[b++]) {
    sort_stoppably(labels.begin() + begin, labels.begin() + place[b], std::less<>());
    for (int64_t i = begin; i < place[b];) {
      const int64_t first = i;
      while (i < place[b] && labels[i] == labels[first]) ++i;
      counts.label_counts.push_back(i - first);
    }
    close_bundle(counts);
  }
}

// For each bundle the number of the conflicting bundle that it is, or pure. Fills the counts' integers.
template <class Label>
std::vector<int64_t> number_conflicts(const int64_t* ids, int64_t num_rows, const Label& label, BundleCounts& counts) {
  std::vector<int64_t> conflict(counts.num_bundles, pure);
  std::vector<int64_t> first_label(counts.num_bundles);
  int64_t next = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t b = ids[i], y = label(i);
    if (b == next)
      first_label[next++] = y;
    else if (first_label[b] != y)
      conflict[b] = 0;
  }
  for (int64_t& number : conflict)
    if (number != pure) number = counts.num_conflicting++;
  if (counts.num_conflicting)
    for (int64_t i = 0; i < num_rows; ++i) counts.num_conflicting_rows += conflict[ids[i]] != pure;
  return conflict;
}

template <class Label>
BundleCounts count_labels(const int64_t* ids, int64_t num_rows, int64_t num_bundles, int64_t num_nan_rows,
                          const Label& label) {
  BundleCounts counts;
  counts.num_bundles = num_bundles;
  counts.num_nan_rows = num_nan_rows;
  if (num_bundles == num_rows) return counts;
  const std::vector<int64_t> conflict = number_conflicts(ids, num_rows, label, counts);
  stop_if_asked();
  if (!counts.num_conflicting) return counts;
  const auto conflict_of = [&](int64_t i) { return conflict[ids[i]]; };
  if (!count_in_table(num_rows, conflict_of, label, counts)) count_by_sorting(num_rows, conflict_of, label, counts);
  return counts;
}

Grouping group(const RowsView& view, const UpdateGrid& grid, const Tolerance* tolerance, bool check_nan,
               int num_threads, int64_t* ids) {
  last_work() = Work{};
  last_work().bytes_total = view.num_rows() * view.num_columns() * itemsize(view.dtype);
  if (tolerance) return group_near_rows(RowBlocks::as_float64(view), *tolerance, num_threads, ids);
  return group_rows(RowBlocks(view, grid, ColumnOrder::any), check_nan, num_threads, ids);
}

}  // namespace

namespace cpu {

int64_t bundle_ids(const RowsView& rows, const UpdateGrid& grid, const Tolerance* tolerance, int64_t* ids,
                   int num_threads) {
  const FloatEnvironment ieee;
  return group(rows, grid, tolerance, false, num_threads, ids).num_bundles;
}

BundleCounts count_bundles(const RowsView& rows, const LabelsView& labels, const UpdateGrid& grid,
                           const Tolerance* tolerance, bool check_nan, int num_threads) {
  const FloatEnvironment ieee;
  const std::unique_ptr<int64_t[]> ids(new int64_t[rows.num_rows()]);
  const Grouping grouping = group(rows, grid, tolerance, check_nan, num_threads, ids.get());
  return count_labels(ids.get(), rows.num_rows(), grouping.num_bundles, grouping.num_nan_rows,
                      [&](int64_t i) { return label_at(labels, i); });
}

BundleCounts count_fingerprints(const std::vector<FingerprintBlock>& blocks, int num_threads) {
  last_work() = Work{};
  int64_t n = 0;
  for (const FingerprintBlock& block : blocks) n += block.num_rows;
  if (n == 0) return {};
  // where row i lives: its block by bisection, remembered because rows are asked for in order
  std::vector<int64_t> begins;
  int64_t at = 0;
  for (const FingerprintBlock& block : blocks) {
    begins.push_back(at);
    at += block.num_rows;
  }
  const auto block_of = [&](int64_t i) {
    return static_cast<size_t>(std::upper_bound(begins.begin(), begins.end(), i) - begins.begin()) - 1;
  };
  const auto fingerprint_at = [&](int64_t i) {
    const size_t b = block_of(i);
    return blocks[b].fingerprints + 2 * (i - begins[b]);
  };
  ScratchArray<uint64_t> keys(n);
  ScratchArray<int64_t> ids(n);
  int64_t i = 0;
  const fingerprint::Key key = routing_key();
  const uint64_t mask = routing_mask();
  for (const FingerprintBlock& block : blocks)
    for (int64_t k = 0; k < 2 * block.num_rows; k += 2)
      keys[i++] =
          fingerprint::mix(fingerprint::pair_hash(key, block.fingerprints[k], block.fingerprints[k + 1])) & mask;
  std::atomic<int64_t> collisions{0};
  group_keys(keys.data(), nullptr, n, ids.data(), num_threads, [&](int64_t p, int64_t q) {
    const uint64_t *a = fingerprint_at(p), *b = fingerprint_at(q);
    if (a[0] == b[0] && a[1] == b[1]) return true;
    collisions.fetch_add(1, std::memory_order_relaxed);
    return false;
  });
  last_work().collisions = collisions;
  int64_t num_bundles = 0;
  for (i = 0; i < n; ++i) ids[i] = ids[i] == i ? num_bundles++ : ids[ids[i]];
  return count_labels(ids.data(), n, num_bundles, 0, [&](int64_t row) {
    if (row % (1 << 20) == 0) stop_if_asked();
    const size_t b = block_of(row);
    return blocks[b].labels[row - begins[b]];
  });
}

}  // namespace cpu
}  // namespace cbkernels
