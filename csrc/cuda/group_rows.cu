// One cooperative launch for all layers: sample, group, compare, hash what differs, group and compare again, then ids
// and counts. Between phases the grid waits for itself; phases that no row needs are skipped.
#include "group_rows.h"

#include <algorithm>
#include <cstring>

#include "group_near_rows.h"
#include "layer_results.h"
#include "runtime.h"

namespace cbkernels::cuda {
namespace {

// One block a multiprocessor: 12 warps of 168 registers keep more bytes in flight than 16 of 128 that spill.
constexpr int threads_of_grouping = 384;

constexpr size_t scan_bytes = (sizeof(ScanSpace) + 15) / 16 * 16;
constexpr size_t keys_and_scan_bytes = (block_keys_bytes + 15) / 16 * 16 + scan_bytes;
// What every GPU gives a block unasked: more would have to be asked for, on each device anew.
static_assert(keys_and_scan_bytes + 2 * largest_shared_table * sizeof(uint32_t) <= 48 << 10);

struct Launch {
  const Layer* layers;  // null: the one in the arguments
  int32_t num_layers;
  Labels labels;
  bool scan_for_nan;
  fingerprint::Key routing_key;
  uint64_t routing_mask;
  LaunchState* state;
  uint64_t* of_block;
};

CBKERNELS_DEVICE int64_t tiles_of(int64_t rows, int64_t rows_of_a_tile) {
  return (rows + rows_of_a_tile - 1) / rows_of_a_tile;
}

// Layers of one launch have the same number of rows. Few rows: a block groups a layer, with a table in shared memory;
// many: all blocks group one layer after the other.
struct Layers {
  const Layer* layer;
  int count;
  Team team;
  uint32_t* shared_slots;

  template <class Body>
  CBKERNELS_DEVICE void for_each(const Body& body) const {
    const int step = team.is_block ? static_cast<int>(gridDim.x) : 1;
    for (int l = team.is_block ? static_cast<int>(blockIdx.x) : 0; l < count; l += step) {
      body(layer[l], team.is_block ? shared_slots : layer[l].work.slots);
      team.sync();
    }
  }
};

__global__ void __launch_bounds__(threads_of_grouping, 1)
    group_rows_kernel(const __grid_constant__ Launch launch, const __grid_constant__ Layer only) {
  CBKERNELS_DYNAMIC_SHARED(shared);
  uint32_t* const block_keys = reinterpret_cast<uint32_t*>(shared);
  ScanSpace* const space = reinterpret_cast<ScanSpace*>(shared + keys_and_scan_bytes - scan_bytes);
  const Layer* const layer = launch.layers != nullptr ? launch.layers : &only;
  const int num_layers = launch.num_layers;
  LaunchState* const state = launch.state;
  GridBarrier barrier{&state->arrived};
  const Team team{layer[0].has_few_rows, space, &barrier, launch.of_block};
  const Layers layers{layer, num_layers, team, reinterpret_cast<uint32_t*>(shared + keys_and_scan_bytes)};

  fill_block_keys(block_keys, launch.routing_key);
  __syncthreads();
  for_each_item(
      num_layers, [&](int l) { return tiles_of(layer[l].work.num_rows, rows_per_sample); },
      [&](int l, int64_t item) { sample_item(layer[l], item, block_keys, launch.routing_mask); });
  barrier.wait();

  // Each wait stands between what the phase before it wrote, in lists and in `state`, and who reads that. What is added
  // to `state` in a phase is read behind its wait by every block, and nothing adds to the same number before another.
#pragma unroll 1
  for (bool by_sample = true;; by_sample = false) {
    layers.for_each([&](const Layer& of, uint32_t* slots) {
      if (!by_sample) finish_hashes(team, of, launch.routing_mask);
      group_by_hash(team, of, slots, by_sample ? nullptr : of.work.pending,
                    by_sample ? of.work.num_rows : of.work.counters->num_pending);
      if (team.rank() == 0 && of.work.counters->num_tiles != 0) atomicAdd(&state->layers_with_tiles, 1u);
    });
    barrier.wait();
    const bool has_tiles = state->layers_with_tiles != 0;
    if (!has_tiles && !launch.scan_for_nan) break;  // no block has anything to read: no second wait
    if (has_tiles)
      for_each_item(
          num_layers, [&](int l) { return layer[l].num_spans * layer[l].work.counters->num_tiles; },
          [&](int l, int64_t item) { compare_item(layer[l], item); });
    barrier.wait();
    if (!by_sample) break;

    layers.for_each([&](const Layer& of, uint32_t*) {
      list_pending(team, of, launch.scan_for_nan);
      if (team.rank() != 0) return;
      if (of.work.counters->num_pending != 0) atomicAdd(&state->layers_with_pending, 1u);
      if (of.work.counters->num_scanned != 0) atomicAdd(&state->layers_to_scan, 1u);
    });
    barrier.wait();
    const bool has_pending = state->layers_with_pending != 0, has_unread = state->layers_to_scan != 0;
    if (!has_pending && !has_unread) break;
    if (has_pending)
      for_each_item(
          num_layers,
          [&](int l) { return tiles_of(layer[l].work.counters->num_pending, rows_per_hash) * layer[l].num_hash_spans; },
          [&](int l, int64_t item) { hash_item(layer[l], item, block_keys); });
    if (has_unread)
      for_each_item(
          num_layers,
          [&](int l) {
            return layer[l].num_spans * tiles_of(layer[l].work.counters->num_scanned, rows_per_tile(layer[l].elements));
          },
          [&](int l, int64_t item) { scan_item(layer[l], item); });
    barrier.wait();
    if (!has_pending) break;
  }

  layers.for_each([&](const Layer& of, uint32_t* slots) {
    settle(team, of);
    const LabelWork known = second_life(of.work);
    number_bundles(team, known, of.ids);
    if (launch.labels.data != nullptr)
      count_labels(team, known, slots, launch.labels, launch.routing_key, &state->out_used);
  });
}

// How a launch reads a layer: what is a piece of work depends on how much work there is for so many warps.
Layer plan(const RowsView& rows, const UpdateGrid& grid, int64_t rows_of_all_layers) {
  Layer layer{};
  layer.elements = elements_of(rows, grid, ColumnOrder::any);
  const Elements& e = layer.elements;
  const int64_t lines = e.num_chunks / lanes_per_sample;
  layer.num_places = static_cast<int32_t>(std::clamp<int64_t>(lines / 8, lines >= 4 ? 2 : 1, most_places));
  layer.sample_is_whole_row = e.num_chunks <= layer.num_places * lanes_per_sample;
  layer.has_few_rows = e.rows.num_rows <= most_rows_of_a_block();
  // 2 to 8 KiB of eight rows: many pieces for one small layer, few for many layers
  layer.chunks_per_span = rows_of_all_layers * e.num_chunks > (int64_t{1} << 24) ? 512 : 128;
  layer.num_spans = std::max<int64_t>(1, (e.num_chunks + layer.chunks_per_span - 1) / layer.chunks_per_span);
  const int64_t num_blocks = (e.num_words + fingerprint::block_words - 1) / fingerprint::block_words;
  layer.blocks_per_hash_span = 4;
  layer.num_hash_spans =
      std::max<int64_t>(1, (num_blocks + layer.blocks_per_hash_span - 1) / layer.blocks_per_hash_span);
  return layer;
}

// Queues the launch for layers that have the same number of rows. ids: of the only layer, or null.
class Grouping {
 public:
  Grouping(const std::vector<RowsView>& views, const UpdateGrid& grid, const LabelsView* labels, bool scan_for_nan,
           int64_t* ids, const Stream& stream)
      : stream_(stream), workspace_(stream) {
    const int64_t num_rows = views[0].num_rows(), num_layers = static_cast<int64_t>(views.size());
    for (const RowsView& view : views) layers_.push_back(plan(view, grid, num_rows * num_layers));
    layers_[0].ids = ids;
    results_.reserve(workspace_, num_layers, num_rows);
    const size_t table = num_layers > 1 ? workspace_.reserve<Layer>(num_layers) : 0;
    const int64_t wanted_warps = this->wanted_warps();
    const size_t shared_bytes = keys_and_scan_bytes + shared_table_bytes();
    const LaunchShape shape = shape_for(reinterpret_cast<const void*>(group_rows_kernel), threads_of_grouping,
                                        shared_bytes, wanted_warps, stream);
    const size_t of_block = workspace_.reserve<uint64_t>(shape.blocks);
    std::vector<WorkMemory> memory;
    for (int64_t l = 0; l < num_layers; ++l) memory.emplace_back(workspace_, num_rows);
    workspace_.allocate();
    results_.clear(workspace_, stream);
    for (int64_t l = 0; l < num_layers; ++l) {
      memory[l].place(layers_[l].work, workspace_);
      results_.give(layers_[l].work, workspace_, l);
    }
    if (num_layers > 1) copy_to_device(workspace_.at<Layer>(table), layers_.data(), num_layers * sizeof(Layer), stream);
    Launch arguments{num_layers > 1 ? workspace_.at<Layer>(table) : nullptr,
                     static_cast<int32_t>(num_layers),
                     labels != nullptr ? labels_of(*labels) : Labels{},
                     scan_for_nan,
                     routing_key(),
                     routing_mask(),
                     results_.state(workspace_),
                     workspace_.at<uint64_t>(of_block)};
    launch(group_rows_kernel, shape, shared_bytes, stream, true, arguments, layers_[0]);
  }

  std::vector<BundleCounts> fetch() {
    std::vector<int64_t> row_bytes;
    Work& work = last_work();
    for (const Layer& layer : layers_) {
      const RowLayout& rows = layer.elements.rows;
      row_bytes.push_back(rows.num_columns * rows.itemsize);
      work.bytes_total += rows.num_rows * row_bytes.back();
      const int64_t sampled = layer.num_places * lanes_per_sample * chunk_bytes;
      work.bytes_touched += rows.num_rows * std::min(row_bytes.back(), sampled);
      work.rows_sampled += rows.num_rows;
    }
    return results_.fetch(workspace_, row_bytes, stream_);
  }

 private:
  size_t shared_table_bytes() const {
    int64_t rows = 0;
    for (const Layer& layer : layers_)
      if (layer.has_few_rows) rows = std::max<int64_t>(rows, layer.elements.rows.num_rows);
    return static_cast<size_t>(std::max<int64_t>(64, 2 * rows)) * sizeof(uint32_t);
  }
  int64_t wanted_warps() const {  // of the phase with the most items
    int64_t items = 0;
    for (const Layer& layer : layers_) {
      const int64_t rows = layer.elements.rows.num_rows;
      items += std::max((rows + rows_per_sample - 1) / rows_per_sample, (rows + 7) / 8 * layer.num_spans);
    }
    return items;
  }

  Stream stream_;
  Workspace workspace_;
  std::vector<Layer> layers_;
  LayerResults results_;
};

}  // namespace

void bundle_ids(const RowsView& rows, const UpdateGrid& grid, const Tolerance* tolerance, int64_t* ids,
                const Stream& stream) {
  const DeviceGuard guard(stream);
  last_work() = Work{};
  if (tolerance != nullptr) {
    group_near_rows(rows, *tolerance, nullptr, ids, stream, nullptr);
    return;
  }
  Grouping(std::vector<RowsView>{rows}, grid, nullptr, false, ids, stream);
}

std::vector<BundleCounts> count_bundles(const std::vector<RowsView>& layers, const LabelsView& labels,
                                        const UpdateGrid& grid, const Tolerance* tolerance, bool check_nan,
                                        const Stream& stream) {
  const DeviceGuard guard(stream);
  refuse_capture(stream);
  last_work() = Work{};
  if (layers.empty()) return {};
  if (tolerance != nullptr) {
    std::vector<BundleCounts> counts(layers.size());
    for (size_t l = 0; l < layers.size(); ++l)
      group_near_rows(layers[l], *tolerance, &labels, nullptr, stream, &counts[l]);
    return counts;
  }
  return Grouping(layers, grid, &labels, check_nan, nullptr, stream).fetch();
}

}  // namespace cbkernels::cuda
