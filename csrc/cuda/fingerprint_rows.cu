// The fingerprints of docs/fingerprint.md. Pieces of rows add to sums in global memory, in any order; a second, tiny
// kernel compresses them.
#include <algorithm>

#include "runtime.h"
#include "sum_rows.h"

namespace cbkernels::cuda {
namespace {

struct CompressionKeys {
  CBKERNELS_DEVICE const uint64_t* operator[](int m) const { return keys + 9 * m; }
  const uint64_t* keys;
};

__global__ void __launch_bounds__(threads_of_a_block)
    compress_kernel(fingerprint::Key key, int64_t num_rows, const uint64_t* row_sums, const uint8_t* holds_nan,
                    uint64_t* fingerprints) {
  CBKERNELS_DYNAMIC_SHARED(shared);
  uint64_t* const keys = reinterpret_cast<uint64_t*>(shared);
  for (int k = threadIdx.x; k < 36; k += blockDim.x) keys[k] = fingerprint::compression_key(key, k / 9, k % 9);
  __syncthreads();
  for (int64_t row = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; row < num_rows;
       row += static_cast<int64_t>(gridDim.x) * blockDim.x) {
    uint64_t out[2] = {0, 0};
    if (!holds_nan[row]) fingerprint::compress(row_sums + fingerprint::num_sums * row, CompressionKeys{keys}, out);
    fingerprints[2 * row] = out[0];
    fingerprints[2 * row + 1] = out[1];
  }
}

}  // namespace

void row_fingerprints(const RowsView& rows, const UpdateGrid& grid, const fingerprint::Key& key, uint64_t* fingerprints,
                      const Stream& stream) {
  const DeviceGuard guard(stream);
  last_work() = Work{};
  const Elements e = elements_of(rows, grid, ColumnOrder::logical);
  const int64_t num_rows = e.rows.num_rows;
  const int64_t num_blocks = (e.num_words + fingerprint::block_words - 1) / fingerprint::block_words;
  Workspace workspace(stream);
  const size_t sums = workspace.reserve<uint64_t>(fingerprint::num_sums * num_rows),
               flags = workspace.reserve<uint8_t>(num_rows);
  workspace.allocate();
  fill_with_zeros(workspace.at<void>(0), workspace.size(), stream);
  const int64_t quads = (num_rows + rows_per_sum - 1) / rows_per_sum;
  // up to 8 blocks a piece: fewer atomics; but pieces enough for every warp
  const int64_t blocks_per_span = std::clamp<int64_t>(quads * num_blocks / 8192, 1, 8);
  const int64_t num_spans = std::max<int64_t>(1, (num_blocks + blocks_per_span - 1) / blocks_per_span);
  const auto kernel = row_kernels(e).sum_rows;
  const size_t shared = bytes_of_block_keys(fingerprint::num_block_keys);
  const LaunchShape shape =
      shape_for(reinterpret_cast<const void*>(kernel), threads_of_a_block, shared, quads * num_spans, stream);
  launch(kernel, shape, shared, stream, false, e, key, blocks_per_span, num_spans, workspace.at<uint64_t>(sums),
         workspace.at<uint8_t>(flags));
  const size_t key_bytes = 36 * sizeof(uint64_t);
  const LaunchShape small = shape_for(reinterpret_cast<const void*>(compress_kernel), threads_of_a_block, key_bytes,
                                      (num_rows + warp_size - 1) / warp_size, stream);
  launch(compress_kernel, small, key_bytes, stream, false, key, num_rows, workspace.at<uint64_t>(sums),
         workspace.at<uint8_t>(flags), fingerprints);
  last_work().bytes_total = last_work().bytes_touched = num_rows * rows.num_columns() * itemsize(rows.dtype);
  last_work().rows_fingerprinted = num_rows;
}

}  // namespace cbkernels::cuda
