// From bundle ids and labels to integers: sizes and label counts of the conflicting bundles.
#pragma once
#include "../contract.h"

namespace cbkernels {

// `ids` in [0, num_bundles), counting upward from first rows. num_nan_rows is passed through.
BundleCounts count_labels(const int64_t* ids, int64_t num_rows, int64_t num_bundles, int64_t num_nan_rows,
                          const LabelsView& labels);

}  // namespace cbkernels
