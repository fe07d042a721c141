// The kernels that read whole rows, as a table: two for every kind of element, and two more where rows are read in
// words of 4 bytes. Each kind is compiled on its own (row_kernels_*.cu), so that a launch loads no code and takes no
// registers of another kind. Read next: group_rows.h and sum_rows.h (the kernels), row_kernels_loops.h (what one warp
// does with rows).
#pragma once
#include "../fingerprint.h"
#include "elements.h"
#include "layer_work.h"

namespace cbkernels::cuda {

constexpr int lanes_per_sample = 8;  // of 16 bytes each

struct SamplePlaces {  // of a row; what a place holds is read by lanes side by side
  int32_t count;
  int64_t first_chunk, chunks_between;
};

struct Layer {
  Elements elements;
  LayerWork work;
  int64_t* ids;  // may be null
  SamplePlaces places;
  bool sample_is_whole_row;  // every value is in the sample
  bool has_few_rows;  // a block groups it, its table in shared memory
  int64_t chunks_per_span, num_spans;  // of a comparison
  int64_t blocks_per_hash_span, num_hash_spans;
};

struct GroupingLaunch {  // of layers of one kind
  const Layer* layers;  // null: the one in the arguments
  int32_t num_layers;
  LabelsView labels;
  bool scan_for_nan;
  fingerprint::Key routing_key;
  uint64_t routing_mask;
  LaunchState* state;
  unsigned long long* out_used;  // of all launches of a call, one behind the other
  uint64_t* of_block;
};

struct RowKernels {
  // Leaders of all rows, then ids and counts. Cooperative.
  void (*group_rows)(GroupingLaunch launch, Layer only);
  int threads_of_grouping;  // of a block
  // Adds the row sums of the fingerprint to (N, 4) row_sums and flags to holds_nan.
  void (*sum_rows)(Elements e, fingerprint::Key key, int64_t blocks_per_span, int64_t num_spans, uint64_t* row_sums,
                   uint8_t* holds_nan);
};
const RowKernels& row_kernels(const Elements& e);  // one object for all that one launch can read

struct KernelsOfKind { RowKernels in_chunks, in_words; };
extern const KernelsOfKind bits_kernels, float32_kernels, float64_kernels, packed16_kernels, packed8_kernels;
extern const KernelsOfKind grid32_kernels, grid32_rounded_kernels, grid16_kernels, grid16_rounded_kernels;
extern const RowKernels any_kernels;

}  // namespace cbkernels::cuda
