// From the caller's views to what kernels read.
#include "row_layout.h"

#include <stdexcept>
#include <string>

#include "elements.h"
#include "layer_work.h"

namespace cbkernels::cuda {
namespace {

void require_aligned(const RowLayout& rows) {
  int64_t worst = reinterpret_cast<std::intptr_t>(rows.data) | rows.row_stride;
  for (int axis = 0; axis < rows.num_axes; ++axis) worst |= rows.stride[axis];
  if (worst % rows.itemsize != 0)
    throw std::invalid_argument("acts begins at address " +
                                std::to_string(reinterpret_cast<std::uintptr_t>(rows.data)) +
                                " or has strides that its values of " + std::to_string(rows.itemsize) +
                                " bytes are not aligned to; a GPU cannot read them, copy the array first");
}

}  // namespace

RowLayout lay_out(const RowsView& view, ColumnOrder order) {
  RowLayout rows;
  if (view.num_rows() > most_rows)
    throw std::invalid_argument("acts has " + std::to_string(view.num_rows()) +
                                " rows; one call on a GPU takes at most " + std::to_string(most_rows) +
                                ", use BundleEntropy for more");
  const Columns columns = columns_of(view, order);
  const std::vector<Axis>& axes = columns.axes;
  rows.data = columns.first;
  rows.row_stride = view.stride_bytes[0];
  rows.num_rows = static_cast<int32_t>(view.num_rows());
  rows.itemsize = itemsize(view.dtype);
  rows.dtype = view.dtype;
  rows.num_columns = columns.count;
  rows.is_contiguous = columns.are_contiguous;
  if (!rows.is_contiguous) {
    if (axes.size() > most_axes)
      throw std::invalid_argument("acts has " + std::to_string(axes.size()) +
                                  " axes that are not contiguous; a GPU reads at most " + std::to_string(most_axes) +
                                  ", copy it first, for example with .contiguous()");
    rows.num_axes = static_cast<int32_t>(axes.size());
    for (size_t a = 0; a < axes.size(); ++a) {
      rows.extent[a] = axes[a].extent;
      rows.stride[a] = axes[a].stride;
    }
  }
  require_aligned(rows);
  const int64_t bits = reinterpret_cast<std::intptr_t>(rows.data) | rows.row_stride | rows.num_columns * rows.itemsize;
  rows.is_in_words = rows.is_contiguous && bits % 4 == 0;
  rows.is_in_chunks = rows.is_contiguous && bits % chunk_bytes == 0;
  return rows;
}

namespace {

Element element_of(DType dtype) {
  switch (dtype) {
    case DType::float64: return Element::float64;
    case DType::float32: return Element::float32;
    case DType::float16:
    case DType::bfloat16: return Element::packed16;
    case DType::float8_e4m3fn:
    case DType::float8_e5m2: return Element::packed8;
    default: return Element::bits;
  }
}

Element element_on_grid(DType dtype, GridKind grid) {
  if (grid == GridKind::float64) return Element::any;
  switch (dtype) {
    case DType::float32: return grid == GridKind::float32 ? Element::grid32 : Element::grid32_rounded;
    case DType::float16:
    case DType::bfloat16: return grid == GridKind::float32 ? Element::grid16 : Element::grid16_rounded;
    default: return Element::any;
  }
}

uint32_t beyond_largest(DType dtype) {  // taken from all ones, in every value of a word
  if (!is_float(dtype) || itemsize(dtype) > 2) return 0;
  return itemsize(dtype) == 2 ? 0x00010001u * (0x7fffu - largest_magnitude(dtype))
                              : 0x01010101u * (0x7fu - largest_magnitude(dtype));
}

}  // namespace

Elements elements_of(const RowsView& view, const UpdateGrid& grid, ColumnOrder order) {
  Elements e;
  e.rows = lay_out(view, order);
  const int64_t columns = e.rows.num_columns;
  e.may_hold_nan = is_float(view.dtype);
  e.beyond_largest = beyond_largest(view.dtype);
  e.grid = grid.kind;
  e.words_in_memory = columns * e.rows.itemsize / 4;
  if (grid.kind == GridKind::none) {
    e.element = element_of(view.dtype);
    e.num_words = (columns * e.rows.itemsize + 3) / 4;
    e.num_chunks = (columns * e.rows.itemsize + chunk_bytes - 1) / chunk_bytes;
    e.plain = e.element;
    if (!e.rows.is_in_words) e.element = Element::any;
    return e;
  }
  e.w = static_cast<float>(e.w64 = grid.weight_amplitude);
  e.lr = static_cast<float>(e.lr64 = grid.learning_rate);
  e.inverse = static_cast<float>(e.inverse64 = grid.inverse_batch_size);
  const bool is_in_reach = view.dtype == DType::float32 ? e.rows.is_in_words : e.rows.is_in_chunks;
  e.element = is_in_reach ? element_on_grid(view.dtype, grid.kind) : Element::any;
  e.num_words = columns * (grid.kind == GridKind::float64 ? 2 : 1);
  const bool is_widened = e.element == Element::grid16 || e.element == Element::grid16_rounded;
  const int words_per_chunk = is_widened ? 8 : 4;
  e.num_chunks = (e.num_words + words_per_chunk - 1) / words_per_chunk;
  return e;
}

}  // namespace cbkernels::cuda
