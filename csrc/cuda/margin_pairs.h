// All pairs of rows with different labels, a tile a block. Where there are few tiles, each is cut into spans of
// columns, so that all multiprocessors work at any shape; the maxima of the spans meet in global memory, where the
// kernels at the end of this file take the smallest of them. The best so far is shared by all blocks.
#pragma once
#include "pair_tiles.h"

namespace cbkernels::cuda::margin {

template <class Kind>
CBKERNELS_DEVICE typename Kind::Pattern* maxima(const Problem& p) {
  if constexpr (Kind::is_rounded)
    return p.rounded;
  else
    return p.distances;
}

// The pairs that the warp's lanes name, compared again, exactly and from end to end.
CBKERNELS_DEVICE void compare_exactly(const Problem& p, const Place& place, unsigned candidates) {
  for (unsigned owners; (owners = __ballot_sync(whole_warp, candidates != 0)) != 0;) {
    const int owner = __ffs(owners) - 1, k = __shfl_sync(whole_warp, __ffs(candidates) - 1, owner);
    if (lane_index() == owner) candidates &= candidates - 1;
    const int thread = threadIdx.x - lane_index() + owner;
    const Bits limit = __shfl_sync(whole_warp, read_now(&p.best->distance), 0);
    const Scan seen =
        scan_rows<Doubles>(p.rows, place.left(thread, k), place.right(thread, k), 0, p.rows.num_columns, limit);
    if (lane_index() == 0) atomicMin(&p.best->distance, seen.worst);
  }
}

// A tile that one block has compared from end to end.
template <class Kind>
CBKERNELS_DEVICE void finish_tile(const Problem& p, const Place& place, unsigned pairs,
                                  const WorstOfPairs<Kind>& worst) {
  typename Kind::Pattern smallest = ~typename Kind::Pattern{0};
#pragma unroll
  for (int k = 0; k < pairs_of_a_thread; ++k)
    if (pairs >> k & 1u && Kind::pattern(worst[k]) < smallest) smallest = Kind::pattern(worst[k]);
  smallest = smallest_of_warp(smallest);
  if (lane_index() == 0 && smallest != static_cast<typename Kind::Pattern>(~typename Kind::Pattern{0}))
    atomicMin(Kind::limit(p.best), Kind::limit_of(smallest));
  if constexpr (Kind::is_rounded) {
    if (p.is_exact) return;
    __syncthreads();  // the other warps' pairs narrow the choice
    const uint32_t limit = __shfl_sync(whole_warp, read_now(&p.best->rounded), 0);
    if (limit == Floats::limit_of(0)) return;  // equal rows: nothing is closer
    compare_exactly(p, place, open_pairs<Kind>(pairs, worst, limit));
  }
}

template <class Kind, bool is_cut>
__global__ void __launch_bounds__(threads_of_a_block, 2) try_all_pairs_kernel(const __grid_constant__ Problem p) {
  for (int64_t item = blockIdx.x; item < p.num_tiles * p.num_spans; item += gridDim.x) {
    const int64_t tile = item % p.num_tiles, first = item / p.num_tiles * p.span;  // the tiles of a span side by side
    const Place place = place_of(p, tile);
    typename Kind::Pattern* const mine = is_cut ? maxima<Kind>(p) + tile * pairs_of_a_tile + threadIdx.x : nullptr;
    const unsigned pairs = pairs_of(p, place);
    typename Kind::Worst worst[pairs_of_a_thread] = {};
    if constexpr (is_cut)
#pragma unroll
      for (int k = 0; k < pairs_of_a_thread; ++k)
        if (pairs >> k & 1u) worst[k] = Kind::of_pattern(read_now(mine + k * threads_of_a_block));  // in other spans
    if (pairs != 0) p.best->has_pair = 1;
    const int64_t end = first + p.span, last = end < p.rows.num_columns ? end : p.rows.num_columns;
    compare_span<Kind>(p, place, first, last, pairs, worst);
    if constexpr (!is_cut) finish_tile<Kind>(p, place, pairs, worst);
    if constexpr (is_cut)
#pragma unroll
      for (int k = 0; k < pairs_of_a_thread; ++k) {
        if (pairs >> k & 1u)
          atomicMax(mine + k * threads_of_a_block, Kind::pattern(worst[k]));
        else if (first == 0)
          mine[k * threads_of_a_block] = ~typename Kind::Pattern{0};
      }
  }
}

// --- behind tiles that were cut -----------------------------------------------------------------------------------

template <class Kind>
__global__ void __launch_bounds__(threads_of_a_block) take_smallest_kernel(const __grid_constant__ Problem p) {
  using Pattern = typename Kind::Pattern;
  constexpr Pattern none = ~Pattern{0};
  const Pattern* const all = maxima<Kind>(p);
  Pattern smallest = none;
  const int64_t step = warps_of_grid() * warp_size;
  for (int64_t k = warp_of_grid() * warp_size + lane_index(); k < p.num_tiles * pairs_of_a_tile; k += step)
    smallest = all[k] < smallest ? all[k] : smallest;
  smallest = smallest_of_warp(smallest);
  if (lane_index() == 0 && smallest != none) atomicMin(Kind::limit(p.best), Kind::limit_of(smallest));
}

// A warp takes 32 pairs of a tile and a span of columns: which of them are among the smallest?
static __global__ void __launch_bounds__(threads_of_a_block)
    compare_smallest_kernel(const __grid_constant__ Problem p) {
  const uint32_t smallest = p.best->rounded - 1;
  if (smallest == 0) return;  // equal rows
  const int64_t groups = p.num_tiles * pairs_of_a_tile / warp_size;
  for (int64_t item = warp_of_grid(); item < groups * p.num_spans; item += warps_of_grid()) {
    const int64_t first_pair = item % groups * warp_size, first = item / groups * p.span;
    unsigned found = __ballot_sync(whole_warp, p.rounded[first_pair + lane_index()] == smallest);
    for (; found != 0; found &= found - 1) {
      const int64_t pair = first_pair + __ffs(found) - 1;
      const Bits so_far = __shfl_sync(whole_warp, read_now(p.distances + pair), 0), limit = p.best->distance;
      if (so_far >= limit) continue;  // because of other columns
      const Place place = place_of(p, pair / pairs_of_a_tile);
      const int k = static_cast<int>(pair % pairs_of_a_tile / threads_of_a_block);
      const int thread = static_cast<int>(pair % threads_of_a_block);
      const int64_t end = first + p.span, last = end < p.rows.num_columns ? end : p.rows.num_columns;
      const Scan seen = scan_rows<Doubles>(p.rows, place.left(thread, k), place.right(thread, k), first, last, limit);
      if (lane_index() == 0) atomicMax(p.distances + pair, seen.worst);
    }
  }
}

static __global__ void __launch_bounds__(threads_of_a_block)
    take_smallest_exactly_kernel(const __grid_constant__ Problem p) {
  const uint32_t rounded = p.best->rounded - 1;
  Bits smallest = no_distance;
  const int64_t step = warps_of_grid() * warp_size;
  if (rounded == 0) return;
  for (int64_t k = warp_of_grid() * warp_size + lane_index(); k < p.num_tiles * pairs_of_a_tile; k += step)
    if (p.rounded[k] == rounded && p.distances[k] < smallest) smallest = p.distances[k];
  smallest = smallest_of_warp(smallest);
  if (lane_index() == 0 && smallest != no_distance) atomicMin(&p.best->distance, smallest);
}

}  // namespace cbkernels::cuda::margin
