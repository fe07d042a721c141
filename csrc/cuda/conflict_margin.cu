// Smallest L-infinity distance of two rows with different labels: a first bound from neighbours (margin_neighbours.h),
// then all pairs (margin_pairs.h), in three to six launches. This file chooses how values are compared, cuts the work
// and launches it.
#include <cstring>
#include <limits>
#include <memory>
#include <type_traits>

#include "margin_neighbours.h"
#include "margin_pairs.h"
#include "pinned.h"

namespace cbkernels::cuda {
namespace margin {
namespace {

template <class Kind>  // 64 bits are 64 bits where only their order counts
using PatternsOf = std::conditional_t<Kind::is_rounded, Floats, Doubles>;

template <class Kernel>
LaunchShape shape_of(Kernel kernel, int64_t warps, const Stream& stream) {
  return shape_for(reinterpret_cast<const void*>(kernel), threads_of_a_block, 0, warps, stream);
}
LaunchShape shape_of_tiles(const void* kernel, int64_t blocks, const Stream& stream) {
  return shape_for(kernel, threads_of_a_block, shared_bytes, blocks * (threads_of_a_block / warp_size), stream, true);
}

constexpr int64_t all_resident = int64_t{1} << 40;

template <class Exact, class Kind>
Cut cut_for(const RowLayout& rows, const Stream& stream) {
  const LaunchShape warps = shape_of(try_neighbours_kernel<Exact>, all_resident, stream);
  const LaunchShape blocks =
      shape_of_tiles(reinterpret_cast<const void*>(try_all_pairs_kernel<Kind, true>), all_resident, stream);
  return cut_of(rows.num_rows, rows.num_columns, int64_t{1} * warps.blocks * warps.threads / warp_size, blocks.blocks);
}

template <class Kind>
void search_cut_tiles(const Problem& p, const Stream& stream) {
  const auto kernel = try_all_pairs_kernel<Kind, true>;
  const int64_t pairs = p.num_tiles * pairs_of_a_tile;
  launch(kernel, shape_of_tiles(reinterpret_cast<const void*>(kernel), p.num_tiles * p.num_spans, stream), shared_bytes,
         stream, false, p);
  const auto launch_warps = [&](auto warps_kernel, int64_t warps) {
    launch(warps_kernel, shape_of(warps_kernel, warps, stream), 0, stream, false, p);
  };
  launch_warps(take_smallest_kernel<PatternsOf<Kind>>, pairs / warp_size);
  if (!Kind::is_rounded || p.is_exact) return;
  launch_warps(compare_smallest_kernel, pairs / warp_size * p.num_spans);
  launch_warps(take_smallest_exactly_kernel, pairs / warp_size);
}

template <class Exact, class Kind>
std::shared_ptr<Pinned> search(Problem p, const Stream& stream) {
  static_cast<Cut&>(p) = cut_for<Exact, Kind>(p.rows, stream);
  const int64_t num_rows = p.rows.num_rows, maxima = p.num_spans > 1 ? p.num_tiles * pairs_of_a_tile : 0;
  const bool compares_again = Kind::is_rounded && !p.is_exact;
  Workspace workspace(stream);
  const size_t best = workspace.reserve<Best>(1), worst_of_row = workspace.reserve<Bits>(num_rows);
  const size_t distances = workspace.reserve<Bits>(!Kind::is_rounded || compares_again ? maxima : 0);
  const size_t rounded = workspace.reserve<uint32_t>(Kind::is_rounded ? maxima : 0);
  const size_t neighbours = workspace.reserve<int32_t>(num_rows), left_out = workspace.reserve<uint8_t>(num_rows);
  workspace.allocate();
  p.best = workspace.at<Best>(best);
  p.worst_of_row = workspace.at<Bits>(worst_of_row);
  p.distances = workspace.at<Bits>(distances);
  p.rounded = workspace.at<uint32_t>(rounded);
  p.neighbours = workspace.at<int32_t>(neighbours);
  p.is_left_out = workspace.at<uint8_t>(left_out);
  fill_with_zeros(workspace.at<void>(0), workspace.size(), stream);
  launch(try_neighbours_kernel<Exact>, shape_of(try_neighbours_kernel<Exact>, num_rows * p.num_row_spans, stream), 0,
         stream, false, p);
  const auto take_best = take_best_neighbours_kernel<PatternsOf<Kind>>;
  launch(take_best, shape_of(take_best, parts(num_rows, warp_size), stream), 0, stream, false, p);
  if (maxima > 0) {
    search_cut_tiles<Kind>(p, stream);
  } else {
    const auto kernel = try_all_pairs_kernel<Kind, false>;
    launch(kernel, shape_of_tiles(reinterpret_cast<const void*>(kernel), p.num_tiles, stream), shared_bytes, stream,
           false, p);
  }
  const auto found = std::make_shared<Pinned>(sizeof(Best), stream);
  found->copy_to_host(p.best, sizeof(Best));
  return found;
}

bool is_long(DType dtype) { return dtype == DType::int64 || dtype == DType::uint64; }
// Differences that need no second look.
bool is_exact_in_float32(DType dtype) {
  return fits_float32(dtype) && (!is_float(dtype) || dtype == DType::float8_e4m3fn);
}
bool tiles_take_chunks(const RowLayout& rows) {
  switch (rows.dtype) {
    case DType::float64:
    case DType::float32:
    case DType::float16:
    case DType::bfloat16: return rows.is_in_chunks;
    default: return false;
  }
}

template <class To, class From>
To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

double margin_of(const Best& found, DType dtype) {
  if (!found.has_pair) return std::numeric_limits<double>::infinity();
  if (is_long(dtype)) return static_cast<double>(found.distance);
  const uint32_t rounded = found.rounded - 1;
  // In patterns: the caller may have made this thread take subnormals for zero. No exact difference is one.
  return fits_float32(dtype) && (is_exact_in_float32(dtype) || rounded == 0)
             ? static_cast<double>(same_bits<float>(rounded))
             : same_bits<double>(found.distance);
}

Reader<double> queue(const RowsView& rows, const LabelsView& labels, const Stream& stream) {
  last_work() = Work{};
  Problem p{};
  p.rows = lay_out(rows, ColumnOrder::any);
  p.labels = labels;
  p.takes_chunks = tiles_take_chunks(p.rows);
  p.is_exact = is_exact_in_float32(rows.dtype);
  const auto found = is_long(rows.dtype)        ? search<Integers, Integers>(p, stream)
                     : fits_float32(rows.dtype) ? search<Doubles, Floats>(p, stream)
                                                : search<Doubles, Doubles>(p, stream);
  return [found, dtype = rows.dtype, work = last_work()] {
    last_work() = work;
    found->wait();
    Best best;
    std::memcpy(&best, found->memory(), sizeof best);
    return margin_of(best, dtype);
  };
}

}  // namespace
}  // namespace margin

double conflict_margin(const RowsView& rows, const LabelsView& labels, const Stream& stream) {
  const DeviceGuard guard(stream);
  refuse_capture(stream);
  return margin::queue(rows, labels, stream)();
}
Reader<double> queue_margin(const RowsView& rows, const LabelsView& labels, const Stream& stream) {
  const DeviceGuard guard(stream);
  return [read = margin::queue(rows, labels, stream), stream] {
    const DeviceGuard there(stream);
    return read();
  };
}

}  // namespace cbkernels::cuda
