// The promise, declared once and kept twice: cpu/ and cuda/ (or no_cuda/, which refuses).
// Rows are equal when all their values are equal as IEEE numbers, after the update grid where there is one;
// a NaN equals nothing. Leaders are first rows; ids count upward in the order of the leaders. Integers only:
// no result depends on threads, processors or the order of anything. Inputs are never written.
// Arguments were checked in cbkernels/arrays.py. Errors are exceptions; outputs are then undefined.
#pragma once
#include <array>
#include <functional>
#include <string>
#include <vector>

#include "fingerprint.h"
#include "update_grid.h"
#include "views.h"

namespace cbkernels {

struct Tolerance {  // |a - leader| <= absolute + relative * |leader|, in float64; infinities only near themselves
  double relative, absolute;
};

struct BundleCounts {
  int64_t num_bundles = 0;
  int64_t num_nan_rows = 0;
  int64_t num_conflicting = 0;
  int64_t num_conflicting_rows = 0;
  std::vector<int64_t> label_counts;  // per conflicting bundle, ascending
  std::vector<int64_t> starts{0};     // num_conflicting + 1 offsets into label_counts
};

struct FingerprintBlock {  // a piece of a stream's state
  const uint64_t* fingerprints;  // (num_rows, 2)
  const int64_t* labels;         // (num_rows,)
  int64_t num_rows;
};

// Counts of what a call did, for tests that gate on work instead of time. Of the calling thread's last call.
struct Work {
  int64_t bytes_total = 0;         // the input
  int64_t bytes_touched = 0;       // bytes of rows read, once per pass over them
  int64_t rows_sampled = 0;        // rows hashed at a few places
  int64_t keys_in_tables = 0;      // hashes that could occur twice and were looked up (cpu)
  int64_t rows_compared = 0;       // rows compared with a leader
  int64_t rows_fingerprinted = 0;  // rows that left their group and were hashed to the end
  int64_t rows_searched = 0;       // rows whose hashes collided and that were compared with every leader
  int64_t collisions = 0;          // rows and labels compared in vain with another of the same hash (cpu)
  int64_t comparisons = 0;         // element comparisons (conflict_margin)
  int64_t threads = 1;
  int64_t parallel_regions = 0;
  int64_t launches = 0;  // of kernels (cuda)
};
Work& last_work();

// For tests, of both processors: another key of the routing hashes, or only so many leading bits of every routing hash,
// so that different rows collide. No result depends on them.
void use_routing_key(const fingerprint::Key& key);
void use_routing_bits(int bits);
uint64_t routing_mask();
fingerprint::Key routing_key();  // drawn by the operating system, once a process (routing_keys.h)

namespace cpu {

// Writes (N,) ids; returns the number of bundles. Extra memory: at most 64 bytes a row, twice as much for
// long rows that differ late.
int64_t bundle_ids(const RowsView& rows, const UpdateGrid& grid, const Tolerance* tolerance, int64_t* ids,
                   int num_threads);

// check_nan = false counts only the NaN rows that were noticed on the way.
BundleCounts count_bundles(const RowsView& rows, const LabelsView& labels, const UpdateGrid& grid,
                           const Tolerance* tolerance, bool check_nan, int num_threads);

// docs/fingerprint.md; writes (N, 2) integers and (N,) flags, 0 or 1; flagged rows get (0, 0).
void row_fingerprints(const RowsView& rows, const UpdateGrid& grid, const fingerprint::Key& key, uint64_t* fingerprints,
                      uint8_t* holds_nan, int num_threads);

BundleCounts count_fingerprints(const std::vector<FingerprintBlock>& blocks, int num_threads);

// Smallest L-infinity distance of two rows with different labels, in float64; infinity when there is none.
double conflict_margin(const RowsView& rows, const LabelsView& labels, int num_threads);

void require();  // does nothing: the CPU is always there

}  // namespace cpu

// The same on a GPU. Arrays are device memory; the work is queued on the caller's stream, behind what is there.
// Extra memory is stream-ordered, at most 64 bytes a row. Only what returns numbers waits for them, once.
namespace cuda {

struct Stream {
  int device;
  void* handle;  // cudaStream_t; null is the legacy default stream
};

// Numbers on their way to pinned memory of the host. A call waits for them and for nothing else; any thread may ask, as
// often as it likes, or nobody. Needs neither the stream nor the inputs any more once the work is done.
template <class Numbers>
using Reader = std::function<Numbers()>;

void bundle_ids(const RowsView& rows, const UpdateGrid& grid, const Tolerance* tolerance, int64_t* ids,
                const Stream& stream);

// All layers whose values are read in the same way in one launch; they have the same rows, so the same labels. A
// tolerance takes one launch a layer.
std::vector<BundleCounts> count_bundles(const std::vector<RowsView>& layers, const LabelsView& labels,
                                        const UpdateGrid& grid, const Tolerance* tolerance, bool check_nan,
                                        const Stream& stream);

// The same without a tolerance, and never waits. May be captured in a graph: the reader then gives the numbers of its
// latest replay, and throws before the first. All counts come back at once, at most 6 bytes a row and layer.
Reader<std::vector<BundleCounts>> queue_bundles(const std::vector<RowsView>& layers, const LabelsView& labels,
                                                const UpdateGrid& grid, bool check_nan, const Stream& stream);

// A row that holds a NaN gets (0, 0), which another row gets with probability 2^-128.
void row_fingerprints(const RowsView& rows, const UpdateGrid& grid, const fingerprint::Key& key, uint64_t* fingerprints,
                      const Stream& stream);

// may_hold_nan: rows of (0, 0) are rows with a NaN.
BundleCounts count_fingerprints(const FingerprintBlock& rows, bool may_hold_nan, const Stream& stream);

// Beside 64 bytes a row: at most 48 KiB for every tile of 64 x 64 pairs where there are no more of them than blocks
// that can be resident (264 on an H100, so at most 13 MB).
double conflict_margin(const RowsView& rows, const LabelsView& labels, const Stream& stream);
Reader<double> queue_margin(const RowsView& rows, const LabelsView& labels, const Stream& stream);  // never waits

void wait_for(const Stream& stream, void* producer);  // queues: nothing more on stream before what producer holds now

int device_of(
    const void* memory);  // ordinal of the GPU that this is memory of; throws std::invalid_argument if of none

bool is_built();  // this build has kernels; whether they can run here is asked of missing_reason
std::string build_reason();  // why not; empty when it has
std::string architectures();  // what the kernels were compiled for
std::string missing_reason();  // empty when a GPU can be used here; asks the driver
void require();  // throws std::invalid_argument with the reason

// For tests: so many blocks (at most what fits), so many threads in each, and how many rows of a layer one block may
// group. Zeros are the normal choice.
void use_launch_shape(int blocks, int threads, int64_t rows_of_a_block);

}  // namespace cuda

}  // namespace cbkernels
