// One cooperative launch for all layers of one kind of element: sample, group, compare, hash what differs, group and
// compare again, then ids and counts. Between phases the grid waits for itself; phases that no row needs are skipped.
#include "group_rows.h"

#include <algorithm>
#include <functional>
#include <numeric>

#include "group_near_rows.h"
#include "layer_results.h"
#include "runtime.h"

namespace cbkernels::cuda {
namespace {

// How a launch reads a layer: what is a piece of work depends on how much work there is for so many warps.
Layer plan(const RowsView& rows, const UpdateGrid& grid, int64_t rows_of_all_layers) {
  Layer layer{};
  layer.elements = elements_of(rows, grid, ColumnOrder::any);
  const Elements& e = layer.elements;
  const int64_t lines = e.num_chunks / lanes_per_sample;
  const int64_t num_places = std::clamp<int64_t>(lines / 8, lines >= 4 ? 2 : 1, most_places),
                apart = lines / num_places;
  layer.sample_is_whole_row = e.num_chunks <= num_places * lanes_per_sample;
  layer.places = {static_cast<int32_t>(num_places), layer.sample_is_whole_row ? 0 : apart / 2 * lanes_per_sample,
                  (layer.sample_is_whole_row ? 1 : apart) * lanes_per_sample};
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

// Queues one launch for every kind among layers that have the same number of rows, usually one. ids: of the only layer,
// or null.
class Grouping {
 public:
  Grouping(const std::vector<RowsView>& views, const UpdateGrid& grid, const LabelsView* labels, bool scan_for_nan,
           int64_t* ids, const Stream& stream, bool reads_later = false)
      : stream_(stream), workspace_(stream) {
    const int64_t num_rows = views[0].num_rows(), num_layers = static_cast<int64_t>(views.size());
    for (const RowsView& view : views) layers_.push_back(plan(view, grid, num_rows * num_layers));
    layers_[0].ids = ids;
    sort_by_kind();
    std::vector<Launch> launches = launches_of_kinds();
    results_.reserve(workspace_, num_layers, num_rows, static_cast<int64_t>(launches.size()), reads_later);
    const size_t table = num_layers > 1 ? workspace_.reserve<Layer>(num_layers) : 0;
    int most_blocks = 0;
    for (const Launch& of : launches) most_blocks = std::max(most_blocks, of.shape.blocks);
    const size_t of_block = workspace_.reserve<uint64_t>(most_blocks);
    std::vector<WorkMemory> memory;
    for (int64_t l = 0; l < num_layers; ++l) memory.emplace_back(workspace_, num_rows);
    workspace_.allocate();
    results_.clear(workspace_, stream);
    for (int64_t l = 0; l < num_layers; ++l) {
      memory[l].place(layers_[l].work, workspace_);
      results_.give(layers_[l].work, workspace_, l);
    }
    if (num_layers > 1) copy_to_device(workspace_.at<Layer>(table), layers_.data(), num_layers * sizeof(Layer), stream);
    LaunchState* const states = results_.state(workspace_);
    for (size_t k = 0; k < launches.size(); ++k) {
      const Launch& of = launches[k];
      const GroupingLaunch arguments{num_layers > 1 ? workspace_.at<Layer>(table) + of.first : nullptr,
                                     static_cast<int32_t>(of.count),
                                     labels != nullptr ? *labels : LabelsView{},
                                     scan_for_nan,
                                     routing_key(),
                                     routing_mask(),
                                     states + k,
                                     &states->out_used,
                                     workspace_.at<uint64_t>(of_block)};
      launch(of.kernel, of.shape, of.shared_bytes, stream, true, arguments, layers_[of.first]);
    }
  }

  std::vector<BundleCounts> fetch() const {
    return as_called(results_.fetch(workspace_, row_bytes(), stream_), caller_index_);
  }
  Reader<std::vector<BundleCounts>> queue() const {
    return [read = results_.queue(workspace_, row_bytes(), stream_), order = caller_index_] {
      return as_called(read(), order);
    };
  }

 private:
  std::vector<int64_t> row_bytes() const {  // of every layer; counts what was sampled
    std::vector<int64_t> row_bytes;
    Work& work = last_work();
    for (const Layer& layer : layers_) {
      const RowLayout& rows = layer.elements.rows;
      row_bytes.push_back(rows.num_columns * rows.itemsize);
      work.bytes_total += rows.num_rows * row_bytes.back();
      const int64_t sampled = layer.places.count * lanes_per_sample * chunk_bytes;
      work.bytes_touched += rows.num_rows * std::min(row_bytes.back(), sampled);
      work.rows_sampled += rows.num_rows;
    }
    return row_bytes;
  }

  struct Launch {  // of the layers of one kind
    decltype(RowKernels::group_rows) kernel;
    size_t first, count;
    size_t shared_bytes;
    LaunchShape shape;
  };

  static std::vector<BundleCounts> as_called(std::vector<BundleCounts> sorted, const std::vector<size_t>& order) {
    std::vector<BundleCounts> counts(sorted.size());
    for (size_t l = 0; l < sorted.size(); ++l) counts[order[l]] = std::move(sorted[l]);
    return counts;
  }

  void sort_by_kind() {
    caller_index_.resize(layers_.size());
    std::iota(caller_index_.begin(), caller_index_.end(), size_t{0});
    std::stable_sort(caller_index_.begin(), caller_index_.end(), [this](size_t a, size_t b) {
      return std::less<>()(&row_kernels(layers_[a].elements), &row_kernels(layers_[b].elements));
    });
    std::vector<Layer> sorted;
    for (const size_t l : caller_index_) sorted.push_back(layers_[l]);
    layers_ = std::move(sorted);
  }

  std::vector<Launch> launches_of_kinds() const {
    std::vector<Launch> launches;
    for (size_t first = 0, count; first < layers_.size(); first += count) {
      const RowKernels& kernels = row_kernels(layers_[first].elements);
      int64_t items = 0, rows_in_shared = 0;  // items: of the phase with the most of them
      for (count = 0; first + count < layers_.size(); ++count) {
        const Layer& layer = layers_[first + count];
        if (&row_kernels(layer.elements) != &kernels) break;
        const int64_t rows = layer.elements.rows.num_rows;
        items += std::max((rows + rows_per_sample - 1) / rows_per_sample, (rows + 7) / 8 * layer.num_spans);
        if (layer.has_few_rows) rows_in_shared = std::max<int64_t>(rows_in_shared, rows);
      }
      const size_t table_bytes = static_cast<size_t>(std::max<int64_t>(64, 2 * rows_in_shared)) * sizeof(uint32_t);
      launches.push_back({kernels.group_rows, first, count, keys_and_scan_bytes + table_bytes, {}});
      launches.back().shape = shape_for(reinterpret_cast<const void*>(kernels.group_rows), kernels.threads_of_grouping,
                                        launches.back().shared_bytes, items, stream_);
    }
    return launches;
  }

  Stream stream_;
  Workspace workspace_;
  std::vector<Layer> layers_;         // sorted by kind
  std::vector<size_t> caller_index_;  // of a layer among the caller's
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

Reader<std::vector<BundleCounts>> queue_bundles(const std::vector<RowsView>& layers, const LabelsView& labels,
                                                const UpdateGrid& grid, bool check_nan, const Stream& stream) {
  const DeviceGuard guard(stream);
  last_work() = Work{};
  return Grouping(layers, grid, &labels, check_nan, nullptr, stream, true).queue();
}

}  // namespace cbkernels::cuda
