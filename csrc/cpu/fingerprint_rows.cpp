// Fingerprints of rows, docs/fingerprint.md step by step. One read of the data, bound by four products per
// pair of words (about 24 GB/s a core).
#include <algorithm>
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

struct Keys {
  std::vector<uint32_t> of_blocks;  // two for each of the four sums
  CompressionKeys compression;
  explicit Keys(int64_t num_blocks) : of_blocks(num_blocks * 2 * num_sums) {
    for (int64_t b = 0; b < num_blocks; ++b)
      for (int i = 0; i < 2 * num_sums; ++i) of_blocks[b * 2 * num_sums + i] = fingerprint::row_key(b, i);
  }
};

// Rows [begin, end), at most max_rows_at_once.
void fingerprint_together(const RowBlocks& rows, int64_t begin, int64_t end, const Keys& keys, uint64_t* fingerprints,
                          uint8_t* holds_nan) {
  const int count = static_cast<int>(end - begin);
  std::array<std::byte, scratch_block_bytes * max_rows_at_once> scratch;
  std::array<const std::byte*, max_rows_at_once> pieces;
  std::array<int64_t, max_rows_at_once> row;
  std::array<std::array<uint64_t, num_sums>, max_rows_at_once> totals{};
  for (int r = 0; r < count; ++r) row[r] = begin + r;
  std::fill(holds_nan + begin, holds_nan + end, 0);
  Pace pace;
  for (int64_t b = 0; b < rows.num_blocks(); ++b) {
    pace.after(count * rows.block_length(b));
    const uint32_t* key = &keys.of_blocks[b * 2 * num_sums];
    rows.blocks(row.data(), count, b, scratch.data(), pieces.data());
    for (int r = 0; r < count; ++r) {
      uint64_t sums[num_sums];
      holds_nan[begin + r] |= rows.kernels().block_sums(pieces[r], rows.block_length(b), rows.grid(), sums);
      for (int s = 0; s < num_sums; ++s) totals[r][s] += fingerprint::row_term(sums[s], key[2 * s], key[2 * s + 1]);
    }
  }
  for (int r = 0; r < count; ++r) {
    uint64_t* out = fingerprints + 2 * (begin + r);
    out[0] = out[1] = 0;
    if (!holds_nan[begin + r]) fingerprint::compress(totals[r].data(), keys.compression.keys, out);
  }
}

}  // namespace

void row_fingerprints(const RowsView& view, const UpdateGrid& grid, uint64_t* fingerprints, uint8_t* holds_nan,
                      int num_threads) {
  const FloatEnvironment ieee;
  const RowBlocks rows(view, grid, ColumnOrder::logical);
  const int64_t n = rows.num_rows(), bytes = n * rows.row_bytes();
  last_work() = Work{};
  last_work().bytes_total = last_work().bytes_touched = bytes;
  const Keys keys(rows.num_blocks());
  const int together = rows.is_direct() ? 1 : max_rows_at_once;  // a row is a stream, or shares its cache lines
  const int64_t chunk = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, rows.row_bytes() * together)) * together;
  parallel_for(n, chunk, bytes < (2 << 20) ? 1 : num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += together)
      fingerprint_together(rows, i, std::min(end, i + together), keys, fingerprints, holds_nan);
  });
}

void require() {}

}  // namespace cbkernels::cpu
