// Leaders in the order of their rows, one after the other: all rows without a leader are compared with it by all warps,
// and the first that is not near is the next leader. The order is part of the answer, so leaders cannot be taken
// together. One cooperative launch; the grid waits for itself once a leader.
#include "group_near_rows.h"

#include "count_labels.h"
#include "elements.h"
#include "layer_results.h"
#include "runtime.h"

namespace cbkernels::cuda {
namespace {

struct Search {  // the next leader, by turns: the round's own, the next one's, and one to clear
  uint32_t candidate[3];
};

struct Launch {
  RowLayout rows;
  Tolerance tolerance;
  LayerWork work;
  LabelsView labels;
  fingerprint::Key routing_key;
  int64_t* ids;
  Search* search;
  LaunchState* state;
  uint64_t* of_block;
};

// Are all values near? Infinities: equal ones are, others are not, although infinity <= infinity.
CBKERNELS_DEVICE bool is_near(const RowLayout& rows, int64_t row, int64_t leader, const Tolerance& tolerance) {
  constexpr double largest = 1.7976931348623157e308;
  for (int64_t first = 0; first < rows.num_columns; first += warp_size) {
    const int64_t column = first + lane_index();
    bool far = false;
    if (column < rows.num_columns) {
      const double a = value_at<double>(rows, row, column), b = value_at<double>(rows, leader, column);
      const double magnitude = b < 0 ? -b : b, difference = a < b ? b - a : a - b;
      const bool are_finite = a >= -largest && a <= largest && b >= -largest && b <= largest;
      far = !(a == b || (are_finite && difference <= tolerance.absolute + tolerance.relative * magnitude));
    }
    if (__any_sync(whole_warp, far)) return false;
  }
  return true;
}

CBKERNELS_DEVICE bool holds_nan(const RowLayout& rows, int64_t row) {
  bool found = false;
  for (int64_t column = lane_index(); column < rows.num_columns; column += warp_size) {
    const double value = value_at<double>(rows, row, column);
    found |= value != value;
  }
  return __any_sync(whole_warp, found);
}

__global__ void __launch_bounds__(threads_of_a_block, 2) group_near_rows_kernel(const __grid_constant__ Launch launch) {
  CBKERNELS_DYNAMIC_SHARED(shared);
  ScanSpace* const space = reinterpret_cast<ScanSpace*>(shared);
  const LayerWork& work = launch.work;
  uint32_t* const candidates = launch.search->candidate;
  GridBarrier barrier{&launch.state->arrived};
  const Team team{false, space, &barrier, launch.of_block};

  if (team.rank() < 3) candidates[team.rank()] = no_row;
  barrier.wait();
  for (int64_t row = warp_of_grid(); row < work.num_rows; row += warps_of_grid()) {
    const bool nan = holds_nan(launch.rows, row);
    if (lane_index() != 0) continue;
    work.holds_nan[row] = nan;
    work.leader[row] = nan ? static_cast<uint32_t>(row) : no_row;
    if (!nan) atomicMin(candidates, static_cast<uint32_t>(row));
  }
  barrier.wait();
  for (int round = 0;; round = (round + 1) % 3) {
    const uint32_t leader = candidates[round];
    if (leader == no_row) break;
    uint32_t* const next = candidates + (round + 1) % 3;
    if (team.rank() == 0) {
      work.leader[leader] = leader;
      candidates[(round + 2) % 3] = no_row;
    }
    const int64_t behind = work.num_rows - leader - 1;
    for (int64_t k = warp_of_grid(); k < behind; k += warps_of_grid()) {
      const int64_t row = leader + 1 + k;
      // one lane reads for all: what it decides must hold for the warp
      const uint32_t known = __shfl_sync(whole_warp, work.leader[row], 0);
      if (known != no_row) continue;
      const bool near = is_near(launch.rows, row, leader, launch.tolerance);
      if (lane_index() != 0) continue;
      if (near)
        work.leader[row] = leader;
      else
        atomicMin(next, static_cast<uint32_t>(row));
    }
    barrier.wait();
  }
  const LabelWork known = second_life(work);
  number_bundles(team, known, launch.ids);
  if (launch.labels.data != nullptr)
    count_labels(team, known, work.slots, launch.labels, launch.routing_key, &launch.state->out_used);
}

}  // namespace

void group_near_rows(const RowsView& rows, const Tolerance& tolerance, const LabelsView* labels, int64_t* ids,
                     const Stream& stream, BundleCounts* counts) {
  Workspace workspace(stream);
  LayerResults results;
  const int64_t num_rows = rows.num_rows();
  Launch arguments{};
  arguments.rows = lay_out(rows, ColumnOrder::any);
  results.reserve(workspace, 1, num_rows);
  const LaunchShape shape = shape_for(reinterpret_cast<const void*>(group_near_rows_kernel), threads_of_a_block,
                                      sizeof(ScanSpace), num_rows, stream);
  const size_t of_block = workspace.reserve<uint64_t>(shape.blocks), search = workspace.reserve<Search>(1);
  const WorkMemory memory(workspace, num_rows);
  workspace.allocate();
  results.clear(workspace, stream);
  memory.place(arguments.work, workspace);
  results.give(arguments.work, workspace, 0);
  arguments.tolerance = tolerance;
  if (labels != nullptr) arguments.labels = *labels;
  arguments.routing_key = routing_key();
  arguments.ids = ids;
  arguments.search = workspace.at<Search>(search);
  arguments.state = results.state(workspace);
  arguments.of_block = workspace.at<uint64_t>(of_block);
  launch(group_near_rows_kernel, shape, sizeof(ScanSpace), stream, true, arguments);
  if (counts != nullptr) *counts = results.fetch(workspace, {0}, stream)[0];
  last_work().rows_compared = num_rows;
}

}  // namespace cbkernels::cuda
