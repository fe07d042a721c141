// Where the values of one row lie, whatever the shape and the strides of its array: once for both processors.
#pragma once
#include <algorithm>
#include <vector>

#include "../views.h"

namespace cbkernels {

enum class ColumnOrder {
  any,      // for comparing: axes sorted by stride, repeated columns (stride 0) left out
  logical,  // for fingerprints: the order the caller sees
};

struct Axis { int64_t extent, stride; };  // bytes

struct Columns {
  const std::byte* first;  // of row 0
  int64_t count;
  std::vector<Axis> axes;  // outermost first, merged; none of extent 1
  bool are_contiguous;
};

inline Columns columns_of(const RowsView& rows, ColumnOrder order) {
  Columns columns{rows.data, rows.num_columns(), {}, true};
  std::vector<Axis> axes;
  for (size_t a = 1; a < rows.shape.size() && columns.count > 0; ++a) {
    Axis axis{rows.shape[a], rows.stride_bytes[a]};
    if (axis.extent == 1) continue;
    if (order == ColumnOrder::any) {
      if (axis.stride == 0) {  // the same column again
        columns.count /= axis.extent;
        continue;
      }
      if (axis.stride < 0) {  // backwards is as good as forwards
        columns.first += (axis.extent - 1) * axis.stride;
        axis.stride = -axis.stride;
      }
    }
    axes.push_back(axis);
  }
  if (order == ColumnOrder::any)
    std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.stride > b.stride; });
  for (const Axis& axis : axes) {
    if (!columns.axes.empty() && columns.axes.back().stride == axis.extent * axis.stride)
      columns.axes.back() = {columns.axes.back().extent * axis.extent, axis.stride};
    else
      columns.axes.push_back(axis);
  }
  if (!columns.axes.empty())
    columns.are_contiguous = columns.axes.size() == 1 && columns.axes[0].stride == itemsize(rows.dtype);
  return columns;
}

}  // namespace cbkernels
