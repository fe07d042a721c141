// Raw views of the caller's memory: pointer, shape, byte strides, type. They own nothing and copy nothing.
// Filled at the door (module.cpp) from arguments that cbkernels/arrays.py has checked; shared by cpu and cuda.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

namespace cbkernels {

// The order is that of DTYPES in cbkernels/arrays.py (tested).
enum class DType : int {
  float64,
  float32,
  float16,
  bfloat16,
  float8_e4m3fn,
  float8_e5m2,
  int64,
  int32,
  int16,
  int8,
  uint64,
  uint32,
  uint16,
  uint8,
  boolean,
};
constexpr int num_dtypes = 15;

constexpr int itemsize(DType t) {
  switch (t) {
    case DType::float64:
    case DType::int64:
    case DType::uint64: return 8;
    case DType::float32:
    case DType::int32:
    case DType::uint32: return 4;
    case DType::float16:
    case DType::bfloat16:
    case DType::int16:
    case DType::uint16: return 2;
    default: return 1;
  }
}
constexpr bool is_float(DType t) { return static_cast<int>(t) <= static_cast<int>(DType::float8_e5m2); }

struct RowsView {  // activations of one layer, (N, ...)
  const std::byte* data;
  DType dtype;
  std::vector<int64_t> shape;
  std::vector<int64_t> stride_bytes;  // same length as shape; any sign, zero included
  int64_t num_rows() const { return shape[0]; }
  int64_t num_columns() const {
    int64_t columns = 1;
    for (size_t axis = 1; axis < shape.size(); ++axis) columns *= shape[axis];
    return columns;
  }
};

struct LabelsView {  // (N,) integers of any type
  const std::byte* data = nullptr;  // null: nobody asks for counts
  int itemsize = 0;
  int64_t stride_bytes = 0;
};

}  // namespace cbkernels
