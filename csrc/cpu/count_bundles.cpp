// The calls that end in counts. Labels are compared as integers and never used as indices.
#include "count_bundles.h"

#include <algorithm>
#include <memory>

#include "../fingerprint.h"
#include "float_environment.h"
#include "group_keys.h"
#include "group_near_rows.h"
#include "group_rows.h"
#include "labels.h"

namespace cbkernels {
namespace {

struct Labelled {  // a row of a conflicting bundle
  int64_t bundle, label;
  bool operator<(const Labelled& other) const {
    return bundle != other.bundle ? bundle < other.bundle : label < other.label;
  }
};

void append_counts(std::vector<Labelled>& rows, BundleCounts& counts) {
  std::sort(rows.begin(), rows.end());
  for (size_t i = 0; i < rows.size();) {
    const int64_t bundle = rows[i].bundle;
    const size_t first = counts.label_counts.size();
    while (i < rows.size() && rows[i].bundle == bundle) {
      size_t j = i;
      while (j < rows.size() && rows[j].bundle == bundle && rows[j].label == rows[i].label) ++j;
      counts.label_counts.push_back(static_cast<int64_t>(j - i));
      i = j;
    }
    std::sort(counts.label_counts.begin() + first, counts.label_counts.end());
    counts.starts.push_back(static_cast<int64_t>(counts.label_counts.size()));
  }
}

// The few labels of a usual data set: a table of bundles x labels instead of a sort.
bool append_counts_of_few(const std::vector<Labelled>& rows, int64_t num_conflicting, BundleCounts& counts) {
  constexpr size_t most_labels = 1024, most_cells = 1 << 22;
  std::vector<int64_t> known;
  std::vector<uint32_t> code(rows.size());
  std::vector<int32_t> slots(4 * most_labels, -1);  // label -> code, open addressing
  for (size_t i = 0; i < rows.size(); ++i) {
    const int64_t label = rows[i].label;
    size_t slot = fingerprint::mix(static_cast<uint64_t>(label)) % slots.size();
    while (slots[slot] >= 0 && known[slots[slot]] != label) slot = slot + 1 == slots.size() ? 0 : slot + 1;
    if (slots[slot] < 0) {
      if (known.size() == most_labels) return false;
      slots[slot] = static_cast<int32_t>(known.size());
      known.push_back(label);
    }
    code[i] = static_cast<uint32_t>(slots[slot]);
  }
  const size_t width = known.size();
  if (width * static_cast<size_t>(num_conflicting) > most_cells) return false;
  std::vector<int64_t> cells(width * num_conflicting, 0);
  for (size_t i = 0; i < rows.size(); ++i) ++cells[rows[i].bundle * width + code[i]];
  for (int64_t b = 0; b < num_conflicting; ++b) {
    const size_t first = counts.label_counts.size();
    for (size_t c = 0; c < width; ++c)
      if (cells[b * width + c]) counts.label_counts.push_back(cells[b * width + c]);
    std::sort(counts.label_counts.begin() + first, counts.label_counts.end());
    counts.starts.push_back(static_cast<int64_t>(counts.label_counts.size()));
  }
  return true;
}

template <class Label>
BundleCounts count_labels_by(const int64_t* ids, int64_t num_rows, int64_t num_bundles, int64_t num_nan_rows,
                             const Label& label) {
  BundleCounts counts;
  counts.num_bundles = num_bundles;
  counts.num_nan_rows = num_nan_rows;
  counts.starts.push_back(0);
  if (num_bundles == num_rows) return counts;
  constexpr int64_t pure = -1;
  std::vector<int64_t> first_label(num_bundles);
  std::vector<int64_t> conflict(num_bundles, pure);  // later: number of the conflicting bundle
  int64_t next = 0;
  for (int64_t i = 0; i < num_rows; ++i) {
    const int64_t b = ids[i], y = label(i);
    if (b == next) {
      first_label[next++] = y;
    } else if (first_label[b] != y) {
      conflict[b] = 0;
    }
  }
  for (int64_t b = 0; b < num_bundles; ++b)
    if (conflict[b] != pure) conflict[b] = counts.num_conflicting++;
  if (!counts.num_conflicting) return counts;
  for (int64_t i = 0; i < num_rows; ++i) counts.num_conflicting_rows += conflict[ids[i]] != pure;
  std::vector<Labelled> rows;
  rows.reserve(counts.num_conflicting_rows);
  for (int64_t i = 0; i < num_rows; ++i)
    if (conflict[ids[i]] != pure) rows.push_back({conflict[ids[i]], label(i)});
  if (!append_counts_of_few(rows, counts.num_conflicting, counts)) append_counts(rows, counts);
  return counts;
}

}  // namespace

BundleCounts count_labels(const int64_t* ids, int64_t num_rows, int64_t num_bundles, int64_t num_nan_rows,
                          const LabelsView& labels) {
  const LabelAt at = label_reader(labels.dtype);
  return count_labels_by(ids, num_rows, num_bundles, num_nan_rows, [&](int64_t i) { return at(labels, i); });
}

namespace cpu {
namespace {

Grouping group(const RowsView& view, const UpdateGrid& grid, const Tolerance* tolerance, bool check_nan,
               int num_threads, int64_t* ids) {
  last_work() = Work{};
  last_work().bytes_total = view.num_rows() * view.num_columns() * itemsize(view.dtype);
  if (tolerance) return group_near_rows(RowBlocks::as_float64(view), *tolerance, num_threads, ids);
  return group_rows(RowBlocks(view, grid, ColumnOrder::any), check_nan, num_threads, ids);
}

}  // namespace

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
  return count_labels(ids.get(), rows.num_rows(), grouping.num_bundles, grouping.num_nan_rows, labels);
}

BundleCounts count_fingerprints(const std::vector<FingerprintBlock>& blocks, int num_threads) {
  last_work() = Work{};
  int64_t n = 0;
  for (const FingerprintBlock& block : blocks) n += block.num_rows;
  if (n == 0) {
    BundleCounts none;
    none.starts.push_back(0);
    return none;
  }
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
  for (const FingerprintBlock& block : blocks)
    for (int64_t k = 0; k < block.num_rows; ++k) keys[i++] = fingerprint::mix(block.fingerprints[2 * k]) & routing_mask();
  group_keys(keys.data(), nullptr, n, ids.data(), num_threads, [&](int64_t p, int64_t q) {
    const uint64_t *a = fingerprint_at(p), *b = fingerprint_at(q);
    return a[0] == b[0] && a[1] == b[1];
  });
  int64_t num_bundles = 0;
  for (i = 0; i < n; ++i) ids[i] = ids[i] == i ? num_bundles++ : ids[ids[i]];
  return count_labels_by(ids.data(), n, num_bundles, 0, [&](int64_t row) {
    const size_t b = block_of(row);
    return blocks[b].labels[row - begins[b]];
  });
}

}  // namespace cpu
}  // namespace cbkernels
