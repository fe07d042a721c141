// Hash a few cache lines of each row and group; compare the members of each group with its leader, directly;
// hash a row that differs once, from where it left, and group and compare those again. A row that is alone
// after the first step is never read again, an equal row is read once, and no value is read more than twice
// (but for samples and the two blocks where a row leaves a group). Rows that lie closer together than their columns do
// are compared in the order of the memory (compare_bands.h) while most of them take part. All other short rows are
// compared in their own order; where most are duplicates of few kinds, or samples mislead, group_short_rows.h takes
// them in one pass, while they are in the L1 cache.
#include "group_rows.h"

#include <algorithm>
#include <array>
#include <atomic>

#include "../fingerprint.h"
#include "compare_bands.h"
#include "group_keys.h"
#include "group_short_rows.h"
#include "scratch_array.h"
#include "threads.h"

namespace cbkernels {
namespace {

constexpr int64_t line_bytes = 64;
constexpr int64_t parallel_bytes = 16 << 20;  // about half a millisecond of reading: below, threads do not pay
constexpr int64_t second_sample_from = 8;    // rows in a group: bounds what is read again to an eighth
constexpr int64_t fewest_of_a_band = 16;  // one row in so many: a cache line holds about as many values of others

struct Batch {  // some members of one group
  int64_t leader;
  int64_t first;  // position in members_
  int32_t count;
};

// Its memory too, which `= {}` would keep.
template <class T>
void release(std::vector<T>& list) {
  std::vector<T>().swap(list);
}

class Grouper {
 public:
  Grouper(const RowBlocks& rows, bool check_nan, int num_threads, int64_t most_collisions, int64_t* leader)
      : rows_(rows), kernels_(rows.kernels()), check_nan_(check_nan && rows.can_hold_nan()), num_threads_(num_threads),
        most_collisions_(most_collisions), leader_(leader), nan_(rows.num_rows()) {
    nan_.fill(0);
    if (check_nan_) unread_from_.assign(rows.num_rows(), 0);
  }

  Grouping run();

 private:
  // steps of run(), in order
  int64_t sample_all_rows();
  struct Pilot { int64_t different = 0, once = 0; };
  Pilot pilot(int64_t count) const;
  bool looks_full_of_duplicates();
  void group_in_one_pass(const uint8_t* skip);
  void group_members_of_short_rows();
  struct Agreement { int64_t equal = 0, different = 0; };  // with the sample
  void compare_short_rows(int64_t first, int64_t last, uint8_t* is_settled, Agreement& found);
  void group_members_of_long_rows();
  void separate_large_groups();
  void compare(std::vector<Follower> followers, bool to_the_end);
  void compare_with_leaders();
  void compare_by_bands(const std::vector<Follower>& followers, bool to_the_end);
  void regroup_fallen(bool to_the_end);
  void search_fallen();
  int64_t scan_for_nan();
  void scan_row_by_row(const std::vector<int64_t>& unread);
  void scan_staged(const int64_t* rows, int64_t num_rows);
  int64_t rows_without_gap(const int64_t* rows, int64_t num_rows) const;
  int64_t number_bundles();

  // parts of steps
  void sample_rows(int64_t begin, int64_t end, const std::vector<int64_t>& offsets, uint64_t* keys);
  std::vector<Follower> followers() const;
  bool fill_bands(const std::vector<Follower>& followers) const;
  void list_members(std::vector<Follower> followers);
  void forget_members();
  void compare_batch(const Batch& batch);
  uint64_t sample_key(int64_t row, int64_t num_samples, std::byte* scratch, bool& nan) const;
  uint64_t rest_key(int64_t row, int64_t block, uint64_t key, std::byte* scratch, bool& nan) const;
  uint64_t masked(uint64_t key) const { return key & routing_mask_; }
  int64_t bytes_in(int64_t from_block, int64_t to_block) const {
    return rows_.block_begin(to_block) - rows_.block_begin(from_block);
  }
  int threads_for(int64_t bytes) const { return bytes < parallel_bytes ? 1 : num_threads_; }
  int64_t sample_offset(int64_t s, int64_t num_samples) const {
    const int64_t lines = std::max<int64_t>(1, rows_.row_bytes() / line_bytes);
    return line_bytes * (lines * (2 * s + 1) / (2 * num_samples));
  }

  const RowBlocks& rows_;
  const RowKernels& kernels_;
  const bool check_nan_;
  const int num_threads_;
  const uint64_t routing_mask_ = routing_mask();
  const int64_t most_collisions_;       // in vain, before the keys count as known
  int64_t* const leader_;               // of every row; ids in the end
  bool all_lead_ = false;               // every row is its own leader
  ScratchArray<uint8_t> nan_;           // row holds a NaN that was seen
  std::vector<int32_t> unread_from_;    // blocks before this one hold no NaN (only with check_nan)
  std::vector<int64_t> members_;        // rows that are not their own leader, by leader
  std::vector<int32_t> from_block_;     // of each member: the blocks before are known to be equal
  std::vector<int32_t> left_at_;        // and the block where it left its leader
  std::vector<uint64_t> left_key_;    // and the hash of that block, taken while it is in the cache
  std::vector<Batch> batches_;          // of members_
  struct Fallen {
    int64_t row, leader;
    int32_t block, hashed_to;
    uint64_t key;  // of the blocks from `block` up to `hashed_to`
  };
  std::vector<Fallen> fallen_;
};

// Evenly spaced cache lines, not a prefix: the first channels of an image may all be dead.
uint64_t Grouper::sample_key(int64_t row, int64_t num_samples, std::byte* scratch, bool& nan) const {
  uint64_t key = 0;
  for (int64_t s = 0; s < num_samples; ++s) {
    const int64_t from = sample_offset(s, num_samples);
    const int64_t length = std::min(line_bytes, rows_.row_bytes() - from);
    key = rows_.route(rows_.piece(row, from, length, scratch), length, key, &nan);
  }
  return key;
}

// Hash of all blocks from `block` on, chained on `key`.
uint64_t Grouper::rest_key(int64_t row, int64_t block, uint64_t key, std::byte* scratch, bool& nan) const {
  constexpr int64_t ahead = 2;  // blocks
  for (; block < rows_.num_blocks(); ++block) {
    const std::byte* piece = rows_.block(row, block, scratch);
    const bool is_seen = rows_.is_direct() && block + ahead < rows_.num_blocks();
    const std::byte* expected = is_seen ? rows_.row(row) + rows_.block_begin(block + ahead) : piece;
    key = rows_.route(piece, rows_.block_length(block), expected, key, &nan);
  }
  return key;
}

void Grouper::sample_rows(int64_t begin, int64_t end, const std::vector<int64_t>& offsets, uint64_t* keys) {
  if (rows_.is_direct()) {
    const int64_t length = std::min(line_bytes, rows_.row_bytes() - offsets.back());
    kernels_.route_samples(rows_.row(begin), rows_.row_stride(), end - begin, offsets.data(),
                           static_cast<int>(offsets.size()), length, rows_.grid(), rows_.block_keys(), keys + begin,
                           nan_.data() + begin);
  } else if (rows_.has_bands() && rows_.copies_bands()) {  // many rows of a column at once
    constexpr int64_t places[] = {0, line_bytes};
    const int64_t rows_at_once = std::min<int64_t>(512, end - begin);
    ScratchArray<std::byte> copy(rows_at_once * copied_band_stride);
    const int64_t length = std::min(line_bytes, rows_.row_bytes() - offsets.back());
    for (int64_t i = begin; i < end; i += rows_at_once) {
      const int64_t count = std::min(rows_at_once, end - i);
      for (size_t s = 0; s < offsets.size(); ++s)
        rows_.copy_band(offsets[s], length, i, count, copy.data() + places[s]);
      kernels_.route_samples(copy.data(), copied_band_stride, count, places, static_cast<int>(offsets.size()), length,
                             rows_.grid(), rows_.block_keys(), keys + i, nan_.data() + i);
    }
  } else {
    std::array<std::byte, line_bytes> scratch;
    for (int64_t i = begin; i < end; ++i) {
      bool nan = false;
      keys[i] = sample_key(i, static_cast<int64_t>(offsets.size()), scratch.data(), nan);
      nan_[i] = nan;
    }
  }
  for (int64_t i = begin; i < end; ++i) keys[i] = masked(keys[i]);
}

// Returns how many rows have the sample of an earlier row.
int64_t Grouper::sample_all_rows() {
  const int64_t n = rows_.num_rows();
  const int64_t samples = rows_.row_bytes() >= 16 * block_bytes ? 2 : 1;
  const int64_t sampled_bytes = samples * std::min(line_bytes, rows_.row_bytes());
  std::vector<int64_t> offsets;
  for (int64_t s = 0; s < samples; ++s) offsets.push_back(on_a_line(rows_, sample_offset(s, samples)));
  last_work().rows_sampled += n;
  last_work().bytes_touched += n * sampled_bytes;
  const int threads = threads_for(4 * n * sampled_bytes);
  if (n <= most_keys_in_one_table) {
    ScratchArray<uint64_t> keys(n);
    parallel_for(n, 4096, threads, [&](int64_t begin, int64_t end) { sample_rows(begin, end, offsets, keys.data()); });
    return group_keys(keys.data(), nan_.data(), n, leader_, num_threads_);
  }
  uint64_t* const keys = reinterpret_cast<uint64_t*>(leader_);  // whose pages are needed anyway
  RepeatedKeys repeated(n);
  parallel_for(n, 4096, threads, [&](int64_t begin, int64_t end) {
    int64_t stop;
    for (int64_t at = begin; at < end; at = stop) {
      stop = std::min(at + 16, end);
      sample_rows(at, stop, offsets, keys);
      if (threads > 1) continue;
      for (int64_t i = at; i < stop; ++i) repeated.prefetch(keys[i]);
      repeated.add(keys + begin, at - begin);  // what was prefetched a step ago
      begin = at;
    }
    if (threads == 1) repeated.add(keys + begin, end - begin);
  });
  if (threads > 1) repeated.add(keys, n, threads);
  return group_repeated_keys(keys, nan_.data(), n, leader_, num_threads_, equal_keys_suffice, repeated);
}

// Evenly spaced rows, `count` of them: how many different samples they have, and how many samples are of one row only.
Grouper::Pilot Grouper::pilot(int64_t count) const {
  const int64_t n = rows_.num_rows(), ahead = 16, line = sample_offset(0, 1);
  std::vector<uint64_t> keys(count);
  std::array<std::byte, line_bytes> scratch;
  for (int64_t p = 0; p < count; ++p) {
    if (rows_.is_direct() && p + ahead < count) __builtin_prefetch(rows_.row(n * (p + ahead) / count) + line);
    bool nan = false;
    keys[p] = sample_key(n * p / count, 1, scratch.data(), nan);
  }
  last_work().bytes_touched += count * line_bytes;
  std::sort(keys.begin(), keys.end());
  Pilot found;
  for (auto at = keys.begin(), next = at; at != keys.end(); at = next) {
    while (next != keys.end() && *next == *at) ++next;
    found.once += next - at == 1;
    ++found.different;
  }
  return found;
}

// For short rows: are most of them not the first of their kind? Decides speed only. Of a thousand kinds 512 rows show
// too few twice; where they show some, 4096 are looked at. As many of the rows behind those are of a kind that was not
// seen yet as have been seen once (Good, "The population frequencies of species", 1953), and ever fewer.
bool Grouper::looks_full_of_duplicates() {
  constexpr int64_t few = 512, many = 4096, worth_a_look = few / 16;
  const int64_t n = rows_.num_rows();
  if (n <= few) return true;  // too few for the other way to pay
  const Pilot first = pilot(few);
  if (2 * first.different <= few) return true;
  if (few - first.different < worth_a_look || n < 16 * few) return false;
  const int64_t count = std::min(many, n / 8);
  return 3 * pilot(count).once <= count;
}

std::vector<Follower> Grouper::followers() const {
  const int64_t n = rows_.num_rows();
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += leader_[i] != i;
  std::vector<Follower> found;
  found.reserve(count);
  for (int64_t i = 0; i < n; ++i)
    if (leader_[i] != i) found.push_back({i, leader_[i], 0});
  return found;
}

// Are these rows so many that all rows should be read in the order of the memory?
bool Grouper::fill_bands(const std::vector<Follower>& followers) const {
  const int64_t count = static_cast<int64_t>(followers.size());
  if (!rows_.has_bands() || count * fewest_of_a_band < rows_.num_rows()) return false;
  if (rows_.num_rows() > most_rows_of_bands) return false;
  if (!rows_.copies_bands() || count <= most_leaders_of_copied_bands) return true;
  std::vector<uint8_t> leads(rows_.num_rows(), 0);
  for (const Follower& f : followers) leads[f.leader] = 1;
  return std::count(leads.begin(), leads.end(), 1) <= most_leaders_of_copied_bands;
}

// Lists of one step are gone before those of the next one: memory is a promise.
void Grouper::forget_members() {
  release(members_);
  release(from_block_);
  release(left_at_);
  release(left_key_);
}

// members_ sorted by (leader, row), cut into batches_.
void Grouper::list_members(std::vector<Follower> followers) {
  forget_members();
  const int64_t n = rows_.num_rows();
  std::vector<int64_t> place(n, 0);
  for (const Follower& f : followers) ++place[f.leader];
  const size_t total = followers.size();
  members_.resize(total);
  from_block_.resize(total);
  batches_.clear();
  int64_t at = 0;
  for (int64_t i = 0; i < n; ++i) {
    const int64_t count = place[i];
    if (!count) continue;
    for (int64_t k = 0; k < count; k += rows_.most_rows_at_once())
      batches_.push_back({i, at + k, static_cast<int32_t>(std::min<int64_t>(rows_.most_rows_at_once(), count - k))});
    place[i] = at;
    at += count;
  }
  for (const Follower& f : followers) {
    from_block_[place[f.leader]] = f.from;
    members_[place[f.leader]++] = f.row;
  }
  release(followers);
  release(place);
  for (const Batch& batch : batches_) {  // one start for a batch: the earliest of its members
    const auto begin = from_block_.begin() + batch.first;
    *begin = *std::min_element(begin, begin + batch.count);
  }
  left_at_.assign(total, equal_to_leader);
  left_key_.resize(total);
}

// Where the leader and the first member of a large group differ, the sample has not told rows apart that are
// different: sample 1/64 of these rows. A scattered line costs seven streamed ones, so equal rows must not pay for it.
void Grouper::separate_large_groups() {
  const int64_t samples = rows_.row_bytes() / (64 * line_bytes);
  if (samples < 2) return;
  std::vector<int64_t> again;  // leader, members, leader, members ...
  for (size_t b = 0; b < batches_.size();) {
    size_t next = b + 1;
    while (next < batches_.size() && batches_[next].leader == batches_[b].leader) ++next;
    const int64_t first = batches_[b].first, last = batches_[next - 1].first + batches_[next - 1].count;
    if (last - first + 1 >= second_sample_from) {
      compare_batch({batches_[b].leader, first, 1});
      const int64_t blocks = left_at_[first] == equal_to_leader ? rows_.num_blocks() : left_at_[first] + 1;
      last_work().bytes_touched += 2 * bytes_in(0, blocks);
      if (left_at_[first] != equal_to_leader) {
        again.push_back(batches_[b].leader);
        again.insert(again.end(), members_.begin() + first, members_.begin() + last);
      } else {  // it is done
        ++batches_[b].first;
        --batches_[b].count;
      }
    }
    b = next;
  }
  if (again.empty()) return;
  const int64_t n = static_cast<int64_t>(again.size());
  std::vector<uint64_t> keys(n);
  std::vector<uint8_t> nan(n);
  parallel_for(n, 64, threads_for(4 * n * samples * line_bytes), [&](int64_t begin, int64_t end) {
    std::array<std::byte, line_bytes> scratch;
    for (int64_t p = begin; p < end; ++p) {
      if (rows_.is_direct() && p + 1 < end)
        for (int64_t s = 0; s < samples; ++s) __builtin_prefetch(rows_.row(again[p + 1]) + sample_offset(s, samples));
      bool seen = false;
      const uint64_t key = sample_key(again[p], samples, scratch.data(), seen);
      keys[p] = masked(fingerprint::mix(key + static_cast<uint64_t>(leader_[again[p]])));
      nan[p] = seen;
    }
  });
  std::vector<int64_t> first(n);
  group_keys(keys.data(), nan.data(), n, first.data(), num_threads_);
  for (int64_t p = 0; p < n; ++p) {
    leader_[again[p]] = again[first[p]];
    nan_[again[p]] |= nan[p];
  }
  last_work().rows_sampled += n;
  last_work().bytes_touched += n * samples * line_bytes;
  list_members(followers());
}

void Grouper::compare_batch(const Batch& batch) {
  std::array<std::byte, block_bytes> leader_scratch;
  std::array<std::byte, scratch_block_bytes * max_rows_at_once> scratch;
  std::array<const std::byte*, max_rows_at_once> pieces;
  std::array<int32_t, max_rows_at_once> alive;
  std::array<int64_t, max_rows_at_once> alive_row;
  int32_t num_alive = batch.count;
  for (int32_t r = 0; r < num_alive; ++r) {
    alive[r] = r;
    alive_row[r] = members_[batch.first + r];
  }
  const int64_t from = from_block_[batch.first];
  Pace pace;
  for (int64_t b = from; b < rows_.num_blocks() && num_alive; ++b) {
    const int64_t length = rows_.block_length(b);
    pace.after((num_alive + 1) * length);
    const std::byte* leader = rows_.block(batch.leader, b, leader_scratch.data());
    rows_.blocks(alive_row.data(), num_alive, b, scratch.data(), pieces.data());
    const uint32_t differing = kernels_.differing(pieces.data(), num_alive, leader, length, rows_.grid());
    if (!differing) continue;
    int32_t kept = 0;
    for (int32_t r = 0; r < num_alive; ++r) {
      if (!(differing >> r & 1)) {
        alive_row[kept] = alive_row[r];
        alive[kept++] = alive[r];
        continue;
      }
      const int64_t m = batch.first + alive[r];
      bool nan = false;
      left_at_[m] = static_cast<int32_t>(b);
      left_key_[m] = rows_.route(pieces[r], length, 0, &nan);
      if (nan) nan_[members_[m]] = 1;
    }
    num_alive = kept;
  }
}

// As compare_with_leaders(), in the order of the memory.
void Grouper::compare_by_bands(const std::vector<Follower>& followers, bool to_the_end) {
  std::vector<Departure> departures;
  const int32_t hashed_to =
      compare_bands(rows_, followers, to_the_end,
                    threads_for(static_cast<int64_t>(followers.size()) * rows_.row_bytes()), departures);
  fallen_.clear();
  fallen_.reserve(std::count_if(departures.begin(), departures.end(),
                                [](const Departure& departure) { return departure.block != equal_to_leader; }));
  for (size_t f = 0; f < followers.size(); ++f) {
    const Departure& departure = departures[f];
    if (departure.block == equal_to_leader) continue;
    const auto [row, leader, from] = followers[f];
    fallen_.push_back({row, leader, departure.block, hashed_to, departure.key});
    nan_[row] |= departure.nan;
    if (!check_nan_) continue;
    unread_from_[row] = std::max(unread_from_[row], hashed_to);
    unread_from_[leader] = std::max(unread_from_[leader], departure.block);
  }
}

// Fills fallen_ with the followers that differ from their leader; to_the_end: hashed to the end, if by bands.
void Grouper::compare(std::vector<Follower> followers, bool to_the_end) {
  if (fill_bands(followers)) return compare_by_bands(followers, to_the_end);
  list_members(std::move(followers));
  compare_with_leaders();
}

// Fills fallen_ with the members that differ from their leader.
void Grouper::compare_with_leaders() {
  const int64_t all_bytes = static_cast<int64_t>(members_.size()) * rows_.row_bytes();
  const int64_t chunk = std::max<int64_t>(1, (1 << 20) / (max_rows_at_once * std::max<int64_t>(1, rows_.row_bytes())));
  parallel_for(static_cast<int64_t>(batches_.size()), chunk, threads_for(all_bytes), [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) compare_batch(batches_[b]);
  });
  fallen_.clear();
  fallen_.reserve(left_at_.size() - std::count(left_at_.begin(), left_at_.end(), equal_to_leader));
  int64_t bytes = 0;
  for (const Batch& batch : batches_) {
    const int64_t from = from_block_[batch.first];
    int64_t furthest = from;
    bool leader_is_equal = false;
    for (int64_t m = batch.first; m < batch.first + batch.count; ++m) {
      const int64_t row = members_[m];
      const int64_t stop = left_at_[m] == equal_to_leader ? rows_.num_blocks() : left_at_[m] + 1;
      bytes += bytes_in(from, stop);
      furthest = std::max(furthest, stop);
      if (left_at_[m] == equal_to_leader) {
        leader_is_equal = true;
        continue;
      }
      fallen_.push_back({row, batch.leader, left_at_[m], left_at_[m] + 1, left_key_[m]});
      if (check_nan_) unread_from_[row] = std::max(unread_from_[row], left_at_[m] + 1);
    }
    if (check_nan_ && !leader_is_equal)
      unread_from_[batch.leader] = std::max<int32_t>(unread_from_[batch.leader], static_cast<int32_t>(furthest - 1));
    if (furthest > from) bytes += bytes_in(from, furthest);
  }
  last_work().rows_compared += static_cast<int64_t>(members_.size());
  last_work().bytes_touched += bytes;
  sort_stoppably(fallen_.begin(), fallen_.end(), [](const Fallen& a, const Fallen& b) { return a.row < b.row; });
}

// Rows that left the same leader at the same block are grouped by the hash of that block, or of everything from
// there to the end; then compared again.
void Grouper::regroup_fallen(bool to_the_end) {
  forget_members();
  const int64_t n = static_cast<int64_t>(fallen_.size());
  std::vector<uint64_t> keys(n);
  std::vector<uint8_t> nan(n);
  std::atomic<int64_t> bytes{0};
  parallel_for(n, 16, threads_for(to_the_end ? n * rows_.row_bytes() : 0), [&](int64_t begin, int64_t end) {
    std::array<std::byte, block_bytes> scratch;
    int64_t read = 0;
    for (int64_t p = begin; p < end; ++p) {
      const Fallen& f = fallen_[p];
      uint64_t key = f.key;
      bool seen = nan_[f.row];
      if (to_the_end) {
        key = rest_key(f.row, f.hashed_to, key, scratch.data(), seen);
        if (check_nan_) unread_from_[f.row] = static_cast<int32_t>(rows_.num_blocks());
        read += bytes_in(f.hashed_to, rows_.num_blocks());
      }
      keys[p] = masked(fingerprint::mix(key + fingerprint::mix(static_cast<uint64_t>(f.leader)) + f.block));
      nan[p] = seen;
    }
    bytes += read;
  });
  std::vector<int64_t> first(n);
  const int64_t following = group_keys(keys.data(), nan.data(), n, first.data(), num_threads_);
  release(keys);
  std::vector<Follower> followers;
  followers.reserve(following);
  for (int64_t p = 0; p < n; ++p) {
    const Fallen &f = fallen_[p], &leader = fallen_[first[p]];
    leader_[f.row] = leader.row;
    nan_[f.row] |= nan[p];
    // a collision may bring rows together that left different leaders or blocks; nothing is known of them then
    const bool same_place = f.leader == leader.leader && f.block == leader.block;
    if (first[p] != p) followers.push_back({f.row, leader.row, same_place ? f.block : 0});
  }
  if (to_the_end) last_work().rows_fingerprinted += n;
  last_work().bytes_touched += bytes;
  release(fallen_);
  release(first);
  compare(std::move(followers), true);
}

// Hashes of different rows collided twice, which does not happen by chance: compare each with all leaders
// that its group has had. Quadratic, exact, and limited.
void Grouper::search_fallen() {
  std::vector<Fallen> left;
  left.swap(fallen_);
  std::vector<int64_t> leaders;  // among these rows, ascending
  Pace pace;
  last_work().rows_searched += static_cast<int64_t>(left.size());
  for (const Fallen& f : left) {
    leader_[f.row] = f.row;
    for (const int64_t candidate : leaders) {
      pace.after(2 * block_bytes);
      members_.assign(1, f.row);
      from_block_.assign(1, 0);
      left_at_.assign(1, equal_to_leader);
      left_key_.resize(1);
      compare_batch({candidate, 0, 1});
      if (left_at_[0] == equal_to_leader) {
        leader_[f.row] = candidate;
        break;
      }
      if (++last_work().collisions > most_collisions_) throw KeysAreKnown();
    }
    if (leader_[f.row] == f.row) leaders.push_back(f.row);
  }
}

// Rows that are no contiguous memory, some at a time, from the first block that one of them needs.
void Grouper::scan_staged(const int64_t* rows, int64_t num_rows) {
  std::array<std::byte, scratch_block_bytes * max_rows_at_once> scratch;
  std::array<const std::byte*, max_rows_at_once> pieces;
  Pace pace;
  for (int64_t first = 0; first < num_rows; first += max_rows_at_once) {
    const int count = static_cast<int>(std::min<int64_t>(max_rows_at_once, num_rows - first));
    int32_t from = unread_from_[rows[first]];
    for (int r = 1; r < count; ++r) from = std::min(from, unread_from_[rows[first + r]]);
    for (int64_t b = from; b < rows_.num_blocks(); ++b) {
      pace.after(count * rows_.block_length(b));
      rows_.blocks(rows + first, count, b, scratch.data(), pieces.data());
      for (int r = 0; r < count; ++r)
        nan_[rows[first + r]] |= kernels_.holds_nan(pieces[r], rows_.block_length(b), rows_.grid());
    }
  }
}

// Rows that equal another row hold no NaN; of the others, reads what nobody has read yet.
int64_t Grouper::scan_for_nan() {
  const int64_t n = rows_.num_rows();
  if (check_nan_) {
    std::vector<uint8_t> has_company(n, 0);
    for (int64_t i = 0; i < n; ++i)
      if (leader_[i] != i) has_company[i] = has_company[leader_[i]] = 1;
    std::vector<int64_t> unread;
    for (int64_t i = 0; i < n; ++i)
      if (!nan_[i] && !has_company[i] && unread_from_[i] < rows_.num_blocks()) unread.push_back(i);
    const int64_t count = static_cast<int64_t>(unread.size());
    if (rows_.has_bands() && count * fewest_of_a_band >= n)
      scan_bands(rows_, unread, unread_from_.data(), threads_for(n * rows_.row_bytes()), nan_.data());
    else
      scan_row_by_row(unread);
  }
  return std::count_if(nan_.data(), nan_.data() + n, [](uint8_t nan) { return nan != 0; });
}

void Grouper::scan_row_by_row(const std::vector<int64_t>& unread) {
  const int64_t count = static_cast<int64_t>(unread.size());
  for (const int64_t i : unread) last_work().bytes_touched += bytes_in(unread_from_[i], rows_.num_blocks());
  const int64_t chunk = std::max<int64_t>(1, (1 << 20) / std::max<int64_t>(1, rows_.row_bytes()));
  std::atomic<int64_t> read_again{0};
  parallel_for(count, chunk, threads_for(count * rows_.row_bytes()), [&](int64_t begin, int64_t end) {
    if (!rows_.is_direct()) return scan_staged(unread.data() + begin, end - begin);
    for (int64_t p = begin, next = p; p < end; p = next) {
      next = p + rows_without_gap(unread.data() + p, end - p);
      const int64_t from = static_cast<int64_t>(unread_from_[unread[p]]) * block_bytes;
      const int64_t num_bytes = (next - p) * rows_.row_bytes() - from;
      if (!kernels_.holds_nan(rows_.row(unread[p]) + from, num_bytes, rows_.grid())) continue;
      read_again += next > p + 1 ? num_bytes : 0;
      for (; p < next; ++p) {
        const int64_t i = unread[p], first = static_cast<int64_t>(unread_from_[i]) * block_bytes;
        nan_[i] = kernels_.holds_nan(rows_.row(i) + first, rows_.row_bytes() - first, rows_.grid());
      }
    }
  });
  last_work().bytes_touched += read_again;
}

// How many of these rows, one at least, lie behind each other as one piece of memory that is to be read: several places
// of a long piece are read in turn. One that holds a NaN is read again, row by row.
int64_t Grouper::rows_without_gap(const int64_t* rows, int64_t num_rows) const {
  constexpr int64_t longest_bytes = 256 << 10;
  if (rows_.row_stride() != rows_.row_bytes()) return 1;
  const int64_t most = std::min(num_rows, longest_bytes / std::max<int64_t>(1, rows_.row_bytes()));
  int64_t count = 1;
  while (count < most && rows[count] == rows[count - 1] + 1 && unread_from_[rows[count]] == 0) ++count;
  return count;
}

int64_t Grouper::number_bundles() {
  if (all_lead_) return rows_.num_rows();  // ids are leaders already
  int64_t num_bundles = 0;
  for (int64_t i = 0; i < rows_.num_rows(); ++i) leader_[i] = leader_[i] == i ? num_bundles++ : leader_[leader_[i]];
  return num_bundles;
}

void Grouper::group_in_one_pass(const uint8_t* skip) {
  std::vector<uint8_t> read_whole(check_nan_ ? rows_.num_rows() : 0, 0);
  group_short_rows(rows_, {skip, leader_, nan_.data(), check_nan_ ? read_whole.data() : nullptr, most_collisions_},
                   num_threads_);
  std::copy(read_whole.begin(), read_whole.end(), unread_from_.begin());  // a short row is one block
}

// Compares rows [first, last) with the first one of their sample, which is the first of its kind; is_settled becomes 0
// for those that differ from it. Adds to the numbers of equal rows and of others.
void Grouper::compare_short_rows(int64_t first, int64_t last, uint8_t* is_settled, Agreement& found) {
  constexpr int together = 8;
  constexpr int64_t ahead = 16, fetched_bytes = 512;
  const int64_t row_bytes = rows_.row_bytes();
  std::atomic<int64_t> all_equal{0}, all_different{0};
  const int threads = threads_for((last - first) * row_bytes);
  parallel_for(last - first, 4096, threads, [&](int64_t begin, int64_t end) {
    std::array<const std::byte*, together> row, leader;
    std::array<int64_t, together> member;
    std::vector<std::byte> scratch(rows_.is_direct() ? 0 : 2 * together * row_bytes);
    int count = 0;
    int64_t num_equal = 0, num_different = 0;
    const auto compare = [&] {
      const uint32_t equal = kernels_.equal_pairs(row.data(), leader.data(), count, row_bytes, 0, rows_.grid());
      for (int m = 0; m < count; ++m) {
        if (!(equal >> m & 1)) is_settled[member[m]] = 0;
        ++(equal >> m & 1 ? num_equal : num_different);
      }
      count = 0;
    };
    Pace pace;
    for (int64_t i = first + begin; i < first + end; ++i) {
      if (rows_.is_direct() && i + ahead < first + end && leader_[i + ahead] != i + ahead)
        for (int64_t at = 0; at < std::min(row_bytes, fetched_bytes); at += line_bytes)
          __builtin_prefetch(rows_.row(leader_[i + ahead]) + at);
      if (leader_[i] == i) continue;
      std::byte* const staged = scratch.data() + (rows_.is_direct() ? 0 : 2 * count * row_bytes);
      row[count] = rows_.piece(i, 0, row_bytes, staged);
      leader[count] = rows_.piece(leader_[i], 0, row_bytes, rows_.is_direct() ? staged : staged + row_bytes);
      member[count++] = i;
      if (count < together) continue;
      pace.after(2 * together * row_bytes);
      compare();
    }
    compare();
    all_equal += num_equal;
    all_different += num_different;
  });
  found.equal += all_equal;
  found.different += all_different;
  last_work().rows_compared += all_equal + all_different;
  last_work().bytes_touched += 2 * (all_equal + all_different) * row_bytes;
}

void Grouper::group_members_of_short_rows() {
  const int64_t n = rows_.num_rows();
  std::vector<uint8_t> is_settled(n, 1);
  Agreement found;
  bool mislead = false;
  for (int64_t begin = 0, end = std::max<int64_t>(256, n / 64); begin < n && !mislead; begin = end, end *= 4) {
    compare_short_rows(begin, std::min(end, n), is_settled.data(), found);
    mislead = end < n && found.different > found.equal + 16;
  }
  if (mislead) {  // of the rows behind nothing is known
    std::fill(is_settled.begin(), is_settled.end(), 1);
    for (int64_t i = 0; i < n; ++i)
      if (leader_[i] != i) is_settled[i] = is_settled[leader_[i]] = 0;
  }
  if (found.different > 0) group_in_one_pass(is_settled.data());
}

void Grouper::group_members_of_long_rows() {
  if (auto all = followers(); fill_bands(all)) {
    compare_by_bands(all, false);
  } else {
    list_members(std::move(all));
    separate_large_groups();
    if (!members_.empty()) compare_with_leaders();
  }
  if (!fallen_.empty()) regroup_fallen(false);
  if (!fallen_.empty()) regroup_fallen(true);
  if (!fallen_.empty()) search_fallen();
}

Grouping Grouper::run() {
  const int64_t n = rows_.num_rows();
  const bool short_rows = rows_.row_bytes() <= block_bytes && !rows_.has_bands();
  if (rows_.row_bytes() == 0) {
    std::fill(leader_, leader_ + n, 0);
  } else if (short_rows && looks_full_of_duplicates()) {
    group_in_one_pass(nullptr);
  } else if (sample_all_rows() == 0) {
    all_lead_ = true;
  } else if (short_rows) {
    group_members_of_short_rows();
  } else {
    group_members_of_long_rows();
  }
  const int64_t num_nan_rows = scan_for_nan();
  return {number_bundles(), num_nan_rows};
}

}  // namespace

Grouping group_rows(RowBlocks rows, bool check_nan, int num_threads, int64_t* ids) {
  // with keys that nobody knows there are about N^2 / 2^33 of them; routing bits are masked to see many
  const int64_t most_collisions = ~routing_mask() ? no_limit : 64 + rows.num_rows();
  if (rows.row_bytes() > block_bytes || rows.num_rows() <= most_rows_of_bands) rows.cut_as_the_memory_is();
  try {
    return Grouper(rows, check_nan, num_threads, most_collisions, ids).run();
  } catch (const KeysAreKnown&) {}
  const BlockKeys fresh(random_key());
  rows.route_by(fresh);
  return Grouper(rows, check_nan, num_threads, no_limit, ids).run();
}

}  // namespace cbkernels
