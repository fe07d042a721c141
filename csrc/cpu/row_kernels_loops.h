// The loops behind row_kernels.h, once for all kinds of elements. Included by one file per instruction set,
// which defines CBKERNELS_INSTRUCTION_SET as its namespace. Cost: memory bound except block_sums, which is
// bound by two products per pair of words.
#include "row_kernels.h"

namespace cbkernels::CBKERNELS_INSTRUCTION_SET {
namespace {

using namespace simd;
using fingerprint::num_encoded, fingerprint::num_sums, fingerprint::num_symbols;
constexpr int64_t unit_bytes = fingerprint::unit_words * sizeof(uint32_t);

// The last 1 .. 31 bytes of a row, followed by zeros.
inline Words load_tail(const std::byte* from, int64_t num_bytes) {
  alignas(32) std::byte padded[vector_bytes] = {};
  memcpy(padded, from, static_cast<size_t>(num_bytes));
  return load(padded);
}
inline Words tail_mask(int64_t num_bytes) {
  alignas(32) static const uint8_t ones_then_zeros[64] = {255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                                          255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255,
                                                          255, 255, 255, 255, 255, 255, 255, 255, 255, 255};
  return load(reinterpret_cast<const std::byte*>(ones_then_zeros) + 32 - num_bytes);
}

// All differences of R rows with the leader, without leaving early: a block is only 4 KiB.
template <class E, int R>
uint32_t differing_rows(const UpdateGrid& grid, const std::byte* const* rows, const std::byte* leader,
                        int64_t num_bytes) {
  if constexpr (!__is_same(E, typename E::Plain)) {
    if (!differing_rows<typename E::Plain, R>(grid, rows, leader, num_bytes)) return 0;
  }
  const E element(grid);
  const std::byte* row[R];
  Words found[R];
  for (int r = 0; r < R; ++r) {
    row[r] = rows[r];
    found[r] = Words{};
  }
  int64_t at = 0;
  for (; at + 2 * vector_bytes <= num_bytes; at += 2 * vector_bytes) {  // all of a cache line, before eight others come
    const Words expected = element.prepare(load(leader + at)), next = element.prepare(load(leader + at + vector_bytes));
    for (int r = 0; r < R; ++r)
      found[r] |= element.differ(load(row[r] + at), expected) | element.differ(load(row[r] + at + vector_bytes), next);
  }
  for (; at + vector_bytes <= num_bytes; at += vector_bytes) {
    const Words expected = element.prepare(load(leader + at));
    for (int r = 0; r < R; ++r) found[r] |= element.differ(load(row[r] + at), expected);
  }
  if (at < num_bytes) {
    const Words mask = tail_mask(num_bytes - at);
    const Words expected = element.prepare(load_tail(leader + at, num_bytes - at));
    for (int r = 0; r < R; ++r) found[r] |= element.differ(load_tail(row[r] + at, num_bytes - at), expected) & mask;
  }
  uint32_t rows_that_differ = 0;
  for (int r = 0; r < R; ++r) rows_that_differ |= static_cast<uint32_t>(any(found[r])) << r;
  return rows_that_differ;
}

template <class E>
uint32_t differing(const std::byte* const* rows, int num_rows, const std::byte* leader, int64_t num_bytes,
                   const UpdateGrid& grid) {
  uint32_t found = 0;
  int r = 0;
  for (; r + 8 <= num_rows; r += 8) found |= differing_rows<E, 8>(grid, rows + r, leader, num_bytes) << r;
  for (; r + 4 <= num_rows; r += 4) found |= differing_rows<E, 4>(grid, rows + r, leader, num_bytes) << r;
  for (; r + 2 <= num_rows; r += 2) found |= differing_rows<E, 2>(grid, rows + r, leader, num_bytes) << r;
  if (r < num_rows) found |= differing_rows<E, 1>(grid, rows + r, leader, num_bytes) << r;
  return found;
}

template <class E>
inline bool equals(const E& element, const std::byte* row, const std::byte* leader, int64_t num_bytes) {
  if constexpr (!__is_same(E, typename E::Plain)) {
    if (equals(typename E::Plain(UpdateGrid{}), row, leader, num_bytes)) return true;
  }
  int64_t at = 0;
  for (; at + 4 * vector_bytes <= num_bytes; at += 4 * vector_bytes) {
    Words found{};
    for (int u = 0; u < 4; ++u) {
      const int64_t here = at + u * vector_bytes;
      found |= element.differ(load(row + here), element.prepare(load(leader + here)));
    }
    if (any(found)) return false;
  }
  Words found{};
  for (; at + vector_bytes <= num_bytes; at += vector_bytes)
    found |= element.differ(load(row + at), element.prepare(load(leader + at)));
  if (at < num_bytes) {
    if (num_bytes >= vector_bytes) {  // a whole vector that overlaps the one before
      at = num_bytes - vector_bytes;
      found |= element.differ(load(row + at), element.prepare(load(leader + at)));
    } else {
      const Words expected = element.prepare(load_tail(leader, num_bytes));
      found |= element.differ(load_tail(row, num_bytes), expected) & tail_mask(num_bytes);
    }
  }
  return !any(found);
}

// Memory that is read as several streams, 16 KiB apart: some cores read them a third faster than one.
constexpr int64_t stream_bytes = 16 << 10;

inline int64_t rows_of_a_stream(int64_t stride) {
  const int64_t distance = stride < 0 ? -stride : stride;
  return distance == 0 || distance > block_bytes ? 0 : stream_bytes / distance;
}

template <class E, int num_streams>
bool streams_equal(const E& element, const std::byte* first, int64_t stride, int64_t rows, const std::byte* leader,
                   int64_t num_bytes, const UpdateGrid& grid) {
  constexpr int64_t longest_at_once = 512;  // bytes; of longer ones the streams take turns line by line
  for (int64_t i = 0; i < rows; ++i) {
    const std::byte* row[num_streams];
    for (int s = 0; s < num_streams; ++s) row[s] = first + (s * rows + i) * stride;
    if (num_bytes > longest_at_once) {
      if (differing_rows<E, num_streams>(grid, row, leader, num_bytes)) return false;
    } else {
      for (int s = 0; s < num_streams; ++s)
        if (!equals(element, row[s], leader, num_bytes)) return false;
    }
  }
  return true;
}

template <class E>
int64_t equal_run(const std::byte* first, int64_t stride, int64_t count, const std::byte* leader, int64_t num_bytes,
                  const UpdateGrid& grid) {
  constexpr int num_streams = 4;
  const E element(grid);
  const int64_t rows = rows_of_a_stream(stride);
  int64_t i = 0;
  while (i < count) {
    const std::byte* next = first + i * stride;
    const bool tries = rows > 0 && i >= rows && count - i >= num_streams * rows;  // one stream was equal
    if (tries && streams_equal<E, num_streams>(element, next, stride, rows, leader, num_bytes, grid)) {
      i += num_streams * rows;
      continue;
    }
    // where a try failed, a row that differs is near
    for (const int64_t stop = rows > 0 && !tries && i + rows < count ? i + rows : count; i < stop; ++i)
      if (!equals(element, first + i * stride, leader, num_bytes)) return i;
  }
  return count;
}

template <class E>
uint32_t equal_pairs(const std::byte* const* rows, const std::byte* const* leaders, int num_rows, int64_t num_bytes,
                     int64_t ahead, const UpdateGrid& grid) {
  const E element(grid);
  uint32_t equal = 0;
  for (int r = 0; r < num_rows; ++r) {
    for (int64_t at = 0; ahead != 0 && at < num_bytes; at += 2 * vector_bytes) ask_for(rows[r] + ahead + at);
    equal |= static_cast<uint32_t>(equals(element, rows[r], leaders[r], num_bytes)) << r;
  }
  return equal;
}

template <class E>
inline Words differ(const E& element, Words values, Words leaders) {
  if constexpr (!__is_same(E, typename E::Plain)) {
    const typename E::Plain plain{UpdateGrid{}};
    if (!any(plain.differ(values, plain.prepare(leaders)))) return Words{};
  }
  return element.differ(values, element.prepare(leaders));
}

// Several columns together are as many streams for the memory, and what was found is looked at once.
template <class Lane, int num_columns, class E>
void compare_lanes(const E& element, const std::byte* columns, int64_t column_stride, const RowLeaders& leaders,
                   int64_t first, int64_t count, std::byte* found) {
  constexpr int64_t size = sizeof(Lane), lanes = vector_bytes / size;
  const auto leaders_at = [&](const int32_t* places, Words(&expected)[num_columns]) {
    for (int c = 0; c < num_columns; ++c) expected[c] = gather<Lane>(columns + c * column_stride, places);
  };
  const auto mark = [&](int64_t i, const Words(&expected)[num_columns]) {
    Words differing = load(found + i * size);
    for (int c = 0; c < num_columns; ++c)
      differing |= differ(element, load(columns + c * column_stride + (first + i) * size), expected[c]);
    memcpy(found + i * size, &differing, sizeof differing);
  };
  int32_t places[lanes];
  Words expected[num_columns];
  for (int64_t begin = 0; begin < count; begin += rows_of_a_flag) {
    const int64_t end = begin + rows_of_a_flag < count ? begin + rows_of_a_flag : count;
    const int32_t* leader = leaders.of_row + first;
    int64_t i = begin;
    if (leaders.is_same[(first + begin) / rows_of_a_flag]) {
      for (int32_t& place : places) place = leader[begin];
      leaders_at(places, expected);
      for (; i + lanes <= end; i += lanes) mark(i, expected);
    } else {
      for (; i + lanes <= end; i += lanes) {
        leaders_at(leader + i, expected);
        mark(i, expected);
      }
    }
    if (i == end) continue;
    for (int64_t k = 0; k < lanes; ++k) places[k] = leader[i + k < end ? i + k : i];
    leaders_at(places, expected);
    const int64_t left = (end - i) * size;
    Words differing{};
    for (int c = 0; c < num_columns; ++c)
      differing |= differ(element, load_tail(columns + c * column_stride + (first + i) * size, left), expected[c]);
    differing = load(found + i * size) | (differing & tail_mask(left));
    memcpy(found + i * size, &differing, sizeof differing);
  }
}

template <class E>
void compare_columns(const std::byte* columns, int64_t column_stride, int64_t num_columns, const RowLeaders& leaders,
                     int64_t first, int64_t count, int64_t width, const UpdateGrid& grid, std::byte* found) {
  const E element(grid);
  const int64_t distance = column_stride < 0 ? -column_stride : column_stride;
  const int64_t apart = distance == 0 ? 1 : (stream_bytes + distance - 1) / distance;  // columns
  const auto compare = [&](auto lane) {
    using Lane = decltype(lane);
    int64_t c = 0;
    for (; c + 4 * apart <= num_columns; c += 4 * apart)
      for (int64_t k = c; k < c + apart; ++k)
        compare_lanes<Lane, 4>(element, columns + k * column_stride, apart * column_stride, leaders, first, count,
                               found);
    for (; c < num_columns; ++c)
      compare_lanes<Lane, 1>(element, columns + c * column_stride, column_stride, leaders, first, count, found);
  };
  static_assert(run_bytes == vector_bytes);
  if (width == run_bytes) return compare(Words{});
  constexpr int size = E::value_bytes;  // a kind that has one is compiled for that one alone
  if constexpr (size == 8)
    compare(uint64_t{});
  else if constexpr (size == 4)
    compare(uint32_t{});
  else if constexpr (size == 2)
    compare(uint16_t{});
  else if constexpr (size == 1)
    compare(uint8_t{});
  else
    switch (width) {
      case 8: return compare(uint64_t{});
      case 4: return compare(uint32_t{});
      case 2: return compare(uint16_t{});
      default: return compare(uint8_t{});
    }
}

// The words from here on, of which `num_bytes` are left: zeros stand behind them.
template <class E>
inline Words canonical_or_zeros(const E& element, const std::byte* from, int64_t num_bytes, Words& nan) {
  if (num_bytes >= vector_bytes) return element.canonical(load(from), nan);
  if (num_bytes <= 0) return Words{};
  const Words mask = tail_mask(num_bytes);
  Words nan_in_tail{};
  const Words words = element.canonical(load_tail(from, num_bytes), nan_in_tail) & mask;
  nan |= nan_in_tail & mask;
  return words;
}

// NH sum of one piece, zero words behind it up to a multiple of sixteen; adds lanes with NaN.
template <class E>
inline Longs pair_sum(const E& element, const std::byte* piece, int64_t num_bytes, const std::byte* expected,
                      const uint32_t* block_keys, Words& nan) {
  const std::byte* keys = reinterpret_cast<const std::byte*>(block_keys);
  Longs total{};
  int64_t at = 0;
  constexpr int together = 4;  // vectors
  for (; at + together * vector_bytes <= num_bytes; at += together * vector_bytes) {
    for (int64_t ahead = at; ahead < at + together * vector_bytes; ahead += 64) ask_for(expected + ahead);
    Words words[together];
    for (int i = 0; i < together; i += 2)
      load_canonical_pair(element, piece + at + i * vector_bytes, vector_bytes, words + i, nan);
    for (int i = 0; i < together; ++i) total += multiply_pairs(words[i] + load(keys + at + i * vector_bytes));
  }
  const int64_t end = (num_bytes + unit_bytes - 1) / unit_bytes * unit_bytes;
  for (; at < end; at += vector_bytes)
    total += multiply_pairs(canonical_or_zeros(element, piece + at, num_bytes - at, nan) + load(keys + at));
  return total;
}

template <class E>
uint64_t route(const std::byte* piece, int64_t num_bytes, const std::byte* expected, const UpdateGrid& grid,
               const uint32_t* block_keys, uint64_t key, bool* nan) {
  Words nan_lanes{};
  const Longs total = pair_sum(E(grid), piece, num_bytes, expected, block_keys, nan_lanes);
  if (any(nan_lanes)) *nan = true;
  return fold(total, key);
}

// The routing hash of a sample of at most 64 bytes, chained on `key`.
template <class E>
inline uint64_t sample_key(const E& element, const std::byte* sample, int64_t num_bytes, const uint32_t* block_keys,
                           uint64_t key, Words& nan) {
  if (num_bytes != 2 * vector_bytes) return fold(pair_sum(element, sample, num_bytes, sample, block_keys, nan), key);
  const std::byte* keys = reinterpret_cast<const std::byte*>(block_keys);
  const Words a = element.canonical(load(sample), nan);
  const Words b = element.canonical(load(sample + vector_bytes), nan);
  return fold(multiply_pairs(a + load(keys)) + multiply_pairs(b + load(keys + vector_bytes)), key);
}

template <class E>
void route_samples(const std::byte* first, int64_t stride, int64_t count, const int64_t* offsets, int num_offsets,
                   int64_t num_bytes, const UpdateGrid& grid, const uint32_t* block_keys, uint64_t* keys,
                   uint8_t* nan) {
  constexpr int64_t ahead = 48;  // rows, into the L2 cache, which waits for twice as many lines as the L1 cache
  const E element(grid);
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* row = first + i * stride;
    for (int s = 0; s < num_offsets; ++s) __builtin_prefetch(row + ahead * stride + offsets[s], 0, 2);
    Words nan_lanes{};
    uint64_t key = 0;
    for (int s = 0; s < num_offsets; ++s)
      key = sample_key(element, row + offsets[s], num_bytes, block_keys, key, nan_lanes);
    keys[i] = key;
    nan[i] = any(nan_lanes);
  }
}

// Row by row, and the sample of the next one first: its look-up overlaps this one's comparison, and the memory never
// rests. A prefetcher trained by samples fetches no rows.
template <class E>
int64_t known_run(const std::byte* first, int64_t stride, int64_t count, const KnownLeaders& known, int64_t num_bytes,
                  const UpdateGrid& grid, const uint32_t* block_keys, int64_t* leader) {
  constexpr int64_t ahead_bytes = 24 << 10;  // into the L2 cache
  const int64_t distance = stride < 0 ? -stride : stride;
  const int64_t ahead = distance == 0 ? 0 : distance > ahead_bytes ? stride : ahead_bytes / distance * stride;
  const E element(grid);
  const auto key_of = [&](const std::byte* row) {
    Words nan{};  // a row that holds one equals no leader
    return sample_key(element, row + known.sample_from, known.sample_bytes, block_keys, 0, nan) & known.key_mask;
  };
  uint64_t next_key = count > 0 ? key_of(first) : 0;
  for (int64_t i = 0; i < count; ++i) {
    const std::byte* row = first + i * stride;
    const uint64_t key = next_key;
    for (int64_t at = 0; at < num_bytes; at += 64) {
      __builtin_prefetch(row + ahead + at, 0, 2);
      __builtin_prefetch(row + stride + at);
    }
    if (i + 1 < count) next_key = key_of(row + stride);
    uint64_t slot = first_slot(key, known.num_slots);
    while (known.slots[slot].key != key && known.slots[slot].leader >= 0) slot = next_slot(slot, known.num_slots);
    const int64_t candidate = known.slots[slot].leader;
    if (candidate < 0 || !equals(element, row, known.rows + candidate * stride, num_bytes)) return i;
    leader[i] = candidate;
  }
  return count;
}

// What a group of 64 words adds to the sums of the encoded symbols: the last one of a block may hold fewer.
template <int num_units, bool is_whole = false, class E>
inline void add_group(const E& element, const std::byte* group, int64_t num_bytes, const std::byte* keys,
                      Longs (&total)[num_encoded], Words& nan) {
  constexpr int64_t keys_of_a_symbol = fingerprint::keys_per_symbol * sizeof(uint32_t);
  for (int64_t at = 0; at < unit_bytes; at += vector_bytes) {
    Words x[num_symbols] = {}, y[num_encoded];
    if constexpr (is_whole)
      for (int k = 0; k < num_symbols; k += 2)
        load_canonical_pair(element, group + at + k * unit_bytes, unit_bytes, x + k, nan);
    else
      for (int k = 0; k < num_units; ++k)
        x[k] = canonical_or_zeros(element, group + at + k * unit_bytes, num_bytes - at - k * unit_bytes, nan);
    for (Words& words : x) keep_in_register(words);
    fingerprint::encode(x, y);
    for (int i = 0; i < num_encoded; ++i)
      if (fingerprint::is_entered(i, num_units))
        total[i] += multiply_pairs(y[i] + load(keys + at + i * keys_of_a_symbol));
  }
}

template <class E>
bool block_sums(const std::byte* block, int64_t num_bytes, const std::byte* expected, const UpdateGrid& grid,
                const uint32_t* block_keys, uint64_t sums[num_sums]) {
  constexpr int64_t group_bytes = num_symbols * unit_bytes;
  const E element(grid);
  const std::byte* keys = reinterpret_cast<const std::byte*>(block_keys);
  Longs total[num_encoded] = {}, combined[num_sums];
  Words nan{};
  int64_t left = num_bytes;
  for (; left >= group_bytes; left -= group_bytes, block += group_bytes, keys += unit_bytes) {
    for (int k = 0; k < num_symbols; ++k, expected += unit_bytes) ask_for(expected);
    add_group<num_symbols, true>(element, block, group_bytes, keys, total, nan);
  }
  for (int64_t at = 0; at < left; at += unit_bytes) ask_for(expected + at);
  if (left > 3 * unit_bytes)
    add_group<num_symbols>(element, block, left, keys, total, nan);
  else if (left > 2 * unit_bytes)
    add_group<3>(element, block, left, keys, total, nan);
  else if (left > unit_bytes)
    add_group<2>(element, block, left, keys, total, nan);
  else if (left > 0)
    add_group<1>(element, block, left, keys, total, nan);
  fingerprint::combine(total, combined);
  const Longs all = sum_each(combined);
  memcpy(sums, &all, sizeof all);
  return any(nan);
}

template <class E>
bool holds_nan(const std::byte* piece, int64_t num_bytes, const UpdateGrid& grid) {
  if (!E::has_nan) return false;
  const E element(grid);
  int64_t at = 0;
  for (; at + 4 * stream_bytes <= num_bytes; at += 4 * stream_bytes) {  // as four streams, a line of each in turn
    Words nan[4] = {};
    for (int64_t line = at; line < at + stream_bytes; line += 2 * vector_bytes)
      for (int s = 0; s < 4; ++s)
        for (int64_t half = 0; half < 2 * vector_bytes; half += vector_bytes)
          element.canonical(load(piece + line + s * stream_bytes + half), nan[s]);
    if (any(nan[0] | nan[1] | nan[2] | nan[3])) return true;
  }
  while (at + vector_bytes <= num_bytes) {
    const int64_t stop = at + 16 * block_bytes < num_bytes ? at + 16 * block_bytes : num_bytes;
    Words nan[4] = {};
    for (; at + 4 * vector_bytes <= stop; at += 4 * vector_bytes)
      for (int u = 0; u < 4; ++u) element.canonical(load(piece + at + u * vector_bytes), nan[u]);
    for (; at + vector_bytes <= stop; at += vector_bytes) element.canonical(load(piece + at), nan[0]);
    if (any(nan[0] | nan[1] | nan[2] | nan[3])) return true;
  }
  Words nan{};
  if (at < num_bytes) element.canonical(load_tail(piece + at, num_bytes - at), nan);
  return any(nan & tail_mask(num_bytes - at));
}

inline uint64_t read(const std::byte* from, int64_t num_bytes) {
  Longs total[4] = {};
  int64_t at = 0;
  for (; at + 4 * vector_bytes <= num_bytes; at += 4 * vector_bytes)
    for (int u = 0; u < 4; ++u) total[u] ^= (Longs)load(from + at + u * vector_bytes);
  uint64_t rest = 0;
  for (; at < num_bytes; ++at) rest ^= static_cast<uint64_t>(from[at]) << 8 * (at % 8);
  const Longs all = total[0] ^ total[1] ^ total[2] ^ total[3];
  return all[0] ^ all[1] ^ all[2] ^ all[3] ^ rest;
}

template <class E>
constexpr RowKernels kernels_of() {
  return {differing<E>, equal_run<E>,     known_run<E>,  equal_pairs<E>, compare_columns<E>,
          route<E>,     route_samples<E>, block_sums<E>, holds_nan<E>,   read};
}

const RowKernels table[num_elements] = {
    kernels_of<Float64>(),     kernels_of<Float32>(),     kernels_of<Float16>(),      kernels_of<Bfloat16>(),
    kernels_of<Float8E4M3>(),  kernels_of<Float8E5M2>(),  kernels_of<Bits>(),         kernels_of<GridFloat32>(),
    kernels_of<GridFloat64>(), kernels_of<GridFloat16>(), kernels_of<GridBfloat16>(),
};

const RowKernels& row_kernels(Element element) { return table[static_cast<int>(element)]; }
Stagers stagers(DType from, Staged to) { return stagers_of(from, to); }
constexpr DistanceKernels<float> float_distances = distance_kernels_of<float>();
constexpr DistanceKernels<double> double_distances = distance_kernels_of<double>();

}  // namespace
}  // namespace cbkernels::CBKERNELS_INSTRUCTION_SET
