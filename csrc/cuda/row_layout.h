// Where the values of a row are: filled on the host from a RowsView, read by kernels. Rows are read in chunks, 16 bytes
// of values in the order of the columns: in one load where the memory allows it, else in words of 4 bytes
// (row_kernels_loops.h), else value by value (elements.h).
#pragma once
#include "../rows/columns.h"
#include "../rows/values.h"
#include "device.h"

namespace cbkernels::cuda {

constexpr int chunk_bytes = 16;
constexpr int most_axes = 8;

struct RowLayout {
  const std::byte* data = nullptr;
  int64_t row_stride = 0;  // bytes
  int64_t num_columns = 0;
  int32_t num_rows = 0;
  int32_t itemsize = 1;
  DType dtype = DType::float32;
  bool is_contiguous = true;  // the values of one row
  bool is_in_words = true;  // and they begin and end at multiples of 4 bytes
  bool is_in_chunks = true;  // of 16 bytes
  int32_t num_axes = 0;  // of a row that is not contiguous, outermost first
  int64_t extent[most_axes] = {};
  int64_t stride[most_axes] = {};  // bytes
};

// Throws std::invalid_argument for what kernels cannot read.
RowLayout lay_out(const RowsView& rows, ColumnOrder order);

CBKERNELS_DEVICE const std::byte* row_start(const RowLayout& rows, int64_t row) {
  return rows.data + row * rows.row_stride;
}

CBKERNELS_DEVICE const std::byte* value_address(const RowLayout& rows, int64_t row, int64_t column) {
  const std::byte* at = row_start(rows, row);
  if (rows.is_contiguous) return at + column * rows.itemsize;
  if (rows.num_columns <= 0xffffffffll) {  // 32-bit divisions are several times faster
    uint32_t rest = static_cast<uint32_t>(column);
    for (int axis = rows.num_axes - 1; axis > 0; --axis) {
      const uint32_t extent = static_cast<uint32_t>(rows.extent[axis]);
      at += static_cast<int64_t>(rest % extent) * rows.stride[axis];
      rest /= extent;
    }
    return at + static_cast<int64_t>(rest) * rows.stride[0];
  }
  for (int axis = rows.num_axes - 1; axis > 0; --axis) {
    at += column % rows.extent[axis] * rows.stride[axis];
    column /= rows.extent[axis];
  }
  return at + column * rows.stride[0];
}

CBKERNELS_DEVICE uint64_t value_bits(const RowLayout& rows, int64_t row, int64_t column) {
  return bits_at(value_address(rows, row, column), rows.itemsize);
}

}  // namespace cbkernels::cuda
