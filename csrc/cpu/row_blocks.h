// Rows as sequences of blocks of 4 KiB, whatever the strides and the type: a pointer into the caller's memory where
// a row is contiguous and of a type the kernels read, else a converted copy of that one block in the caller's scratch
// space. This is the only file that knows strides.
#pragma once
#include <vector>

#include "../contract.h"
#include "../routing_keys.h"
#include "instruction_sets.h"

namespace cbkernels {

enum class ColumnOrder {
  any,      // for comparing: axes sorted by stride, repeated columns (stride 0) left out
  logical,  // for fingerprints: the order the caller sees
};

class RowBlocks {
 public:
  RowBlocks(const RowsView& rows, const UpdateGrid& grid, ColumnOrder order);
  // The values as they are, converted to float32 or float64, for distances.
  static RowBlocks as_float32(const RowsView& rows) { return converted(rows, Element::float32, Staged::float32); }
  static RowBlocks as_float64(const RowsView& rows) { return converted(rows, Element::float64, Staged::float64); }

  int64_t num_rows() const { return num_rows_; }
  int64_t row_bytes() const { return row_bytes_; }  // of what the kernels read
  int64_t num_blocks() const { return (row_bytes_ + block_bytes - 1) / block_bytes; }
  int64_t block_length(int64_t block) const {
    return block + 1 < num_blocks() ? block_bytes : row_bytes_ - block * block_bytes;
  }
  bool is_direct() const { return direct_; }  // rows are contiguous memory: scratch is not used
  bool can_hold_nan() const { return is_float(dtype_) && (element_ != Element::bits); }
  const std::byte* row(int64_t i) const { return data_ + i * row_stride_; }
  int64_t row_stride() const { return row_stride_; }
  const RowKernels& kernels() const { return *kernels_; }
  const UpdateGrid& grid() const { return grid_; }

  // The routing hash of a piece (row_kernels.h): under the keys of this process, or those given last.
  uint64_t route(const std::byte* piece, int64_t num_bytes, uint64_t key, bool* nan) const {
    return kernels_->route(piece, num_bytes, grid_, block_keys_->words, key, nan);
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
    return piece(i, b * block_bytes, block_length(b), scratch);
  }
  // Block b of several rows, at most most_rows_at_once(); scratch: scratch_block_bytes for each.
  void blocks(const int64_t* rows, int num_rows, int64_t b, std::byte* scratch, const std::byte** out) const;
  // How many rows to read together: eight streams, which a core prefetches well (4 and 16 are 5 to 25 % slower); or
  // all values of the cache lines that the rows share.
  int most_rows_at_once() const { return direct_ ? 8 : max_rows_at_once; }

 private:
  struct Axis { int64_t extent, stride; };
  RowBlocks() = default;
  static RowBlocks converted(const RowsView& rows, Element element, Staged staged);
  void lay_out(const RowsView& rows, ColumnOrder order);
  void choose(Element element, Staged staged);
  void stage(int64_t i, int64_t from, int64_t num_bytes, std::byte* scratch) const;

  const std::byte* data_ = nullptr;
  DType dtype_ = DType::float32;
  UpdateGrid grid_;
  Element element_ = Element::bits;
  const RowKernels* kernels_ = nullptr;
  const BlockKeys* block_keys_ = &block_keys_of_routing();  // of one call: equal rows must get equal hashes
  Stagers stagers_{};
  int64_t staged_itemsize_ = 1;
  int64_t num_rows_ = 0, row_bytes_ = 0, row_stride_ = 0;
  bool direct_ = true;
  std::vector<Axis> axes_;  // of one row, outermost first, merged; at least one
};

}  // namespace cbkernels
