#include "compare_bands.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <limits>

#include "../fingerprint.h"
#include "scratch_array.h"
#include "threads.h"

namespace cbkernels {
namespace {

constexpr int64_t copied_rows_at_once = 512;  // of a band: 160 KiB; fewer break the streams of narrow types
constexpr int64_t most_filtered_rows = 8192, most_filtered_bytes = 64 << 10;  // of a column: which a prefetcher follows
constexpr int pairs_at_once = 8;
constexpr int64_t ahead_bytes = 16 << 10;  // of a band that is compared in place: what is asked for meanwhile

int64_t filtered_rows_at_once(const RowBlocks& rows) {
  return std::min(most_filtered_rows, most_filtered_bytes / rows.row_stride());
}

bool is_zero(const std::byte* from, int64_t num_bytes) {
  return num_bytes == 0 || (*from == std::byte{0} && std::memcmp(from, from + 1, num_bytes - 1) == 0);
}

struct Chunk {  // rows of a band that are copied together, or all rows where none is
  int64_t first_row, num_rows;
  size_t first_follower, last_follower;
  size_t first_leader, last_leader;
  int32_t from;  // the first block that is needed of one of its rows
};

struct Leader {
  int64_t row;
  int32_t from;
};

class BandComparison {
 public:
  BandComparison(const RowBlocks& rows, const std::vector<Follower>& followers) : rows_(rows), followers_(followers) {
    list_leaders();
    cut_into_chunks();
    if (rows.has_contiguous_columns()) list_leaders_of_rows();
  }

  int32_t first_block() const {
    return std::min_element(chunks_.begin(), chunks_.end(),
                            [](const Chunk& a, const Chunk& b) { return a.from < b.from; })
        ->from;
  }

  // Bands [begin, end); stops early where no row is equal to its leader any more, if it may. Returns where it ended.
  int32_t walk(int32_t begin, int32_t end, bool may_stop, Departure* departures, std::atomic<int64_t>& bytes) const;

 private:
  struct Band {
    const std::byte* origin;  // of the chunk's first row
    int64_t stride, length;
    int64_t ahead;  // bytes from a row to the one that is asked for; 0: it is here
  };
  // What one walk keeps.
  struct Walk {
    Walk(const BandComparison& of, int64_t num_kept, bool filters)
        : kept(num_kept * copied_band_stride),
          found(filters ? filtered_rows_at_once(of.rows_) * of.rows_.row_stride() : 0), kept_of(num_kept, -1),
          num_left(of.chunks_.size(), 0) {}
    ScratchArray<std::byte> kept;  // blocks of leaders, where bands are copied
    ScratchArray<std::byte> found;  // of filtered rows: bits where they differ from their leader
    std::vector<int32_t> kept_of;  // of each leader: the block that is kept
    std::vector<int32_t> num_left;  // of each chunk: followers that differ from their leader
    int64_t num_chunks_left = 0;  // chunks with such followers
    int64_t filtered_from = 0, filtered_to = 0;
  };
  void list_leaders();
  void cut_into_chunks();
  void list_leaders_of_rows();
  bool is_equal_by_columns(const Chunk& chunk, int32_t b, Walk& walk, int64_t& touched) const;
  void keep_leaders(const Chunk& chunk, const Band& band, int32_t b, Walk& walk) const;
  int64_t compare_chunk(const Chunk& chunk, const Band& band, int32_t b, const std::byte* leaders,
                        Departure* departures) const;
  int64_t compare_pairs(const std::byte* const* row, const std::byte* const* leader, const size_t* follower, int count,
                        const Band& band, int32_t b, Departure* departures) const;
  void hash(const std::byte* block, int64_t length, Departure& departure) const {
    departure.key = rows_.route(block, length, departure.key, &departure.nan);
  }

  const RowBlocks& rows_;
  const std::vector<Follower>& followers_;
  std::vector<Leader> leaders_;  // by row
  std::vector<int32_t> slots_;  // of each follower: which of leaders_
  std::vector<Chunk> chunks_;
  std::vector<int32_t> leader_of_row_;  // where columns are contiguous
  std::vector<uint8_t> is_same_leader_;
};

void BandComparison::list_leaders() {
  constexpr int32_t none = std::numeric_limits<int32_t>::max();
  std::vector<int32_t> of_row(rows_.num_rows(), none);  // its followers' earliest block, then its slot
  for (const Follower& f : followers_) of_row[f.leader] = std::min(of_row[f.leader], f.from);
  for (int64_t i = 0; i < rows_.num_rows(); ++i) {
    if (of_row[i] == none) continue;
    leaders_.push_back({i, of_row[i]});
    of_row[i] = static_cast<int32_t>(leaders_.size()) - 1;
  }
  slots_.reserve(followers_.size());
  for (const Follower& f : followers_) slots_.push_back(of_row[f.leader]);
}

void BandComparison::cut_into_chunks() {
  const int64_t rows_at_once = rows_.copies_bands() ? copied_rows_at_once : rows_.num_rows();
  size_t follower = 0, leader = 0;
  for (int64_t first = 0; first < rows_.num_rows(); first += rows_at_once) {
    const int64_t last = std::min(first + rows_at_once, rows_.num_rows());
    Chunk chunk{first, last - first, follower, follower, leader, leader, static_cast<int32_t>(rows_.num_blocks())};
    for (; follower < followers_.size() && followers_[follower].row < last; ++follower)
      chunk.from = std::min(chunk.from, followers_[follower].from);
    for (; leader < leaders_.size() && leaders_[leader].row < last; ++leader)
      chunk.from = std::min(chunk.from, leaders_[leader].from);
    chunk.last_follower = follower;
    chunk.last_leader = leader;
    if (chunk.from < rows_.num_blocks()) chunks_.push_back(chunk);
  }
}

void BandComparison::list_leaders_of_rows() {
  const int64_t n = rows_.num_rows();
  leader_of_row_.resize(n);
  for (int64_t i = 0; i < n; ++i) leader_of_row_[i] = static_cast<int32_t>(i);
  for (const Follower& f : followers_) leader_of_row_[f.row] = static_cast<int32_t>(f.leader);
  for (int64_t i = 0; i < n; i += rows_of_a_flag) {
    const auto begin = leader_of_row_.begin() + i, end = leader_of_row_.begin() + std::min(i + rows_of_a_flag, n);
    is_same_leader_.push_back(std::all_of(begin, end, [&](int32_t leader) { return leader == *begin; }));
  }
}

// Are all followers of the chunk known to equal their leaders in this block? Columns are walked as they lie there, for
// several chunks at once; nothing is turned into rows. False says nothing.
bool BandComparison::is_equal_by_columns(const Chunk& chunk, int32_t b, Walk& walk, int64_t& touched) const {
  const size_t index = &chunk - chunks_.data();
  if (walk.num_left[index] > 0 || 2 * walk.num_chunks_left > static_cast<int64_t>(chunks_.size())) return false;
  const int64_t size = rows_.row_stride();
  if (chunk.first_row < walk.filtered_from || chunk.first_row >= walk.filtered_to) {
    walk.filtered_from = chunk.first_row;
    walk.filtered_to = std::min(chunk.first_row + filtered_rows_at_once(rows_), rows_.num_rows());
    const int64_t count = walk.filtered_to - walk.filtered_from;
    std::memset(walk.found.data(), 0, count * size);
    rows_.compare_columns(b, walk.filtered_from, count, {leader_of_row_.data(), is_same_leader_.data()},
                          walk.found.data());
    touched += count * rows_.block_length(b);
  }
  const std::byte* found = walk.found.data() + (chunk.first_row - walk.filtered_from) * size;
  return is_zero(found, chunk.num_rows * size);
}

// Those of the chunk, and those that its followers have elsewhere.
void BandComparison::keep_leaders(const Chunk& chunk, const Band& band, int32_t b, Walk& walk) const {
  const auto place = [&](size_t l) { return walk.kept.data() + static_cast<int64_t>(l) * copied_band_stride; };
  for (size_t l = chunk.first_leader; l < chunk.last_leader; ++l) {
    std::memcpy(place(l), band.origin + (leaders_[l].row - chunk.first_row) * band.stride, band.length);
    walk.kept_of[l] = b;
  }
  for (size_t f = chunk.first_follower; f < chunk.last_follower; ++f) {
    const int32_t l = slots_[f];
    if (walk.kept_of[l] == b) continue;
    rows_.block(leaders_[l].row, b, place(l));
    walk.kept_of[l] = b;
  }
}

int32_t BandComparison::walk(int32_t begin, int32_t end, bool may_stop, Departure* departures,
                             std::atomic<int64_t>& bytes) const {
  const bool copies = rows_.copies_bands(), filters = !leader_of_row_.empty();
  ScratchArray<std::byte> copy(copies ? copied_rows_at_once * copied_band_stride : 0);
  Walk walk(*this, copies ? static_cast<int64_t>(leaders_.size()) : 0, filters);
  int64_t num_equal = static_cast<int64_t>(followers_.size()), touched = 0;
  const int64_t stride = rows_.row_stride(), ahead = std::max<int64_t>(1, ahead_bytes / std::abs(stride)) * stride;
  int32_t b = begin;
  Pace pace;
  for (; b < end && (num_equal > 0 || !may_stop); ++b, walk.filtered_to = 0) {
    Band band{nullptr, 0, rows_.block_length(b), copies ? 0 : ahead};
    for (const Chunk& chunk : chunks_) {
      if (chunk.from > b) continue;
      pace.after(chunk.num_rows * band.length);
      if (filters && is_equal_by_columns(chunk, b, walk, touched)) continue;
      band.origin = rows_.band(b, chunk.first_row, chunk.num_rows, copy.data(), band.stride);
      if (copies) keep_leaders(chunk, band, b, walk);
      const int64_t num_left = compare_chunk(chunk, band, b, copies ? walk.kept.data() : nullptr, departures);
      int32_t& left = walk.num_left[&chunk - chunks_.data()];
      walk.num_chunks_left += left == 0 && num_left > 0;
      left += static_cast<int32_t>(num_left);
      num_equal -= num_left;
      touched += band.length * (copies ? chunk.num_rows : static_cast<int64_t>(followers_.size() + leaders_.size()));
    }
  }
  bytes += touched;
  return b;
}

// Returns how many rows left. `leaders`: kept blocks, or null where they are in place.
int64_t BandComparison::compare_chunk(const Chunk& chunk, const Band& band, int32_t b, const std::byte* leaders,
                                      Departure* departures) const {
  std::array<const std::byte*, pairs_at_once> row, leader;
  std::array<size_t, pairs_at_once> follower;
  int count = 0;
  int64_t num_left = 0;
  Pace pace;
  for (size_t f = chunk.first_follower; f < chunk.last_follower; ++f) {
    const Follower& of = followers_[f];
    if (of.from > b) continue;
    const std::byte* block = band.origin + (of.row - chunk.first_row) * band.stride;
    if (departures[f].block != equal_to_leader) {
      pace.after(band.length);
      hash(block, band.length, departures[f]);
      continue;
    }
    row[count] = block;
    leader[count] = leaders ? leaders + slots_[f] * copied_band_stride : band.origin + of.leader * band.stride;
    follower[count++] = f;
    if (count < pairs_at_once) continue;
    pace.after(count * band.length);
    num_left += compare_pairs(row.data(), leader.data(), follower.data(), count, band, b, departures);
    count = 0;
  }
  return num_left + compare_pairs(row.data(), leader.data(), follower.data(), count, band, b, departures);
}

int64_t BandComparison::compare_pairs(const std::byte* const* row, const std::byte* const* leader,
                                      const size_t* follower, int count, const Band& band, int32_t b,
                                      Departure* departures) const {
  const uint32_t equal = rows_.kernels().equal_pairs(row, leader, count, band.length, band.ahead, rows_.grid());
  int64_t num_left = 0;
  for (int k = 0; k < count; ++k) {
    if (equal >> k & 1) continue;
    Departure& departure = departures[follower[k]];
    departure.block = b;
    hash(row[k], band.length, departure);
    ++num_left;
  }
  return num_left;
}

}  // namespace

int32_t compare_bands(const RowBlocks& rows, const std::vector<Follower>& followers, bool to_the_end, int num_threads,
                      std::vector<Departure>& departures) {
  const BandComparison comparison(rows, followers);
  const int32_t begin = comparison.first_block(), end = static_cast<int32_t>(rows.num_blocks());
  const int64_t shares = std::max(1, num_threads), count = static_cast<int64_t>(followers.size());
  std::atomic<int64_t> bytes{0};
  departures.assign(count, {});
  std::vector<std::vector<Departure>> of_share(shares);  // the first one's are `departures`
  int32_t hashed_to = end;
  parallel_for(shares, 1, num_threads, [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s) {
      if (s) of_share[s].resize(count);
      const auto share_begin = [&](int64_t k) { return begin + static_cast<int32_t>((end - begin) * k / shares); };
      const int32_t stop = comparison.walk(share_begin(s), share_begin(s + 1), shares == 1 && !to_the_end,
                                           s ? of_share[s].data() : departures.data(), bytes);
      if (shares == 1) hashed_to = stop;
    }
  });
  for (int64_t s = 1; s < shares; ++s)  // a row that left in an earlier share goes on as one that might be equal
    for (int64_t f = 0; f < count; ++f) {
      const Departure& later = of_share[s][f];
      if (later.block == equal_to_leader) continue;
      Departure& whole = departures[f];
      if (whole.block == equal_to_leader) whole.block = later.block;
      whole.key = fingerprint::mix(whole.key + static_cast<uint64_t>(later.block)) + later.key;
      whole.nan |= later.nan;
    }
  last_work().rows_compared += count;
  last_work().bytes_touched += bytes;
  return hashed_to;
}

void scan_bands(const RowBlocks& rows, const std::vector<int64_t>& unread, const int32_t* from, int num_threads,
                uint8_t* nan) {
  const int64_t n = rows.num_rows(), num_shares = std::max(1, num_threads), share = (n + num_shares - 1) / num_shares;
  const bool copies = rows.copies_bands();
  std::atomic<int64_t> bytes{0};
  const auto position = [&](int64_t row) { return std::lower_bound(unread.begin(), unread.end(), row); };
  parallel_for(n, share, num_threads, [&](int64_t begin, int64_t end) {
    ScratchArray<std::byte> copy(copies ? copied_rows_at_once * copied_band_stride : 0);
    int64_t touched = 0;
    Pace pace;
    for (int32_t b = 0; b < rows.num_blocks(); ++b) {
      const int64_t length = rows.block_length(b);
      const auto wanted = [&](int64_t row) { return from[row] <= b && !nan[row]; };
      for (int64_t first = begin; first < end; first += copied_rows_at_once) {
        const int64_t last = std::min(end, first + copied_rows_at_once);
        const auto listed = position(first), behind = position(last);
        if (std::none_of(listed, behind, wanted)) continue;
        pace.after((last - first) * length);
        int64_t stride = 0;
        const std::byte* band = rows.band(b, first, last - first, copy.data(), stride);
        if (copies) touched += (last - first) * length;
        for (auto row = listed; row != behind; ++row) {
          if (!wanted(*row)) continue;
          nan[*row] = rows.kernels().holds_nan(band + (*row - first) * stride, length, rows.grid());
          if (!copies) touched += length;
        }
      }
    }
    bytes += touched;
  });
  last_work().bytes_touched += bytes;
}

}  // namespace cbkernels
