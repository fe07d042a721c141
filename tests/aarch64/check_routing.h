// The routing hashes of csrc/cpu against their definition, value by value. A wrong hash shows in no answer as long as
// equal rows share it, and shows at random when it depends on what a register held: GCC 12 made such code once.
#pragma once
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../../csrc/cpu/instruction_sets.h"

namespace cbkernels::routing_check {

using Words32 = std::vector<uint32_t>;

struct Kind {
  const char* name;
  Element element;
  int itemsize;  // bytes that a value takes where the kernels read it
};
constexpr Kind kinds[num_elements] = {
    {"bits", Element::bits, 1},
    {"float32", Element::float32, 4},
    {"float64", Element::float64, 8},
    {"float16", Element::float16, 2},
    {"bfloat16", Element::bfloat16, 2},
    {"float8_e4m3fn", Element::float8_e4m3fn, 1},
    {"float8_e5m2", Element::float8_e5m2, 1},
    {"grid float32", Element::grid_float32, 4},
    {"grid float64", Element::grid_float64, 8},
    {"grid float16", Element::grid_float16, 4},
    {"grid bfloat16", Element::grid_bfloat16, 4},
};

// One value as the kernels must see it: the pattern that is hashed, and whether it is a NaN.
struct Seen {
  uint64_t pattern;
  bool is_nan;
};

inline Seen small_float(uint64_t pattern, int bits, uint64_t last_number) {
  const uint64_t magnitude = pattern & ((1ull << (bits - 1)) - 1);
  return {magnitude == 0 ? 0 : pattern, magnitude > last_number};
}

template <class Real, class Pattern>
Seen number(Real value) {
  Pattern pattern = 0;
  if (value != 0) std::memcpy(&pattern, &value, sizeof value);
  return {pattern, value != value};
}

inline Seen seen(Element element, const UpdateGrid& grid, const std::byte* from, int itemsize) {
  uint64_t pattern = 0;
  std::memcpy(&pattern, from, static_cast<size_t>(itemsize));
  float single;
  double number64;
  std::memcpy(&single, from, itemsize == 4 ? sizeof single : 0);
  std::memcpy(&number64, from, itemsize == 8 ? sizeof number64 : 0);
  const auto on_float_grid = [&] {
    const volatile float product = single * static_cast<float>(grid.learning_rate);
    const volatile float update = product * static_cast<float>(grid.inverse_batch_size);
    return static_cast<float>(grid.weight_amplitude) - update;
  };
  switch (element) {
    case Element::float32: return number<float, uint32_t>(single);
    case Element::float64: return number<double, uint64_t>(number64);
    case Element::float16: return small_float(pattern, 16, 0x7c00);
    case Element::bfloat16: return small_float(pattern, 16, 0x7f80);
    case Element::float8_e4m3fn: return small_float(pattern, 8, 0x7e);
    case Element::float8_e5m2: return small_float(pattern, 8, 0x7c);
    case Element::grid_float32: return number<float, uint32_t>(on_float_grid());
    case Element::grid_float64: {
      const volatile double product = number64 * grid.learning_rate;
      const volatile double update = product * grid.inverse_batch_size;
      return number<double, uint64_t>(grid.weight_amplitude - update);
    }
    case Element::grid_float16:
    case Element::grid_bfloat16: {
      const float value = on_float_grid();
      uint32_t bits;
      std::memcpy(&bits, &value, sizeof bits);
      const uint32_t rounded = element == Element::grid_float16 ? round_to_float16(bits) : round_to_bfloat16(bits);
      return {(rounded & 0x7fff) == 0 ? 0 : rounded, value != value};
    }
    default: return {pattern, false};
  }
}

// What `route` must say of a piece, from its description in row_kernels.h: NH of the words under the keys, in four
// sums that take turns, folded onto `key`.
inline uint64_t hash_of(const Words32& words, const Words32& keys, uint64_t key) {
  const uint64_t factors[4] = {0x9e3779b97f4a7c15, 0xc2b2ae3d27d4eb4f, 0x165667b19e3779f9, 0xd6e8feb86659fd93};
  uint64_t z = key;
  for (size_t i = 0; i < words.size(); i += 2)
    z += static_cast<uint64_t>(words[i] + keys[i]) * (words[i + 1] + keys[i + 1]) * factors[i / 2 % 4];
  z ^= z >> 32;
  z *= factors[3];
  return z ^ (z >> 32);
}

class Piece {
 public:
  Piece(const Kind& kind, const UpdateGrid& grid, int64_t num_values, bool with_nan, std::mt19937_64& random)
      : bytes(static_cast<size_t>(num_values * kind.itemsize)) {
    const auto size = static_cast<size_t>(kind.itemsize);
    words.resize((bytes.size() + 63) / 64 * 16);
    for (size_t at = 0; at < bytes.size(); at += size) {
      uint64_t pattern = random();
      if (random() % 8 == 0) pattern = random() % 2 ? 1ull << (8 * size - 1) : 0;  // -0 or 0
      std::memcpy(&bytes[at], &pattern, size);
      Seen value = seen(kind.element, grid, &bytes[at], kind.itemsize);
      if (value.is_nan && !with_nan) {
        std::memset(&bytes[at], 1, size);  // a small number
        value = seen(kind.element, grid, &bytes[at], kind.itemsize);
      }
      holds_nan |= value.is_nan;
      std::memcpy(reinterpret_cast<std::byte*>(words.data()) + at, &value.pattern, size);
    }
  }
  std::vector<std::byte> bytes;
  Words32 words;
  bool holds_nan = false;
};

// Prints each kind that goes wrong once; returns how many do. `num_checked` counts the hashes.
inline int check(const InstructionSet& set, int64_t& num_checked) {
  std::mt19937_64 random(11);
  Words32 keys(1024 + 64);
  for (uint32_t& key : keys) key = static_cast<uint32_t>(random());
  int num_wrong = 0;
  for (const Kind& kind : kinds) {
    UpdateGrid grid;
    grid.weight_amplitude = static_cast<double>(0.7f);
    grid.learning_rate = static_cast<double>(0.001f);
    grid.inverse_batch_size = static_cast<double>(1.0f / 50);
    const RowKernels& kernels = set.row_kernels(kind.element);
    int64_t first_wrong = -1;
    for (int64_t bytes = kind.itemsize; bytes <= block_bytes; bytes += bytes < 512 ? kind.itemsize : 24) {
      const Piece piece(kind, grid, bytes / kind.itemsize, random() % 4 == 0, random);
      const uint64_t chained_on = random();
      const auto num_bytes = static_cast<int64_t>(piece.bytes.size());
      bool nan = false;
      const uint64_t hash =
          kernels.route(piece.bytes.data(), num_bytes, piece.bytes.data(), grid, keys.data(), chained_on, &nan);
      bool right = nan == piece.holds_nan && (nan || hash == hash_of(piece.words, keys, chained_on));
      if (num_bytes <= 64) {
        const int64_t offset = 0;
        uint64_t sample = 0;
        uint8_t sample_nan = 2;
        kernels.route_samples(piece.bytes.data(), num_bytes, 1, &offset, 1, num_bytes, grid, keys.data(), &sample,
                              &sample_nan);
        right &= sample_nan == piece.holds_nan && (sample_nan || sample == hash_of(piece.words, keys, 0));
      }
      ++num_checked;
      if (!right && first_wrong < 0) first_wrong = num_bytes;
    }
    if (first_wrong < 0) continue;
    ++num_wrong;
    std::printf("WRONG: routing hash of %s, the first time at %" PRId64 " bytes (%s)\n", kind.name, first_wrong,
                set.name);
  }
  return num_wrong;
}

}  // namespace cbkernels::routing_check
