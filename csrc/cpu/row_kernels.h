// The inner loops over rows, as a table of functions for one kind of element and one instruction set.
// They see contiguous pieces of rows (at most 4 KiB, except where said), never strides or types. Read next:
// row_kernels_loops.h (the loops), group_rows.cpp (who calls them).
#pragma once
#include <cstddef>
#include <cstdint>

#include "../fingerprint.h"
#include "distance_kernels.h"
#include "elements.h"
#include "staging.h"

namespace cbkernels {

constexpr int64_t block_bytes = 4096;  // = 1024 words of the fingerprint
constexpr int max_rows_at_once = 32;
// Of copies of blocks in scratch space: 32 of them 4 KiB apart would share eight places in the L1 cache.
constexpr int64_t scratch_block_bytes = block_bytes + 64;

// A slot of a LeaderTable: a key and the leader that has it, free where `leader` is negative.
struct LeaderSlot {
  uint64_t key;
  int64_t leader;
};
// By the high bits of the key: the low ones may have chosen the table. Static: see simd.h.
static inline uint64_t first_slot(uint64_t key, uint64_t num_slots) {
  return static_cast<uint64_t>((static_cast<unsigned __int128>(key) * num_slots) >> 64);
}
static inline uint64_t next_slot(uint64_t slot, uint64_t num_slots) { return slot + 1 == num_slots ? 0 : slot + 1; }

// Leaders that can be found by the routing hash of one piece of a row, at most 64 bytes long.
struct KnownLeaders {
  const LeaderSlot* slots;
  uint64_t num_slots;
  int64_t sample_from, sample_bytes;
  uint64_t key_mask;
  const std::byte* rows;  // row 0
};

// Who leads each row of a band, for kernels that walk columns.
struct RowLeaders {
  const int32_t* of_row;   // itself where it follows none
  const uint8_t* is_same;  // of every 64 rows: one row leads them all
};
constexpr int64_t rows_of_a_flag = 64;
constexpr int64_t run_bytes = 32;  // of a column that is a run of values, not one: a vector

struct RowKernels {
  // Bit r is set when rows[r] differs from the leader somewhere in num_bytes <= 4 KiB; num_rows <= 32.
  uint32_t (*differing)(const std::byte* const* rows, int num_rows, const std::byte* leader, int64_t num_bytes,
                        const UpdateGrid& grid);
  // How many of `count` rows, `stride` bytes apart, equal the leader before the first that does not.
  int64_t (*equal_run)(const std::byte* first, int64_t stride, int64_t count, const std::byte* leader,
                       int64_t num_bytes, const UpdateGrid& grid);
  // How many of `count` rows equal the leader that is known for their sample, before the first that does not; writes
  // their leaders. `stride` is that of the leaders, too.
  int64_t (*known_run)(const std::byte* first, int64_t stride, int64_t count, const KnownLeaders& known,
                       int64_t num_bytes, const UpdateGrid& grid, const uint32_t* block_keys, int64_t* leader);
  // Bit r is set when rows[r] equals leaders[r]; num_rows <= 32. As many bytes will be expected `ahead` bytes behind
  // each row later, unless that is 0: they are fetched meanwhile.
  uint32_t (*equal_pairs)(const std::byte* const* rows, const std::byte* const* leaders, int num_rows,
                          int64_t num_bytes, int64_t ahead, const UpdateGrid& grid);
  // Of columns whose rows lie side by side, `width` bytes of each, a value or run_bytes: rows [first, first + count),
  // first a multiple of rows_of_a_flag, against their leaders. Bits are set in found, `width` bytes a row, where they
  // differ; the last 32 bytes may end behind it.
  void (*compare_columns)(const std::byte* columns, int64_t column_stride, int64_t num_columns,
                          const RowLeaders& leaders, int64_t first, int64_t count, int64_t width,
                          const UpdateGrid& grid, std::byte* found);
  // 64-bit routing hash of a piece of at most 4 KiB under the keys of its blocks, chained on `key`; two pieces that
  // differ share one with probability about 2^-32. Sets *nan when the piece holds one, else leaves it. As many bytes
  // will be expected at `expected` later: they are fetched meanwhile. The piece itself stands for nothing.
  uint64_t (*route)(const std::byte* piece, int64_t num_bytes, const std::byte* expected, const UpdateGrid& grid,
                    const uint32_t* block_keys, uint64_t key, bool* nan);
  // The same for `count` rows at once, `stride` bytes apart, from the pieces at the given offsets, each
  // num_bytes <= 64 long; writes keys and flags. The rows behind them are expected in the next call.
  void (*route_samples)(const std::byte* first, int64_t stride, int64_t count, const int64_t* offsets, int num_offsets,
                        int64_t num_bytes, const UpdateGrid& grid, const uint32_t* block_keys, uint64_t* keys,
                        uint8_t* nan);
  // Block sums of the fingerprint; says whether the block holds a NaN. `expected` as for `route`.
  bool (*block_sums)(const std::byte* block, int64_t num_bytes, const std::byte* expected, const UpdateGrid& grid,
                     const uint32_t* block_keys, uint64_t sums[fingerprint::num_sums]);
  // Any length. Does it hold a NaN?
  bool (*holds_nan)(const std::byte* piece, int64_t num_bytes, const UpdateGrid& grid);
  // Any length, for the benchmarks: reads memory once, from its begin to its end.
  uint64_t (*read)(const std::byte* from, int64_t num_bytes);
};

// One instruction set: what it is called and what it offers.
struct InstructionSet {
  const char* name;
  const RowKernels& (*row_kernels)(Element element);
  Stagers (*stagers)(DType from, Staged to);
  DistanceKernels<float> float_distances;
  DistanceKernels<double> double_distances;
};
extern const InstructionSet portable_set;
#if defined(CBKERNELS_IS_X86_64)
extern const InstructionSet avx2_set, avx512_set;
#endif

}  // namespace cbkernels
