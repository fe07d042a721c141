// The kernel of a fingerprint's row sums: warps take pieces of some rows and add to sums in global memory, in any
// order.
#pragma once
#include "row_kernels_loops.h"

namespace cbkernels::cuda {

constexpr int rows_per_sum = 16 / fingerprint::num_sums;

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block, 2)
    sum_rows_kernel(const __grid_constant__ Elements e, fingerprint::Key key, int64_t blocks_per_span,
                    int64_t num_spans, uint64_t* row_sums, uint8_t* holds_nan) {
  constexpr int num_sums = fingerprint::num_sums;
  CBKERNELS_DYNAMIC_SHARED(shared);
  uint32_t* const block_keys = reinterpret_cast<uint32_t*>(shared);
  fill_block_keys(block_keys, key);
  __syncthreads();
  const int64_t last = static_cast<int64_t>(e.rows.num_rows) - 1, num_blocks = num_blocks_of(e);
  const int64_t num_items = (last + rows_per_sum) / rows_per_sum * num_spans;
  const int lane = lane_index();
  for (int64_t item = warp_of_grid(); item < num_items; item += warps_of_grid()) {
    const int64_t first = item / num_spans * rows_per_sum, begin = item % num_spans * blocks_per_span;
    const int64_t end = begin + blocks_per_span < num_blocks ? begin + blocks_per_span : num_blocks;
    int64_t rows[rows_per_sum];
#pragma unroll
    for (int r = 0; r < rows_per_sum; ++r) rows[r] = first + r < last ? first + r : last;
    unsigned with_nan;
    const uint64_t sum = sum_blocks<Kind, num_sums>(e, rows, begin, end, block_keys, &with_nan);
    const int64_t row = first + lane / num_sums;
    if (lane < 16 && row <= last)
      atomicAdd(reinterpret_cast<unsigned long long*>(row_sums + num_sums * row + lane % num_sums),
                static_cast<unsigned long long>(sum));
    if (lane < rows_per_sum && first + lane <= last && (with_nan >> lane & 1u)) holds_nan[first + lane] = 1;
  }
}

}  // namespace cbkernels::cuda
