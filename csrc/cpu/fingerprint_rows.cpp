// Fingerprints of rows, docs/fingerprint.md step by step. One read of the data, bound by two products per
// pair of words (about 25 GB/s a core).
#include <algorithm>
#include <array>
#include <memory>

#include "../contract.h"
#include "../fingerprint.h"
#include "float_environment.h"
#include "row_blocks.h"
#include "threads.h"

namespace cbkernels::cpu {
namespace {

using fingerprint::num_sums;

struct Keys {
  const fingerprint::Key key;
  const BlockKeys in_blocks;
  std::vector<uint32_t> of_blocks;  // two for each of the four sums
  uint64_t of_compression[4][9];

  explicit Keys(const fingerprint::Key& from) : key(from), in_blocks(from) {
    for (int m = 0; m < 4; ++m)
      for (int i = 0; i < 9; ++i) of_compression[m][i] = fingerprint::compression_key(key, m, i);
  }
  void reach(int64_t num_blocks) {
    for (int64_t k = of_blocks.size(); k < num_blocks * 2 * num_sums; ++k)
      of_blocks.push_back(fingerprint::row_key(key, k / (2 * num_sums), k % (2 * num_sums)));
  }
};

// A stream asks for the same keys again and again: making them takes as long as fingerprinting 60 KB. A call has them
// to itself while it runs: a signal handler may make another one in its thread.
class KeysOfThisCall {
 public:
  KeysOfThisCall(const fingerprint::Key& key, int64_t num_blocks) : keys_(std::move(kept())) {
    if (!keys_ || keys_->key.low != key.low || keys_->key.high != key.high) keys_ = std::make_unique<Keys>(key);
    keys_->reach(num_blocks);
  }
  ~KeysOfThisCall() { kept() = std::move(keys_); }
  KeysOfThisCall(const KeysOfThisCall&) = delete;
  KeysOfThisCall& operator=(const KeysOfThisCall&) = delete;
  const Keys& operator*() const { return *keys_; }

 private:
  static std::unique_ptr<Keys>& kept() {
    thread_local std::unique_ptr<Keys> of_last_call;
    return of_last_call;
  }
  std::unique_ptr<Keys> keys_;
};

// What is read about 16 KiB after this block of a row, where rows lie in memory as they are read; else the block.
const std::byte* expected_after(const RowBlocks& rows, int64_t row, int64_t b, const std::byte* block) {
  constexpr int64_t ahead_bytes = 16 << 10;
  if (!rows.is_direct()) return block;
  const int64_t num_blocks = rows.num_blocks();
  if (num_blocks == 1) {
    row += ahead_bytes / std::max<int64_t>(64, rows.row_bytes());
    b = 0;
  } else {
    for (b += ahead_bytes / block_bytes; b >= num_blocks; b -= num_blocks) ++row;
  }
  return row < rows.num_rows() ? rows.row(row) + rows.block_begin(b) : block;
}

// Rows [begin, end), at most max_rows_at_once.
void fingerprint_together(const RowBlocks& rows, int64_t begin, int64_t end, const Keys& keys, uint64_t* fingerprints,
                          uint8_t* holds_nan) {
  const int count = static_cast<int>(end - begin);
  std::array<std::byte, scratch_block_bytes * max_rows_at_once> scratch;
  std::array<const std::byte*, max_rows_at_once> pieces;
  std::array<int64_t, max_rows_at_once> row;
  std::array<std::array<uint64_t, num_sums>, max_rows_at_once> totals;  // 1 KiB: as long as a row is, perhaps
  for (int r = 0; r < count; ++r) {
    row[r] = begin + r;
    totals[r] = {};
  }
  std::fill(holds_nan + begin, holds_nan + end, 0);
  Pace pace;
  for (int64_t b = 0; b < rows.num_blocks(); ++b) {
    pace.after(count * rows.block_length(b));
    const uint32_t* key = &keys.of_blocks[b * 2 * num_sums];
    rows.blocks(row.data(), count, b, scratch.data(), pieces.data());
    for (int r = 0; r < count; ++r) {
      uint64_t sums[num_sums];
      holds_nan[begin + r] |=
          rows.kernels().block_sums(pieces[r], rows.block_length(b), expected_after(rows, begin + r, b, pieces[r]),
                                    rows.grid(), keys.in_blocks.words, sums);
      for (int s = 0; s < num_sums; ++s) totals[r][s] += fingerprint::row_term(sums[s], key[2 * s], key[2 * s + 1]);
    }
  }
  for (int r = 0; r < count; ++r) {
    uint64_t* out = fingerprints + 2 * (begin + r);
    out[0] = out[1] = 0;
    if (!holds_nan[begin + r]) fingerprint::compress(totals[r].data(), keys.of_compression, out);
  }
}

}  // namespace

void row_fingerprints(const RowsView& view, const UpdateGrid& grid, const fingerprint::Key& key, uint64_t* fingerprints,
                      uint8_t* holds_nan, int num_threads) {
  const FloatEnvironment ieee;
  const RowBlocks rows(view, grid, ColumnOrder::logical);
  const int64_t n = rows.num_rows(), bytes = n * rows.row_bytes();
  last_work() = Work{};
  last_work().bytes_total = last_work().bytes_touched = bytes;
  const KeysOfThisCall keys(key, rows.num_blocks());
  // A row is a stream, or shares its cache lines; of short ones together the fixed costs of a row overlap.
  const int together = rows.is_direct() && rows.num_blocks() > 1 ? 1 : max_rows_at_once;
  const int64_t chunk = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, rows.row_bytes() * together)) * together;
  parallel_for(n, chunk, bytes < (2 << 20) ? 1 : num_threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; i += together)
      fingerprint_together(rows, i, std::min(end, i + together), *keys, fingerprints, holds_nan);
  });
}

void require() {}

}  // namespace cbkernels::cpu
