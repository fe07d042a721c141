// Rows as sequences of blocks of at most 4 KiB, whatever the strides and the type: a pointer into the caller's memory
// where a block is contiguous and of a type the kernels read, else a converted copy of that one block in the caller's
// scratch space. This is the only file that knows strides.
#pragma once
#include <algorithm>
#include <vector>

#include "../contract.h"
#include "../routing_keys.h"
#include "../rows/columns.h"
#include "instruction_sets.h"

namespace cbkernels {

// Of a band's copy, and from one row of it to the next: 256 bytes of 512 rows stay in an L2 cache.
constexpr int64_t copied_band_bytes = 256;
constexpr int64_t copied_band_stride = copied_band_bytes + 64;

class RowBlocks {
 public:
  RowBlocks(const RowsView& rows, const UpdateGrid& grid, ColumnOrder order);
  // The values as they are, converted to float32 or float64, for distances.
  static RowBlocks as_float32(const RowsView& rows) { return converted(rows, Element::float32, Staged::float32); }
  static RowBlocks as_float64(const RowsView& rows) { return converted(rows, Element::float64, Staged::float64); }

  // Until now all blocks but a row's last have 4 KiB. From here on: where rows are not contiguous but long runs of them
  // are, blocks end with the run, so that none needs a copy; where bands are copied, blocks have copied_band_bytes.
  void cut_as_the_memory_is();

  int64_t num_rows() const { return num_rows_; }
  int64_t row_bytes() const { return row_bytes_; }  // of what the kernels read
  // Blocks of equal length but for the last of every span; a span is a row, or a contiguous run of one.
  int64_t num_blocks() const { return num_spans_ * blocks_of_a_span_; }
  int64_t block_begin(int64_t block) const {
    return block / blocks_of_a_span_ * span_bytes_ + block % blocks_of_a_span_ * block_size_;
  }
  int64_t block_length(int64_t block) const {
    return std::min(block_size_, span_bytes_ - block % blocks_of_a_span_ * block_size_);
  }
  bool is_direct() const { return direct_; }  // rows are contiguous memory: scratch is not used
  // Rows lie closer together than their own columns do (column-major, time-major, the axis of the rows in the middle):
  // memory is in order when a block of all rows, a band, comes before the next block.
  bool has_bands() const { return has_bands_; }
  bool copies_bands() const { return !spans_are_runs_; }
  bool can_hold_nan() const { return is_float(dtype_) && (element_ != Element::bits); }
  const std::byte* row(int64_t i) const { return data_ + i * row_stride_; }
  int64_t row_stride() const { return row_stride_; }
  const RowKernels& kernels() const { return *kernels_; }
  const UpdateGrid& grid() const { return grid_; }

  // The routing hash of a piece (row_kernels.h): under the keys of this process, or those given last.
  uint64_t route(const std::byte* piece, int64_t num_bytes, uint64_t key, bool* nan) const {
    return route(piece, num_bytes, piece, key, nan);
  }
  uint64_t route(const std::byte* piece, int64_t num_bytes, const std::byte* expected, uint64_t key, bool* nan) const {
    return kernels_->route(piece, num_bytes, expected, grid_, block_keys_->words, key, nan);
  }
  const uint32_t* block_keys() const { return block_keys_->words; }
  void route_by(const BlockKeys& keys) { block_keys_ = &keys; }

  // num_bytes of row i from byte `from` on; both multiples of the value's size. Scratch: num_bytes.
  const std::byte* piece(int64_t i, int64_t from, int64_t num_bytes, std::byte* scratch) const {
    if (direct_) return row(i) + from;
    stage(i, from, num_bytes, scratch);
    return scratch;
  }
  const std::byte* block(int64_t i, int64_t b, std::byte* scratch) const {
    if (spans_are_runs_) return row(i) + place_in_row(b);
    return piece(i, block_begin(b), block_length(b), scratch);
  }
  // Block b of `count` rows from `first` on, `stride` bytes apart: in place, or in scratch (copied_band_stride for
  // each). Only where has_bands().
  const std::byte* band(int64_t b, int64_t first, int64_t count, std::byte* scratch, int64_t& stride) const;
  // The piece of `count` rows from `first` on that piece() gives of one, copied_band_stride apart; num_bytes <= 256.
  void copy_band(int64_t from, int64_t num_bytes, int64_t first, int64_t count, std::byte* scratch) const;
  // Do the rows of a column lie side by side, as the kernels read them? A column is a value or run_bytes.
  bool has_contiguous_columns() const { return has_contiguous_columns_; }
  // Where block b of rows [first, first + count) differs from their leaders' (row_kernels.h): sets bits of found,
  // row_stride() bytes a row. Only where has_contiguous_columns().
  void compare_columns(int64_t b, int64_t first, int64_t count, const RowLeaders& leaders, std::byte* found) const;
  // Block b of several rows, at most most_rows_at_once(); scratch: scratch_block_bytes for each.
  void blocks(const int64_t* rows, int num_rows, int64_t b, std::byte* scratch, const std::byte** out) const;
  // How many rows to read together: eight streams, which a core prefetches well (4 and 16 are 5 to 25 % slower), but
  // four long ones (8 are 8 to 18 % slower); or all values of the cache lines that the rows share.
  int most_rows_at_once() const {
    if (!direct_ && !spans_are_runs_) return max_rows_at_once;
    return row_bytes_ < (256 << 10) ? 8 : 4;
  }

 private:
  RowBlocks() = default;
  static RowBlocks converted(const RowsView& rows, Element element, Staged staged);
  void lay_out(const RowsView& rows, ColumnOrder order);
  void choose(Element element, Staged staged);
  void stage(int64_t i, int64_t from, int64_t num_bytes, std::byte* scratch) const;
  int64_t run_place(int64_t run) const;  // bytes from the begin of a row to its run of this number
  int64_t place_in_row(int64_t b) const {  // of a block, where spans are runs
    return run_place(b / blocks_of_a_span_) + b % blocks_of_a_span_ * block_size_;
  }
  // use(place in row, values, bytes before in the piece) for the runs that a piece is made of.
  template <class Use>
  void for_each_run(int64_t from, int64_t num_bytes, const Use& use) const;

  const std::byte* data_ = nullptr;
  DType dtype_ = DType::float32;
  UpdateGrid grid_;
  Element element_ = Element::bits;
  const RowKernels* kernels_ = nullptr;
  const BlockKeys* block_keys_ = &block_keys_of_routing();  // of one call: equal rows must get equal hashes
  Stagers stagers_{};
  int64_t staged_itemsize_ = 1;
  int64_t num_rows_ = 0, row_bytes_ = 0, row_stride_ = 0;
  bool reads_as_is_ = true;  // the kernels read values of this type
  bool direct_ = true;
  bool has_bands_ = false, spans_are_runs_ = false, has_contiguous_columns_ = false;
  int64_t num_spans_ = 0, span_bytes_ = 0, blocks_of_a_span_ = 1, block_size_ = block_bytes;
  std::vector<Axis> axes_;  // of one row, outermost first, merged; at least one
};

}  // namespace cbkernels
