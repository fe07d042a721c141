#include "row_blocks.h"

#include <algorithm>
#include <cstdlib>

namespace cbkernels {
namespace {

Element element_of(DType dtype) {
  switch (dtype) {
    case DType::float64: return Element::float64;
    case DType::float32: return Element::float32;
    case DType::float16: return Element::float16;
    case DType::bfloat16: return Element::bfloat16;
    case DType::float8_e4m3fn: return Element::float8_e4m3fn;
    case DType::float8_e5m2: return Element::float8_e5m2;
    default: return Element::bits;
  }
}

Element element_of(GridKind kind) {
  switch (kind) {
    case GridKind::float64: return Element::grid_float64;
    case GridKind::float16: return Element::grid_float16;
    case GridKind::bfloat16: return Element::grid_bfloat16;
    default: return Element::grid_float32;
  }
}

}  // namespace

RowBlocks::RowBlocks(const RowsView& rows, const UpdateGrid& grid, ColumnOrder order) : grid_(grid) {
  dtype_ = rows.dtype;
  if (grid.kind == GridKind::none)
    choose(element_of(rows.dtype), Staged::bits);
  else
    choose(element_of(grid.kind), grid.kind == GridKind::float64 ? Staged::float64 : Staged::float32);
  lay_out(rows, order);
}

RowBlocks RowBlocks::converted(const RowsView& rows, Element element, Staged staged) {
  RowBlocks blocks;
  blocks.dtype_ = rows.dtype;
  blocks.choose(element, staged);
  blocks.lay_out(rows, ColumnOrder::any);
  return blocks;
}

void RowBlocks::choose(Element element, Staged staged) {
  const InstructionSet& set = instruction_set_in_use();
  element_ = element;
  kernels_ = &set.row_kernels(element);
  stagers_ = set.stagers(dtype_, staged);
  staged_itemsize_ = staged == Staged::bits ? itemsize(dtype_) : staged == Staged::float32 ? 4 : 8;
  const DType wanted = staged == Staged::float32 ? DType::float32 : DType::float64;
  direct_ = staged == Staged::bits || dtype_ == wanted;  // lay_out still has a word in it
}

void RowBlocks::lay_out(const RowsView& rows, ColumnOrder order) {
  data_ = rows.data;
  num_rows_ = rows.num_rows();
  row_stride_ = rows.stride_bytes[0];
  const int64_t item = itemsize(dtype_);
  int64_t columns = rows.num_columns();
  std::vector<Axis> axes;
  for (size_t a = 1; a < rows.shape.size() && columns > 0; ++a) {
    Axis axis{rows.shape[a], rows.stride_bytes[a]};
    if (axis.extent == 1) continue;
    if (order == ColumnOrder::any) {
      if (axis.stride == 0) {  // the same column again
        columns /= axis.extent;
        continue;
      }
      if (axis.stride < 0) {  // backwards is as good as forwards
        data_ += (axis.extent - 1) * axis.stride;
        axis.stride = -axis.stride;
      }
    }
    axes.push_back(axis);
  }
  if (order == ColumnOrder::any)
    std::stable_sort(axes.begin(), axes.end(), [](const Axis& a, const Axis& b) { return a.stride > b.stride; });
  for (const Axis& axis : axes) {
    if (!axes_.empty() && axes_.back().stride == axis.extent * axis.stride)
      axes_.back() = {axes_.back().extent * axis.extent, axis.stride};
    else
      axes_.push_back(axis);
  }
  if (axes_.empty()) axes_.push_back({columns > 0 ? 1 : 0, item});
  direct_ = direct_ && axes_.size() == 1 && (axes_[0].stride == item || columns <= 1);
  row_bytes_ = columns * staged_itemsize_;
}

void RowBlocks::blocks(const int64_t* rows, int num_rows, int64_t b, std::byte* scratch, const std::byte** out) const {
  if (direct_) {
    for (int r = 0; r < num_rows; ++r) out[r] = row(rows[r]) + b * block_bytes;
    return;
  }
  std::byte* to[max_rows_at_once];
  for (int r = 0; r < num_rows; ++r) out[r] = to[r] = scratch + r * scratch_block_bytes;
  const bool side_by_side = axes_.size() == 1 && std::abs(row_stride_) < axes_[0].stride;
  if (!side_by_side) {
    for (int r = 0; r < num_rows; ++r) stage(rows[r], b * block_bytes, block_length(b), to[r]);
    return;
  }
  const std::byte* from[max_rows_at_once];
  const int64_t first = b * block_bytes / staged_itemsize_;
  for (int r = 0; r < num_rows; ++r) from[r] = row(rows[r]) + first * axes_[0].stride;
  stagers_.tile(from, num_rows, axes_[0].stride, block_length(b) / staged_itemsize_, to);
}

void RowBlocks::stage(int64_t i, int64_t from, int64_t num_bytes, std::byte* scratch) const {
  const int64_t first = from / staged_itemsize_;
  int64_t left = num_bytes / staged_itemsize_;
  const Axis inner = axes_.back();
  int64_t outer = first / inner.extent, at = first % inner.extent;
  while (left > 0) {
    const std::byte* run = row(i);
    int64_t index = outer;
    for (size_t a = axes_.size() - 1; a-- > 0;) {
      run += (index % axes_[a].extent) * axes_[a].stride;
      index /= axes_[a].extent;
    }
    const int64_t count = std::min(left, inner.extent - at);
    stagers_.run(run + at * inner.stride, inner.stride, count, scratch);
    scratch += count * staged_itemsize_;
    left -= count;
    at = 0;
    ++outer;
  }
}

}  // namespace cbkernels
