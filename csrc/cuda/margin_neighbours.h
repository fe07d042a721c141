// The first bound of a search for the conflict margin: every row against the next one with another label. The same pass
// finds the rows that hold a NaN.
#pragma once
#include "margin_problem.h"
#include "row_distance.h"
#include "runtime.h"

namespace cbkernels::cuda::margin {

// Every row against the next one with another label, and rows that hold a NaN. Four blocks a multiprocessor: left to
// itself, nvcc aims at 48 registers on sm_80, and spills.
template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block, 4) try_neighbours_kernel(const __grid_constant__ Problem p) {
  if (blockIdx.x == 0 && threadIdx.x == 0) *p.best = {no_distance, no_rounded, 0};
  const int32_t num_rows = p.rows.num_rows, lane = lane_index();
  for (int64_t item = warp_of_grid(); item < p.num_row_spans * num_rows; item += warps_of_grid()) {
    const int32_t row = static_cast<int32_t>(item % num_rows), near = row + 1 + lane;
    const int64_t first = item / num_rows * p.row_span;
    const bool differs = near < num_rows && label_at(p.labels, near) != label_at(p.labels, row);
    const unsigned others = __ballot_sync(whole_warp, differs);
    const int32_t other = others != 0 ? row + __ffs(others) : row;  // a row is 0 from itself
    const int64_t end = first + p.row_span, last = end < p.rows.num_columns ? end : p.rows.num_columns;
    const Scan seen = scan_rows<Kind>(p.rows, row, other, first, last, no_distance);
    if (lane != 0) continue;
    if (seen.holds_nan) p.is_left_out[row] = 1;
    if (first == 0) p.neighbours[row] = others != 0 ? other : -1;
    atomicMax(p.worst_of_row + row, seen.worst);
  }
}

// A float32 that is no smaller than what the distance of the same pair rounds to, however the distance was rounded.
CBKERNELS_DEVICE uint32_t rounded_up(Bits distance) {
  const double exact = __longlong_as_double(static_cast<long long>(distance));
  const float nearest = static_cast<float>(exact);
  return __float_as_uint(nearest) + (static_cast<double>(nearest) < exact ? 1 : 0);
}

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block) take_best_neighbours_kernel(const __grid_constant__ Problem p) {
  for (int64_t first = warp_of_grid() * warp_size; first < p.rows.num_rows; first += warps_of_grid() * warp_size) {
    const int64_t row = first + lane_index();
    const int32_t other = row < p.rows.num_rows ? p.neighbours[row] : -1;
    const bool counts = other >= 0 && !p.is_left_out[row] && !p.is_left_out[other];
    const Bits smallest = smallest_of_warp(counts ? p.worst_of_row[row] : no_distance);
    if (lane_index() != 0 || smallest == no_distance) continue;
    atomicMin(&p.best->distance, smallest);
    if constexpr (Kind::is_rounded) atomicMin(&p.best->rounded, Kind::limit_of(rounded_up(smallest)));
  }
}

}  // namespace cbkernels::cuda::margin
