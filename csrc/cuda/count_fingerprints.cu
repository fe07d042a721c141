// Bundles of equal fingerprints, and their labels: the end of a stream. One cooperative launch.
#include <stdexcept>

#include "count_labels.h"
#include "layer_results.h"
#include "runtime.h"

namespace cbkernels::cuda {
namespace {

struct Launch {
  LayerWork work;
  const uint64_t* fingerprints;
  LabelsView labels;
  bool may_hold_nan;
  fingerprint::Key routing_key;
  uint64_t routing_mask;
  LaunchState* state;
  uint64_t* of_block;
};

CBKERNELS_DEVICE void count(const Team& team, const Launch& launch, uint32_t* slots) {
  const LayerWork& work = launch.work;
  const uint64_t* const keys = launch.fingerprints;
  clear_slots(team, slots, work.num_slots);
  team.sync();
  for_each_in_warps(team, work.num_rows, [&](int64_t i, bool there) {
    const uint64_t low = there ? keys[2 * i] : 0, high = there ? keys[2 * i + 1] : 0;
    const bool holds_nan = launch.may_hold_nan && (low | high) == 0;
    bool is_new;
    const uint32_t slot = find_slot_together(
        slots, work.num_slots, fingerprint::pair_hash(launch.routing_key, low, high) & launch.routing_mask,
        static_cast<uint32_t>(i), there && !holds_nan,
        [&](uint32_t other) {
          return keys[2 * static_cast<int64_t>(other)] == low && keys[2 * static_cast<int64_t>(other) + 1] == high;
        },
        &is_new);
    if (!there) return;
    work.holds_nan[i] = holds_nan;
    if (!holds_nan) work.slot[i] = slot;
  });
  team.sync();
  for (int64_t i = team.rank(); i < work.num_rows; i += team.size())
    work.leader[i] = work.holds_nan[i] ? static_cast<uint32_t>(i) : slots[work.slot[i]];
  team.sync();
  const LabelWork known = second_life(work);
  number_bundles(team, known, nullptr);
  count_labels(team, known, slots, launch.labels, launch.routing_key, &launch.state->out_used);
}

__global__ void __launch_bounds__(threads_of_a_block, 2)
    count_fingerprints_kernel(const __grid_constant__ Launch launch) {
  CBKERNELS_DYNAMIC_SHARED(shared);
  ScanSpace* const space = reinterpret_cast<ScanSpace*>(shared);
  GridBarrier barrier{&launch.state->arrived};
  count(Team{false, space, &barrier, launch.of_block}, launch, launch.work.slots);
}

}  // namespace

BundleCounts count_fingerprints(const FingerprintBlock& rows, bool may_hold_nan, const Stream& stream) {
  const DeviceGuard guard(stream);
  refuse_capture(stream);
  last_work() = Work{};
  if (rows.num_rows == 0) return {};
  if (rows.num_rows > most_rows)
    throw std::invalid_argument("a GPU counts at most " + std::to_string(most_rows) + " rows and this stream has " +
                                std::to_string(rows.num_rows) + "; measure fewer rows");
  Workspace workspace(stream);
  LayerResults results;
  results.reserve(workspace, 1, rows.num_rows);
  const LaunchShape shape = shape_for(reinterpret_cast<const void*>(count_fingerprints_kernel), threads_of_a_block,
                                      sizeof(ScanSpace), (rows.num_rows + warp_size - 1) / warp_size, stream);
  const size_t of_block = workspace.reserve<uint64_t>(shape.blocks);
  Launch arguments{};
  const WorkMemory memory(workspace, rows.num_rows);
  workspace.allocate();
  results.clear(workspace, stream);
  memory.place(arguments.work, workspace);
  results.give(arguments.work, workspace, 0);
  arguments.fingerprints = rows.fingerprints;
  arguments.labels = {reinterpret_cast<const std::byte*>(rows.labels), sizeof(int64_t), sizeof(int64_t)};
  arguments.may_hold_nan = may_hold_nan;
  arguments.routing_key = routing_key();
  arguments.routing_mask = routing_mask();
  arguments.state = results.state(workspace);
  arguments.of_block = workspace.at<uint64_t>(of_block);
  launch(count_fingerprints_kernel, shape, sizeof(ScanSpace), stream, true, arguments);
  return results.fetch(workspace, {0}, stream)[0];
}

}  // namespace cbkernels::cuda
