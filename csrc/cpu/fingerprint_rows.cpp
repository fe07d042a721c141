// Fingerprints of rows, docs/fingerprint.md step by step. One read of the data, bound by four products per
// pair of words (about 24 GB/s a core).
#include <array>

#include "../contract.h"
#include "../fingerprint.h"
#include "float_environment.h"
#include "row_blocks.h"
#include "threads.h"

namespace cbkernels::cpu {
namespace {

using fingerprint::num_sums;

struct CompressionKeys {
  uint64_t keys[4][9];
  CompressionKeys() {
    for (int m = 0; m < 4; ++m)
      for (int i = 0; i < 9; ++i) keys[m][i] = fingerprint::compression_key(m, i);
  }
};

void fingerprint_of(const RowBlocks& rows, int64_t i, const std::vector<uint32_t>& row_keys, std::byte* scratch,
                    const CompressionKeys& compression, uint64_t out[2], uint8_t& holds_nan) {
  uint64_t totals[num_sums] = {0, 0, 0, 0};
  bool nan = false;
  for (int64_t b = 0; b < rows.num_blocks() && !nan; ++b) {
    uint64_t sums[num_sums];
    nan = rows.kernels().block_sums(rows.block(i, b, scratch), rows.block_length(b), rows.grid(), sums);
    const uint32_t* keys = &row_keys[b * 2 * num_sums];
    for (int s = 0; s < num_sums; ++s) totals[s] += fingerprint::row_term(sums[s], keys[2 * s], keys[2 * s + 1]);
  }
  holds_nan = nan;
  out[0] = out[1] = 0;
  if (!nan) fingerprint::compress(totals, compression.keys, out);
}

}  // namespace

void row_fingerprints(const RowsView& view, const UpdateGrid& grid, uint64_t* fingerprints, uint8_t* holds_nan,
                      int num_threads) {
  const FloatEnvironment ieee;
  static const CompressionKeys compression;
  const RowBlocks rows(view, grid, ColumnOrder::logical);
  const int64_t n = rows.num_rows(), bytes = n * rows.row_bytes();
  last_work() = Work{};
  last_work().bytes_total = last_work().bytes_touched = bytes;
  std::vector<uint32_t> row_keys(rows.num_blocks() * 2 * num_sums);
  for (int64_t b = 0; b < rows.num_blocks(); ++b)
    for (int i = 0; i < 2 * num_sums; ++i) row_keys[b * 2 * num_sums + i] = fingerprint::row_key(b, i);
  const int64_t chunk = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, rows.row_bytes()));
  parallel_for(n, chunk, bytes < (2 << 20) ? 1 : num_threads, [&](int64_t begin, int64_t end) {
    std::array<std::byte, block_bytes> scratch;
    for (int64_t i = begin; i < end; ++i)
      fingerprint_of(rows, i, row_keys, scratch.data(), compression, fingerprints + 2 * i, holds_nan[i]);
  });
}

void require() {}

}  // namespace cbkernels::cpu
