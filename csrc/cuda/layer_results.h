// What a launch leaves for the host: numbers of every layer and the label counts of their conflicting bundles, side by
// side, so that one copy usually brings everything.
#pragma once
#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "layer_work.h"
#include "pinned.h"
#include "runtime.h"

namespace cbkernels::cuda {

// The arrays of one layer in a workspace: reserved before it is allocated, placed afterwards.
class WorkMemory {
 public:
  WorkMemory(Workspace& workspace, int64_t num_rows) : num_rows_(num_rows) {
    workspace.align();
    LayerWork unused{};
    lay_out_work(unused, num_rows, [&](auto*& array, int64_t count) {
      offsets_.push_back(workspace.reserve<std::decay_t<decltype(*array)>>(count));
    });
  }
  void place(LayerWork& work, const Workspace& workspace) const {
    size_t next = 0;
    lay_out_work(work, num_rows_, [&](auto*& array, int64_t) {
      array = workspace.at<std::decay_t<decltype(*array)>>(offsets_[next++]);
    });
  }

 private:
  int64_t num_rows_;
  std::vector<size_t> offsets_;
};

class LayerResults {
 public:
  // The first thing in a workspace. What a copy brings along unasked starts at zero, too: nobody reads memory that
  // nothing has written. Who reads later, when the workspace is gone, needs all that there may be.
  void reserve(Workspace& workspace, int64_t num_layers, int64_t num_rows, int64_t num_launches = 1,
               bool reads_later = false) {
    num_layers_ = num_layers;
    out_of_layer_ = num_rows + num_rows / 2;
    workspace.reserve<LaunchState>(num_launches);
    results_ = workspace.reserve<LayerResult>(num_layers);
    counters_ = workspace.reserve<LayerCounters>(num_layers);
    out_ = workspace.reserve<uint32_t>(num_layers * out_of_layer_);
    brought_along_ = reads_later ? workspace.size() : std::max(out_, std::min(workspace.size(), most_brought_along));
    workspace.align();
  }
  // After allocation: clears, and gives layer l its places.
  void clear(const Workspace& workspace, const Stream& stream) const {
    fill_with_zeros(workspace.at<void>(0), brought_along_, stream);
  }
  // Of every launch; out_used of the first one counts for all.
  LaunchState* state(const Workspace& workspace) const { return workspace.at<LaunchState>(0); }
  void give(LayerWork& work, const Workspace& workspace, int64_t l) const {
    work.result = workspace.at<LayerResult>(results_) + l;
    work.counters = workspace.at<LayerCounters>(counters_) + l;
    work.out = workspace.at<uint32_t>(out_);
    // A block that groups a layer has its table in shared memory: the one in global memory is free. The grid takes
    // layer after layer, and what it puts out stays behind the places of the layers that it is done with.
    const bool has_few_rows = work.num_rows <= most_rows_of_a_block();
    work.pending = has_few_rows ? work.slots : work.out + l * out_of_layer_;
  }

  // Waits for the numbers. row_bytes: of every layer, for the count of what was read.
  std::vector<BundleCounts> fetch(const Workspace& workspace, const std::vector<int64_t>& row_bytes,
                                  const Stream& stream) const {
    for (size_t bytes = brought_along_;;) {
      Pinned brought(bytes, stream);
      brought.copy_to_host(workspace.at<void>(0), bytes);
      brought.wait();
      const size_t needed = out_ + static_cast<size_t>(state_in(brought).out_used) * sizeof(uint32_t);
      if (needed <= bytes) return counts_in(brought, row_bytes);
      bytes = needed;
    }
  }
  // Queues the copy.
  Reader<std::vector<BundleCounts>> queue(const Workspace& workspace, const std::vector<int64_t>& row_bytes,
                                          const Stream& stream) const {
    const auto brought = std::make_shared<Pinned>(brought_along_, stream);
    brought->copy_to_host(workspace.at<void>(0), brought_along_);
    return [brought, results = *this, row_bytes, stream, work = last_work()] {
      const DeviceGuard guard(stream);
      last_work() = work;
      brought->wait();
      return results.counts_in(*brought, row_bytes);
    };
  }

 private:
  static constexpr size_t most_brought_along = 1 << 16;

  static LaunchState state_in(const Pinned& brought) {
    LaunchState state;
    std::memcpy(&state, brought.memory(), sizeof state);
    return state;
  }
  std::vector<BundleCounts> counts_in(const Pinned& brought, const std::vector<int64_t>& row_bytes) const {
    std::vector<LayerResult> results(static_cast<size_t>(num_layers_));
    std::memcpy(results.data(), brought.memory() + results_, results.size() * sizeof(LayerResult));
    std::vector<uint32_t> out(static_cast<size_t>(state_in(brought).out_used));
    if (!out.empty()) std::memcpy(out.data(), brought.memory() + out_, out.size() * sizeof(uint32_t));
    std::vector<LayerCounters> counters(results.size());
    std::memcpy(counters.data(), brought.memory() + counters_, counters.size() * sizeof(LayerCounters));
    std::vector<BundleCounts> counts;
    Work& work = last_work();
    for (size_t l = 0; l < results.size(); ++l) {
      const LayerResult& result = results[l];
      counts.push_back(counts_of(result, out.data()));
      work.rows_compared += result.rows_compared;
      work.rows_fingerprinted += result.rows_fingerprinted;
      work.rows_searched += result.rows_searched;
      work.bytes_touched += row_bytes[l] * (result.rows_compared + result.rows_fingerprinted + counters[l].num_scanned);
    }
    return counts;
  }
  static BundleCounts counts_of(const LayerResult& result, const uint32_t* out) {
    BundleCounts counts;
    counts.num_bundles = result.num_bundles;
    counts.num_nan_rows = result.num_nan_rows;
    counts.num_conflicting = result.num_conflicting;
    counts.num_conflicting_rows = result.num_conflicting_rows;
    const uint32_t* const label_counts = out + result.out_begin;
    const uint32_t* const starts = label_counts + result.num_label_counts;
    counts.label_counts.assign(label_counts, label_counts + result.num_label_counts);
    counts.starts.assign(starts, starts + result.num_conflicting);
    counts.starts.push_back(result.num_label_counts);
    for (int64_t b = 0; b < result.num_conflicting; ++b)
      std::sort(counts.label_counts.begin() + counts.starts[b], counts.label_counts.begin() + counts.starts[b + 1]);
    return counts;
  }

  int64_t num_layers_ = 0, out_of_layer_ = 0;
  size_t results_ = 0, counters_ = 0, out_ = 0, brought_along_ = 0;
};

}  // namespace cbkernels::cuda
