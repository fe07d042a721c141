// What one warp does with rows: hash a few places of them, hash all of a piece, compare a piece with a leader's. All
// loads of a step are issued before the first is used; every result is a sum or an or of integers.
#pragma once
#include "row_kernels.h"

namespace cbkernels::cuda {

// In shared memory: the key that all keys are made of, which would else take four registers, and behind it the first
// `num_keys` keys of the blocks, which it returns; every thread of the block calls it, then __syncthreads.
CBKERNELS_DEVICE const uint32_t* fill_block_keys(unsigned char* shared, const fingerprint::Key& key, int num_keys) {
  uint32_t* const keys = reinterpret_cast<uint32_t*>(shared + sizeof key);
  for (int j = threadIdx.x; j < num_keys; j += blockDim.x) keys[j] = fingerprint::block_key(key, j);
  if (threadIdx.x == 0) *reinterpret_cast<fingerprint::Key*>(shared) = key;
  return keys;
}
CBKERNELS_DEVICE const fingerprint::Key& key_before(const uint32_t* block_keys) {
  return *(reinterpret_cast<const fingerprint::Key*>(block_keys) - 1);
}
constexpr size_t bytes_of_block_keys(int num_keys) { return sizeof(fingerprint::Key) + num_keys * sizeof(uint32_t); }

// Of routing: each sum takes its keys so many words further on.
constexpr int key_shift = 16, num_routing_sums = 2;
constexpr int num_routing_keys = fingerprint::block_words + key_shift * (num_routing_sums - 1);

CBKERNELS_DEVICE uint64_t product(uint32_t a, uint32_t b, uint32_t key_a, uint32_t key_b) {
  return static_cast<uint64_t>(a + key_a) * (b + key_b);
}

CBKERNELS_DEVICE uint64_t products(const FourWords& words, const uint4& keys) {
  return product(words.word[0], words.word[1], keys.x, keys.y) + product(words.word[2], words.word[3], keys.z, keys.w);
}

struct RoutingKeys { uint4 of_sum[num_routing_sums]; };
// Those of four words of a block, from word `at` of it on.
CBKERNELS_DEVICE RoutingKeys load_keys(const uint32_t* block_keys, int at) {
  return {
      {*reinterpret_cast<const uint4*>(block_keys + at), *reinterpret_cast<const uint4*>(block_keys + at + key_shift)}};
}
CBKERNELS_DEVICE void add_words(const FourWords& words, const RoutingKeys& keys, uint64_t* sums) {
#pragma unroll
  for (int s = 0; s < num_routing_sums; ++s) sums[s] += products(words, keys.of_sum[s]);
}

// --- sixteen bytes for a lane --------------------------------------------------------------------------------------
// A lane reads a chunk. A kind InWords reads it in words of 4 bytes; where all lanes of a warp read one row, they take
// the words of their chunks in turn, so that every load is coalesced (`turn` lanes; else 1). Which lane sees which
// column is the same for all rows. `chunk` is then the first one of the lanes, and their own_chunk is 0.

template <int turn>
CBKERNELS_DEVICE int own_chunk(int lane) {
  return turn == 1 ? lane : 0;
}

template <bool stays, class T>
CBKERNELS_DEVICE T load(const T* from) {
  return stays ? *from : __ldcs(from);  // stays: in the caches
}

// Words from this chunk on; zeros stand behind them.
template <class Kind>
CBKERNELS_DEVICE int words_left(const Elements& e, int64_t chunk) {
  if constexpr (is_in_chunks<Kind>) return 0;  // nobody asks
  const int64_t left = e.words_in_memory - 4 * chunk;
  return left < 4 * warp_size ? static_cast<int>(left) : 4 * warp_size;
}

// `left` is words_left of the chunk.
template <class Kind, int turn = 1, bool stays = false>
CBKERNELS_DEVICE uint4 load_chunk(const uint4* chunk, int left) {
  if constexpr (is_in_chunks<Kind>) return load<stays>(chunk);
  const int lane = turn == 1 ? 0 : lane_index() % turn;
  if constexpr (std::is_base_of_v<Float64, Kind>) {  // two words at a time
    const uint2* const values = reinterpret_cast<const uint2*>(chunk) + lane;
    const uint2 none{0, 0}, first = 2 * lane < left ? load<stays>(values) : none,
                            second = 2 * (lane + turn) < left ? load<stays>(values + turn) : none;
    return make_uint4(first.x, first.y, second.x, second.y);
  }
  const uint32_t* const words = reinterpret_cast<const uint32_t*>(chunk) + lane;
  const auto word = [&](int k) { return lane + k * turn < left ? load<stays>(words + k * turn) : 0; };
  return make_uint4(word(0), word(1), word(2), word(3));
}
CBKERNELS_DEVICE const uint4* chunks_of(const Elements& e, int64_t row) {
  return reinterpret_cast<const uint4*>(row_start(e.rows, row));
}

// Four words of one row.
template <class Kind>
CBKERNELS_DEVICE GatheredWords words_of(const Elements& e, int64_t row, int64_t chunk, int part) {
  if constexpr (is_gathered<Kind>) {
    return gather_words(e, row, chunk);
  } else {
    GatheredWords out{{{0, 0, 0, 0}}, false};
    out.four =
        Kind::words(e, load_chunk<Kind>(chunks_of(e, row) + chunk, words_left<Kind>(e, chunk)), part, out.holds_nan);
    return out;
  }
}

// --- a few places of four rows ---------------------------------------------------------------------------------
// Eight lanes a row; a place is 128 bytes. Places are spread evenly: the beginning of a row is often the same.

constexpr int rows_per_sample = warp_size / lanes_per_sample;
constexpr int most_places = 8;

struct RowSample {  // complete in the first of the row's eight lanes
  uint64_t hash;
  bool holds_nan;  // in the places read
};

template <class Kind>
CBKERNELS_DEVICE RowSample sample_row(const Elements& e, int64_t row, const SamplePlaces& places,
                                      const uint32_t* block_keys) {
  const int lane = lane_index() % lanes_per_sample, num_places = places.count;
  uint64_t sums[num_routing_sums] = {0, 0};
  bool holds_nan = false;
  const auto add = [&](const FourWords& words, int at) { add_words(words, load_keys(block_keys, at), sums); };
  if constexpr (is_gathered<Kind> || !is_in_chunks<Kind>) {
#pragma unroll 1
    for (int place = 0; place < num_places; ++place) {
      const int64_t chunk = places.first_chunk + place * places.chunks_between + lane;
      if (chunk >= e.num_chunks) continue;
#pragma unroll 1
      for (int part = 0; part < Kind::words_per_chunk / 4; ++part) {
        const GatheredWords words = words_of<Kind>(e, row, chunk, part);
        holds_nan |= words.holds_nan;
        add(words.four, (place * lanes_per_sample + lane) * Kind::words_per_chunk + 4 * part);
      }
    }
  } else {
    const uint4* const start = chunks_of(e, row);
    uint4 raw[most_places];
    int64_t chunk = places.first_chunk + lane;
#pragma unroll
    for (int place = 0; place < most_places; ++place, chunk += places.chunks_between)
      raw[place] = place < num_places && chunk < e.num_chunks ? __ldcs(start + chunk) : make_uint4(0, 0, 0, 0);
#pragma unroll
    for (int place = 0; place < most_places; ++place) {
      if (place >= num_places) break;
#pragma unroll 1
      for (int part = 0; part < Kind::words_per_chunk / 4; ++part)
        add(Kind::words(e, raw[place], part, holds_nan),
            (place * lanes_per_sample + lane) * Kind::words_per_chunk + 4 * part);
    }
  }
  const unsigned with_nan = __ballot_sync(whole_warp, holds_nan);
#pragma unroll
  for (int step = lanes_per_sample / 2; step > 0; step /= 2) {
    sums[0] += __shfl_xor_sync(whole_warp, sums[0], step);
    sums[1] += __shfl_xor_sync(whole_warp, sums[1], step);
  }
  const int first_lane = lane_index() / lanes_per_sample * lanes_per_sample;
  return {fingerprint::mix(sums[0] ^ fingerprint::mix(sums[1])), (with_nan >> first_lane & 0xffu) != 0};
}

// --- whole blocks of several rows --------------------------------------------------------------------------------

// Sums of `count` values over `lanes` lanes side by side, by exchanging halves: lane l gets the sum of value l % count
// (of 16 over a warp: 16 shuffles, not 80).
template <int count, int lanes>
CBKERNELS_DEVICE uint64_t reduce(uint64_t (&values)[count]) {
  const int lane = lane_index();
#pragma unroll
  for (int half = count / 2; half > 0; half /= 2) {
    const bool upper = (lane & half) != 0;
#pragma unroll
    for (int i = 0; i < count / 2; ++i) {
      if (i >= half) continue;  // so that the compiler unrolls both loops
      const uint64_t sent = upper ? values[i] : values[i + half], kept = upper ? values[i + half] : values[i];
      values[i] = kept + __shfl_xor_sync(whole_warp, sent, half);
    }
  }
  uint64_t sum = values[0];
#pragma unroll
  for (int step = count; step < lanes; step *= 2) sum += __shfl_xor_sync(whole_warp, sum, step);
  return sum;
}

CBKERNELS_DEVICE uint64_t row_term(uint64_t block_sum, const uint32_t* block_keys, int64_t block, int s) {
  const fingerprint::Key& key = key_before(block_keys);
  return fingerprint::row_term(block_sum, fingerprint::row_key(key, block, 2 * s),
                               fingerprint::row_key(key, block, 2 * s + 1));
}

constexpr int rows_per_hash = 16 / num_routing_sums;

// Routing sums of some rows over blocks [begin, end): lane l gets that of row (l % 16) / num_routing_sums and sum
// l % num_routing_sums. Bit r of *with_nan: row r holds a NaN there. A row may be named twice.
template <class Kind>
CBKERNELS_DEVICE uint64_t sum_chunked_blocks(const Elements& e, const int64_t (&rows)[rows_per_hash], int64_t begin,
                                             int64_t end, const uint32_t* block_keys, unsigned* with_nan) {
  constexpr int num_sums = num_routing_sums, num_rows = rows_per_hash;
  constexpr int chunks_per_block = fingerprint::block_words / Kind::words_per_chunk;
  const int lane = lane_index();
  const uint4* start[num_rows];
#pragma unroll
  for (int r = 0; r < num_rows; ++r) start[r] = chunks_of(e, rows[r]) + begin * chunks_per_block;
  uint64_t row_sum = 0;
  unsigned seen_nan = 0;  // bit r: this lane has, in row r
#pragma unroll 1
  for (int64_t block = begin; block < end; ++block) {
    const int64_t left = e.num_chunks - block * chunks_per_block;
    const int num_chunks = left < chunks_per_block ? static_cast<int>(left) : chunks_per_block;
    // the last block is padded with zeros to a multiple of 16 words
    constexpr int padding = 16 / Kind::words_per_chunk;
    const int num_padded = (num_chunks + padding - 1) / padding * padding;
    const int64_t num_words = e.num_words - block * fingerprint::block_words;
    uint64_t sums[16] = {};  // those of row r begin at r * num_sums
#pragma unroll 1
    for (int c = lane; c < num_padded; c += warp_size) {
      uint4 raw[num_rows];
      const bool is_padding = c >= num_chunks;
      const int left = words_left<Kind>(e, block * chunks_per_block + c);
#pragma unroll
      for (int r = 0; r < num_rows && is_in_chunks<Kind>; ++r)
        raw[r] = is_padding ? make_uint4(0, 0, 0, 0) : __ldcs(start[r] + c);
#pragma unroll 1
      for (int part = 0; part < Kind::words_per_chunk / 4; ++part) {
        const int at = c * Kind::words_per_chunk + 4 * part;
        const RoutingKeys keys = load_keys(block_keys, at);
#pragma unroll
        for (int r = 0; r < num_rows; ++r) {
          bool holds_nan = false;
          if constexpr (!is_in_chunks<Kind>) raw[r] = load_chunk<Kind>(start[r] + c, left);  // all at once would spill
          FourWords words = Kind::words(e, raw[r], part, holds_nan);
          if (holds_nan) seen_nan |= 1u << r;
          if (Kind::moves_zero && is_padding) words = {{0, 0, 0, 0}};
          if constexpr (Kind::moves_zero && !is_in_chunks<Kind>)  // a chunk may end behind its row
#pragma unroll
            for (int k = 0; k < 4; ++k)
              if (at + k >= num_words) words.word[k] = 0;
          add_words(words, keys, sums + r * num_sums);
        }
      }
    }
    const uint64_t block_sum = reduce<16, warp_size>(sums);
    const int s = lane % num_sums;
    row_sum += row_term(block_sum, block_keys, block, s);
#pragma unroll
    for (int r = 0; r < num_rows; ++r) start[r] += chunks_per_block;
  }
  *with_nan = 0;
#pragma unroll
  for (int r = 0; r < num_rows; ++r)
    if (__any_sync(whole_warp, seen_nan >> r & 1u)) *with_nan |= 1u << r;
  return row_sum;
}

// The same value by value, one row after the other.
CBKERNELS_DEVICE uint64_t sum_gathered_blocks(const Elements& e, const int64_t (&rows)[rows_per_hash], int64_t begin,
                                              int64_t end, const uint32_t* block_keys, unsigned* with_nan) {
  constexpr int num_sums = num_routing_sums, num_rows = rows_per_hash, chunks_per_block = fingerprint::block_words / 4;
  const int lane = lane_index(), s = lane % num_sums;
  uint64_t row_sum = 0;
  *with_nan = 0;
#pragma unroll 1
  for (int r = 0; r < num_rows; ++r) {
    bool holds_nan = false;
#pragma unroll 1
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first_chunk = block * chunks_per_block;
      const int64_t left = (e.num_chunks - first_chunk + 3) / 4 * 4;  // padded to a multiple of 16 words
      const int num_chunks = left < chunks_per_block ? static_cast<int>(left) : chunks_per_block;
      uint64_t sums[num_sums] = {};
#pragma unroll 1
      for (int c = lane; c < num_chunks; c += warp_size) {
        const GatheredWords words = gather_words(e, rows[r], first_chunk + c);
        holds_nan |= words.holds_nan;
        add_words(words.four, load_keys(block_keys, 4 * c), sums);
      }
      uint64_t mine = 0;
#pragma unroll
      for (int k = 0; k < num_sums; ++k) {
        for (int step = warp_size / 2; step > 0; step /= 2) sums[k] += __shfl_xor_sync(whole_warp, sums[k], step);
        if (k == s) mine = sums[k];
      }
      if (lane % 16 / num_sums == r) row_sum += row_term(mine, block_keys, block, s);
    }
    if (__any_sync(whole_warp, holds_nan)) *with_nan |= 1u << r;
  }
  return row_sum;
}

template <class Kind>
CBKERNELS_DEVICE uint64_t sum_blocks(const Elements& e, const int64_t (&rows)[rows_per_hash], int64_t begin,
                                     int64_t end, const uint32_t* block_keys, unsigned* with_nan) {
  if constexpr (is_gathered<Kind>)
    return sum_gathered_blocks(e, rows, begin, end, block_keys, with_nan);
  else
    return sum_chunked_blocks<Kind>(e, rows, begin, end, block_keys, with_nan);
}

CBKERNELS_DEVICE int64_t num_blocks_of(const Elements& e) {
  return (e.num_words + fingerprint::block_words - 1) / fingerprint::block_words;
}

// --- rows against their leader --------------------------------------------------------------------------------------
// Short rows lie side by side in a warp: `width` lanes (a power of two) read one row, so a warp holds 8 * 32 / width
// rows.

constexpr int rows_per_lane = 8;  // with 4 or fewer the leader's bytes come from the L2 cache too often

CBKERNELS_DEVICE int lanes_per_row(const Elements& e) {
  int width = 1;
  while (width < warp_size && width < e.num_chunks) width *= 2;
  return width;
}
CBKERNELS_DEVICE int rows_per_tile(const Elements& e) { return rows_per_lane * (warp_size / lanes_per_row(e)); }

struct Comparison {
  unsigned differs;  // bit r: the row r of this lane differs from the leader in what this lane has seen
  unsigned holds_nan;
  bool leader_holds_nan;
};

CBKERNELS_DEVICE bool differ(const FourWords& a, const FourWords& b) {
  return ((a.word[0] ^ b.word[0]) | (a.word[1] ^ b.word[1]) | (a.word[2] ^ b.word[2]) | (a.word[3] ^ b.word[3])) != 0;
}

// Not float64: nvcc keeps its eight rows in registers without it.
template <class Kind>
constexpr bool looks_at_bits_first = !std::is_base_of_v<Float64, Kind>;

// Chunks [begin, end) of eight rows a lane against the leader. A row may be named twice, or be the leader.
template <class Kind, int turn>
CBKERNELS_DEVICE Comparison compare_chunked_rows(const Elements& e, int64_t leader,
                                                 const int64_t (&rows)[rows_per_lane], int64_t begin, int64_t end,
                                                 int width) {
  Comparison seen{0, 0, false};
  const uint4* const leader_start = chunks_of(e, leader);
  const uint4* start[rows_per_lane];
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) start[r] = chunks_of(e, rows[r]);
#pragma unroll 1
  for (int64_t chunk = begin + own_chunk<turn>(lane_index() % width); chunk < end; chunk += width) {
    uint4 raw[rows_per_lane];
    const int left = words_left<Kind>(e, chunk);
    const uint4 leaders = load_chunk<Kind, turn, true>(leader_start + chunk, left);
#pragma unroll
    for (int r = 0; r < rows_per_lane; ++r) raw[r] = load_chunk<Kind, turn>(start[r] + chunk, left);
    if constexpr (looks_at_bits_first<Kind>) {
      // Rows of the leader's bits need no other look, and hold a NaN where it does. That the values are used once more
      // behind the branch keeps all of them in registers: without it they were loaded one behind the other into four.
      unsigned other_bits = 0;
#pragma unroll
      for (int r = 0; r < rows_per_lane; ++r)
        other_bits |= (raw[r].x ^ leaders.x) | (raw[r].y ^ leaders.y) | (raw[r].z ^ leaders.z) | (raw[r].w ^ leaders.w);
      bool leader_holds_nan = false;
#pragma unroll 1
      for (int part = 0; part < Kind::words_per_chunk / 4; ++part) Kind::words(e, leaders, part, leader_holds_nan);
      if (other_bits == 0 && !leader_holds_nan) continue;
    }
#pragma unroll 1
    for (int part = 0; part < Kind::words_per_chunk / 4; ++part) {
      const FourWords expected = Kind::words(e, leaders, part, seen.leader_holds_nan);
#pragma unroll
      for (int r = 0; r < rows_per_lane; ++r) {
        bool holds_nan = false;
        if (differ(Kind::words(e, raw[r], part, holds_nan), expected)) seen.differs |= 1u << r;
        if (holds_nan) seen.holds_nan |= 1u << r;
      }
    }
  }
  return seen;
}

// The same value by value, one row after the other.
CBKERNELS_DEVICE Comparison compare_gathered_rows(const Elements& e, int64_t leader,
                                                  const int64_t (&rows)[rows_per_lane], int64_t begin, int64_t end,
                                                  int width) {
  Comparison seen{0, 0, false};
#pragma unroll 1
  for (int64_t chunk = begin + lane_index() % width; chunk < end; chunk += width) {
    const GatheredWords expected = gather_words(e, leader, chunk);
    seen.leader_holds_nan |= expected.holds_nan;
#pragma unroll 1
    for (int r = 0; r < rows_per_lane; ++r) {
      const GatheredWords words = gather_words(e, rows[r], chunk);
      if (words.holds_nan) seen.holds_nan |= 1u << r;
      if (differ(words.four, expected.four)) seen.differs |= 1u << r;
    }
  }
  return seen;
}

template <class Kind>
CBKERNELS_DEVICE Comparison compare_rows(const Elements& e, int64_t leader, const int64_t (&rows)[rows_per_lane],
                                         int64_t begin, int64_t end, int width) {
  if constexpr (is_gathered<Kind>)
    return compare_gathered_rows(e, leader, rows, begin, end, width);
  else if (is_in_chunks<Kind> || width < warp_size)
    return compare_chunked_rows<Kind, 1>(e, leader, rows, begin, end, width);
  else
    return compare_chunked_rows<Kind, is_in_chunks<Kind> ? 1 : warp_size>(e, leader, rows, begin, end, width);
}

// Bit r: the row r of this lane holds a NaN in what this lane has seen of chunks [begin, end). A row may be named
// twice.
template <class Kind, int turn>
CBKERNELS_DEVICE unsigned scan_chunked_rows(const Elements& e, const int64_t (&rows)[rows_per_lane], int64_t begin,
                                            int64_t end, int width) {
  unsigned with_nan = 0;
  const uint4* start[rows_per_lane];
#pragma unroll
  for (int r = 0; r < rows_per_lane; ++r) start[r] = chunks_of(e, rows[r]);
#pragma unroll 1
  for (int64_t chunk = begin + own_chunk<turn>(lane_index() % width); chunk < end; chunk += width) {
    const int left = words_left<Kind>(e, chunk);
    uint4 raw[rows_per_lane];
#pragma unroll
    for (int r = 0; r < rows_per_lane; ++r) raw[r] = load_chunk<Kind, turn>(start[r] + chunk, left);
#pragma unroll
    for (int r = 0; r < rows_per_lane; ++r) {
      bool holds_nan = false;
#pragma unroll 1
      for (int part = 0; part < Kind::words_per_chunk / 4; ++part) Kind::words(e, raw[r], part, holds_nan);
      if (holds_nan) with_nan |= 1u << r;
    }
  }
  return with_nan;
}

// The same value by value, one row after the other.
CBKERNELS_DEVICE unsigned scan_gathered_rows(const Elements& e, const int64_t (&rows)[rows_per_lane], int64_t begin,
                                             int64_t end, int width) {
  unsigned with_nan = 0;
#pragma unroll 1
  for (int64_t chunk = begin + lane_index() % width; chunk < end; chunk += width)
#pragma unroll 1
    for (int r = 0; r < rows_per_lane; ++r)
      if (gather_words(e, rows[r], chunk).holds_nan) with_nan |= 1u << r;
  return with_nan;
}

template <class Kind>
CBKERNELS_DEVICE unsigned scan_rows(const Elements& e, const int64_t (&rows)[rows_per_lane], int64_t begin, int64_t end,
                                    int width) {
  if constexpr (is_gathered<Kind>)
    return scan_gathered_rows(e, rows, begin, end, width);
  else if constexpr (std::is_base_of_v<Bits, Kind>)
    return 0;  // nobody asks
  else if (is_in_chunks<Kind> || width < warp_size)
    return scan_chunked_rows<Kind, 1>(e, rows, begin, end, width);
  else
    return scan_chunked_rows<Kind, is_in_chunks<Kind> ? 1 : warp_size>(e, rows, begin, end, width);
}

// Whole rows, by one warp: rare, so nothing is unrolled.
template <class Kind>
CBKERNELS_DEVICE bool rows_are_equal(const Elements& e, int64_t row, int64_t leader) {
  bool differs = false;
#pragma unroll 1
  for (int64_t chunk = lane_index(); chunk < e.num_chunks; chunk += warp_size) {
#pragma unroll 1
    for (int part = 0; part < Kind::words_per_chunk / 4; ++part) {
      const GatheredWords words = words_of<Kind>(e, row, chunk, part),
                          expected = words_of<Kind>(e, leader, chunk, part);
      differs |= words.holds_nan || differ(words.four, expected.four);
    }
  }
  return !__any_sync(whole_warp, differs);
}

}  // namespace cbkernels::cuda
