#include "row_blocks.h"

#include <algorithm>
#include <cstdlib>

namespace cbkernels {
RowBlocks::RowBlocks(const RowsView& rows, const UpdateGrid& grid, ColumnOrder order) : grid_(grid) {
  dtype_ = rows.dtype;
  if (grid.kind == GridKind::none)
    choose(is_float(rows.dtype) ? static_cast<Element>(rows.dtype) : Element::bits, Staged::bits);
  else
    choose(static_cast<Element>(static_cast<int>(Element::bits) + static_cast<int>(grid.kind)),
           grid.kind == GridKind::float64 ? Staged::float64 : Staged::float32);
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
  reads_as_is_ = staged == Staged::bits || dtype_ == wanted;
}

void RowBlocks::lay_out(const RowsView& rows, ColumnOrder order) {
  Columns columns = columns_of(rows, order);
  data_ = columns.first;
  num_rows_ = rows.num_rows();
  row_stride_ = rows.stride_bytes[0];
  direct_ = reads_as_is_ && columns.are_contiguous;
  row_bytes_ = columns.count * staged_itemsize_;
  axes_ = std::move(columns.axes);
  if (axes_.empty()) axes_.push_back({columns.count > 0 ? 1 : 0, itemsize(dtype_)});
  num_spans_ = row_bytes_ > 0;
  span_bytes_ = row_bytes_;
  blocks_of_a_span_ = std::max<int64_t>(1, (row_bytes_ + block_bytes - 1) / block_bytes);
}

void RowBlocks::cut_as_the_memory_is() {
  constexpr int64_t shortest_run = 64;  // that is worth a block
  if (direct_ || row_bytes_ == 0) return;
  const Axis inner = axes_.back();
  has_bands_ = num_rows_ > 1 && row_stride_ != 0 && axes_.front().stride > std::abs(row_stride_);
  spans_are_runs_ = reads_as_is_ && inner.stride == itemsize(dtype_) && inner.extent * inner.stride >= shortest_run;
  if (spans_are_runs_) {
    span_bytes_ = inner.extent * inner.stride;
    num_spans_ = row_bytes_ / span_bytes_;
    has_bands_ &= span_bytes_ <= block_bytes;  // longer runs are streams of their own
  } else if (has_bands_) {
    block_size_ = copied_band_bytes;
    const bool is_run = inner.stride == itemsize(dtype_) && inner.extent * inner.stride == run_bytes;
    has_contiguous_columns_ = reads_as_is_ && (row_stride_ == itemsize(dtype_) || (is_run && row_stride_ == run_bytes));
  }
  blocks_of_a_span_ = (span_bytes_ + block_size_ - 1) / block_size_;
}

void RowBlocks::blocks(const int64_t* rows, int num_rows, int64_t b, std::byte* scratch, const std::byte** out) const {
  if (direct_ || spans_are_runs_) {
    const int64_t place = direct_ ? b * block_bytes : place_in_row(b);
    for (int r = 0; r < num_rows; ++r) out[r] = row(rows[r]) + place;
    return;
  }
  std::byte* to[max_rows_at_once];
  for (int r = 0; r < num_rows; ++r) out[r] = to[r] = scratch + r * scratch_block_bytes;
  const bool side_by_side = axes_.size() == 1 && std::abs(row_stride_) < axes_[0].stride;
  if (!side_by_side) {
    for (int r = 0; r < num_rows; ++r) stage(rows[r], block_begin(b), block_length(b), to[r]);
    return;
  }
  const std::byte* from[max_rows_at_once];
  const int64_t first = block_begin(b) / staged_itemsize_;
  for (int r = 0; r < num_rows; ++r) from[r] = row(rows[r]) + first * axes_[0].stride;
  stagers_.tile(from, num_rows, axes_[0].stride, block_length(b) / staged_itemsize_, to);
}

const std::byte* RowBlocks::band(int64_t b, int64_t first, int64_t count, std::byte* scratch, int64_t& stride) const {
  if (spans_are_runs_) {
    stride = row_stride_;
    return row(first) + place_in_row(b);
  }
  stride = copied_band_stride;
  copy_band(block_begin(b), block_length(b), first, count, scratch);
  return scratch;
}

void RowBlocks::copy_band(int64_t from, int64_t num_bytes, int64_t first, int64_t count, std::byte* scratch) const {
  for_each_run(from, num_bytes, [&](int64_t place, int64_t values, int64_t at) {
    stagers_.band(row(first) + place, row_stride_, count, axes_.back().stride, values, scratch + at,
                  copied_band_stride);
  });
}

void RowBlocks::compare_columns(int64_t b, int64_t first, int64_t count, const RowLeaders& leaders,
                                std::byte* found) const {
  const auto compare = [&](int64_t place, int64_t num_columns, int64_t stride) {
    kernels_->compare_columns(row(0) + place, stride, num_columns, leaders, first, count, row_stride_, grid_, found);
  };
  if (row_stride_ == itemsize(dtype_))
    return for_each_run(block_begin(b), block_length(b),
                        [&](int64_t place, int64_t values, int64_t) { compare(place, values, axes_.back().stride); });
  const Axis columns = axes_[axes_.size() - 2];
  int64_t run = block_begin(b) / row_stride_;
  for (int64_t left = block_length(b) / row_stride_; left > 0;) {
    const int64_t together = std::min(left, columns.extent - run % columns.extent);
    compare(run_place(run), together, columns.stride);
    run += together;
    left -= together;
  }
}

void RowBlocks::stage(int64_t i, int64_t from, int64_t num_bytes, std::byte* scratch) const {
  for_each_run(from, num_bytes, [&](int64_t place, int64_t values, int64_t at) {
    stagers_.run(row(i) + place, axes_.back().stride, values, scratch + at);
  });
}

int64_t RowBlocks::run_place(int64_t run) const {
  int64_t place = 0;
  for (size_t a = axes_.size() - 1; a-- > 0;) {
    place += (run % axes_[a].extent) * axes_[a].stride;
    run /= axes_[a].extent;
  }
  return place;
}

template <class Use>
void RowBlocks::for_each_run(int64_t from, int64_t num_bytes, const Use& use) const {
  const Axis inner = axes_.back();
  const int64_t first = from / staged_itemsize_;
  int64_t run = first / inner.extent, in_run = first % inner.extent;
  for (int64_t at = 0; at < num_bytes; ++run, in_run = 0) {
    const int64_t values = std::min((num_bytes - at) / staged_itemsize_, inner.extent - in_run);
    use(run_place(run) + in_run * inner.stride, values, at);
    at += values * staged_itemsize_;
  }
}

}  // namespace cbkernels
