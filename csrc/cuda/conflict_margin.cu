// Smallest L-infinity distance of two rows with different labels. Tiles of 64 x 64 pairs; a pair is given up when it
// can no longer be the best, a tile when all of its pairs are. The best is shared by all blocks and starts from
// neighbours.
#include <cmath>
#include <cstring>
#include <limits>

#include "elements.h"
#include "labels.h"
#include "runtime.h"

namespace cbkernels::cuda {
namespace {

// Distances as unsigned integers that are ordered like them: of floats and short integers the pattern of an exact or
// once rounded double, of 64-bit integers the exact difference.
struct Doubles {
  using Value = double;
  CBKERNELS_DEVICE static Value read(const RowLayout& rows, int64_t row, int64_t column) {
    return value_at<double>(rows, row, column);
  }
  CBKERNELS_DEVICE static uint64_t distance(Value a, Value b) {
    const double difference = a < b ? b - a : a - b;
    return a == b ? 0 : static_cast<uint64_t>(__double_as_longlong(difference));  // equal infinities are 0 apart
  }
};
template <class Integer>
struct Integers {
  using Value = Integer;
  CBKERNELS_DEVICE static Value read(const RowLayout& rows, int64_t row, int64_t column) {
    return static_cast<Integer>(value_bits(rows, row, column));
  }
  CBKERNELS_DEVICE static uint64_t distance(Value a, Value b) {
    return a > b ? static_cast<uint64_t>(a) - static_cast<uint64_t>(b)
                 : static_cast<uint64_t>(b) - static_cast<uint64_t>(a);
  }
};

struct Best {
  unsigned long long distance;  // starts at all ones, above every pattern of a distance
  uint32_t has_pair;
};

struct Problem {
  RowLayout rows;
  Labels labels;
  uint8_t* is_left_out;  // rows that hold a NaN
  Best* best;
};

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block) leave_out_nan_kernel(const __grid_constant__ Problem p) {
  for (int64_t row = warp_of_grid(); row < p.rows.num_rows; row += warps_of_grid()) {
    bool found = false;
    for (int64_t column = lane_index(); column < p.rows.num_columns; column += warp_size) {
      const typename Kind::Value value = Kind::read(p.rows, row, column);
      found |= value != value;
    }
    found = __any_sync(whole_warp, found);
    if (lane_index() == 0) p.is_left_out[row] = found;
  }
}

CBKERNELS_DEVICE bool is_pair(const Problem& p, int64_t i, int64_t j) {
  return i < j && j < p.rows.num_rows && !p.is_left_out[i] && !p.is_left_out[j] &&
         label_at(p.labels, i) != label_at(p.labels, j);
}

// Every row against the next one with another label.
template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block) try_neighbours_kernel(const __grid_constant__ Problem p) {
  for (int64_t row = warp_of_grid(); row < p.rows.num_rows; row += warps_of_grid()) {
    const unsigned others = __ballot_sync(whole_warp, is_pair(p, row, row + 1 + lane_index()));
    if (others == 0) continue;
    const int64_t other = row + __ffs(others);
    uint64_t worst = 0;
    for (int64_t column = lane_index(); column < p.rows.num_columns; column += warp_size) {
      const uint64_t distance = Kind::distance(Kind::read(p.rows, row, column), Kind::read(p.rows, other, column));
      worst = distance > worst ? distance : worst;
    }
    for (int step = warp_size / 2; step > 0; step /= 2) {
      const uint64_t theirs = __shfl_xor_sync(whole_warp, worst, step);
      worst = theirs > worst ? theirs : worst;
    }
    if (lane_index() == 0) atomicMin(&p.best->distance, static_cast<unsigned long long>(worst));
  }
}

constexpr int tile_rows = 64, tile_columns = 16, pairs_a_side = 4, threads_a_side = tile_rows / pairs_a_side;
static_assert(threads_a_side * threads_a_side == threads_of_a_block);

template <class Value>
struct Tile {
  Value left[tile_columns][tile_rows + 1], right[tile_columns][tile_rows + 1];
};

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block, 2) try_all_pairs_kernel(const __grid_constant__ Problem p) {
  using Value = typename Kind::Value;
  CBKERNELS_DYNAMIC_SHARED(shared);
  Tile<Value>& tile = *reinterpret_cast<Tile<Value>*>(shared);
  const int64_t num_rows = p.rows.num_rows, tiles_a_side = (num_rows + tile_rows - 1) / tile_rows;
  const int left = threadIdx.x / threads_a_side, right = threadIdx.x % threads_a_side;
  for (int64_t t = blockIdx.x; t < tiles_a_side * tiles_a_side; t += gridDim.x) {
    const int64_t first_left = t / tiles_a_side * tile_rows, first_right = t % tiles_a_side * tile_rows;
    if (first_left > first_right) continue;
    unsigned is_open = 0;  // bit 4 i + j: the pair (i, j) of this thread may still be the best
    uint64_t worst[pairs_a_side][pairs_a_side] = {};
#pragma unroll
    for (int i = 0; i < pairs_a_side; ++i)
#pragma unroll
      for (int j = 0; j < pairs_a_side; ++j)
        if (is_pair(p, first_left + left + i * threads_a_side, first_right + right + j * threads_a_side))
          is_open |= 1u << (pairs_a_side * i + j);
    if (is_open != 0) p.best->has_pair = 1;
    for (int64_t first = 0; first < p.rows.num_columns; first += tile_columns) {
      if (!__syncthreads_or(is_open != 0)) break;
      for (int v = threadIdx.x; v < tile_rows * tile_columns; v += blockDim.x) {
        const int row = v / tile_columns, column = v % tile_columns;
        const bool exists = first + column < p.rows.num_columns;
        const int64_t last = num_rows - 1, a = first_left + row, b = first_right + row;
        tile.left[column][row] = exists ? Kind::read(p.rows, a < last ? a : last, first + column) : Value{};
        tile.right[column][row] = exists ? Kind::read(p.rows, b < last ? b : last, first + column) : Value{};
      }
      __syncthreads();
#pragma unroll 2
      for (int column = 0; column < tile_columns; ++column) {
        Value a[pairs_a_side], b[pairs_a_side];
#pragma unroll
        for (int i = 0; i < pairs_a_side; ++i) {
          a[i] = tile.left[column][left + i * threads_a_side];
          b[i] = tile.right[column][right + i * threads_a_side];
        }
#pragma unroll
        for (int i = 0; i < pairs_a_side; ++i)
#pragma unroll
          for (int j = 0; j < pairs_a_side; ++j) {
            const uint64_t distance = Kind::distance(a[i], b[j]);
            worst[i][j] = distance > worst[i][j] ? distance : worst[i][j];
          }
      }
      const uint64_t best = read_now(&p.best->distance);
#pragma unroll
      for (int i = 0; i < pairs_a_side; ++i)
#pragma unroll
        for (int j = 0; j < pairs_a_side; ++j)
          if (worst[i][j] >= best) is_open &= ~(1u << (pairs_a_side * i + j));
    }
#pragma unroll
    for (int i = 0; i < pairs_a_side; ++i)
#pragma unroll
      for (int j = 0; j < pairs_a_side; ++j)
        if (is_open >> (pairs_a_side * i + j) & 1u)
          atomicMin(&p.best->distance, static_cast<unsigned long long>(worst[i][j]));
  }
}

__global__ void __launch_bounds__(threads_of_a_block) begin_kernel(Best* best) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *best = {~0ull, 0};
}

template <class Kind>
Best search(const RowLayout& rows, const LabelsView& labels, bool may_hold_nan, const Stream& stream) {
  const int64_t num_rows = rows.num_rows;
  Workspace workspace(stream);
  const size_t best = workspace.reserve<Best>(1), left_out = workspace.reserve<uint8_t>(num_rows);
  workspace.allocate();
  Problem p{rows, labels_of(labels), workspace.at<uint8_t>(left_out), workspace.at<Best>(best)};
  fill_with_zeros(p.is_left_out, static_cast<size_t>(num_rows), stream);
  launch(begin_kernel, {1, warp_size}, 0, stream, false, p.best);
  const auto shape = [&](auto kernel) {
    return shape_for(reinterpret_cast<const void*>(kernel), threads_of_a_block, 0, num_rows, stream);
  };
  if (may_hold_nan) launch(leave_out_nan_kernel<Kind>, shape(leave_out_nan_kernel<Kind>), 0, stream, false, p);
  launch(try_neighbours_kernel<Kind>, shape(try_neighbours_kernel<Kind>), 0, stream, false, p);
  const int64_t tiles_a_side = (num_rows + tile_rows - 1) / tile_rows;
  constexpr size_t shared_bytes = sizeof(Tile<typename Kind::Value>);
  const LaunchShape blocks =
      shape_for(reinterpret_cast<const void*>(try_all_pairs_kernel<Kind>), threads_of_a_block, shared_bytes,
                tiles_a_side * tiles_a_side * (threads_of_a_block / warp_size), stream, true);
  launch(try_all_pairs_kernel<Kind>, blocks, shared_bytes, stream, false, p);
  Best found;
  copy_to_host(&found, p.best, sizeof found, stream);
  synchronise(stream);
  return found;
}

}  // namespace

double conflict_margin(const RowsView& rows, const LabelsView& labels, const Stream& stream) {
  const DeviceGuard guard(stream);
  refuse_capture(stream);
  last_work() = Work{};
  const RowLayout layout = lay_out(rows, ColumnOrder::any);
  const double none = std::numeric_limits<double>::infinity();
  if (rows.dtype == DType::int64 || rows.dtype == DType::uint64) {
    const Best found = rows.dtype == DType::int64 ? search<Integers<int64_t>>(layout, labels, false, stream)
                                                  : search<Integers<uint64_t>>(layout, labels, false, stream);
    return found.has_pair ? static_cast<double>(found.distance) : none;
  }
  const Best found = search<Doubles>(layout, labels, is_float(rows.dtype), stream);
  if (!found.has_pair) return none;
  double distance;
  static_assert(sizeof distance == sizeof found.distance);
  std::memcpy(&distance, &found.distance, sizeof distance);
  return distance;
}

}  // namespace cbkernels::cuda
