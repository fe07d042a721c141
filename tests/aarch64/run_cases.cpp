// Runs the cases that export_cases.py wrote on csrc/cpu, without Python: `run_cases FILE`. Each case on every
// instruction set of this build, on one thread and on three, with equal routing hashes, and called by a thread whose
// own floating-point environment is hostile. The routing hashes are compared with their definition. Prints how many
// there were and each wrong one; exits 1 if there is any, or if nothing ran on several threads.
#include <algorithm>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/contract.h"
#include "../../csrc/cpu/instruction_sets.h"
#include "check_routing.h"
#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

using namespace cbkernels;

namespace {

// --- the file -----------------------------------------------------------------------------------------

class Reader {
 public:
  explicit Reader(const char* path) : file_(path, std::ios::binary) {
    if (!file_) throw std::runtime_error(std::string("cannot open ") + path);
  }
  template <class T>
  T one() {
    T value;
    read(&value, sizeof value);
    return value;
  }
  int64_t integer() { return one<int64_t>(); }
  template <class T>
  std::vector<T> array() {
    const int64_t bytes = integer();
    if (bytes < 0 || bytes % static_cast<int64_t>(sizeof(T))) throw std::runtime_error("the file is damaged");
    std::vector<T> values(static_cast<size_t>(bytes) / sizeof(T));
    read(values.data(), static_cast<size_t>(bytes));
    return values;
  }
  void read(void* to, size_t bytes) {
    file_.read(static_cast<char*>(to), static_cast<std::streamsize>(bytes));
    if (static_cast<size_t>(file_.gcount()) != bytes) throw std::runtime_error("the file ends too early");
  }

 private:
  std::ifstream file_;
};

// A view and the memory that it reaches, at an address with the same last six bits as where it was exported.
class Memory {
 public:
  explicit Memory(Reader& from) {
    view.dtype = static_cast<DType>(from.integer());
    const int64_t axes = from.integer();
    for (int64_t a = 0; a < axes; ++a) view.shape.push_back(from.integer());
    for (int64_t a = 0; a < axes; ++a) view.stride_bytes.push_back(from.integer());
    const int64_t offset = from.integer(), last_bits = from.integer();
    bytes_ = from.array<std::byte>();
    placed_.resize(bytes_.size() + 128);
    const auto address = reinterpret_cast<uintptr_t>(placed_.data());
    begin_ = static_cast<size_t>((static_cast<uintptr_t>(last_bits) - address) & 63);
    std::copy(bytes_.begin(), bytes_.end(), placed_.begin() + static_cast<std::ptrdiff_t>(begin_));
    view.data = placed_.data() + begin_ + offset;
  }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;

  bool is_as_it_was() const { return std::equal(bytes_.begin(), bytes_.end(), placed_.data() + begin_); }
  LabelsView labels() const { return {view.data, itemsize(view.dtype), view.stride_bytes[0]}; }

  RowsView view{};

 private:
  std::vector<std::byte> bytes_, placed_;
  size_t begin_ = 0;
};

std::string text(const std::vector<char>& characters) { return {characters.begin(), characters.end()}; }

UpdateGrid grid_from(Reader& from) {
  UpdateGrid grid;
  grid.kind = static_cast<GridKind>(from.integer());
  grid.weight_amplitude = from.one<double>();
  grid.learning_rate = from.one<double>();
  grid.inverse_batch_size = from.one<double>();
  return grid;
}

BundleCounts counts_from(Reader& from) {
  BundleCounts counts;
  counts.num_bundles = from.integer();
  counts.num_nan_rows = from.integer();
  counts.num_conflicting = from.integer();
  counts.num_conflicting_rows = from.integer();
  counts.label_counts = from.array<int64_t>();
  counts.starts = from.array<int64_t>();
  return counts;
}

struct Case {
  std::string name;
  Memory acts, labels;
  UpdateGrid grid;
  bool has_tolerance;
  Tolerance tolerance;
  bool may_collide;
  std::vector<int64_t> ids;
  BundleCounts counts;
  std::vector<uint64_t> fingerprints;
  std::vector<uint8_t> holds_nan;
  bool has_margin;
  double margin;

  explicit Case(Reader& from)
      : name(text(from.array<char>())), acts(from), labels(from), grid(grid_from(from)),
        has_tolerance(from.integer() != 0), tolerance{from.one<double>(), from.one<double>()},
        may_collide(from.integer() != 0), ids(from.array<int64_t>()), counts(counts_from(from)),
        fingerprints(from.array<uint64_t>()), holds_nan(from.array<uint8_t>()), has_margin(from.integer() != 0),
        margin(from.one<double>()) {}
  const Tolerance* tolerance_or_null() const { return has_tolerance ? &tolerance : nullptr; }
};

// --- the caller's floating-point environment ----------------------------------------------------------

// Rounds toward zero and flushes subnormals: what a caller may have set, and what must change nothing and be left.
#if defined(__x86_64__)
constexpr uint64_t hostile = 0xffc0;  // FTZ, toward zero, all exceptions masked, DAZ
uint64_t float_environment() { return _mm_getcsr() & ~0x3fu; }  // without the exceptions that have been
void set_float_environment(uint64_t to) { _mm_setcsr(static_cast<unsigned>(to)); }
#elif defined(__aarch64__)
constexpr uint64_t hostile = 3u << 22 | 1u << 24 | 1u << 25;  // RMode toward zero, FZ, DN
uint64_t float_environment() {
  uint64_t now;
  asm volatile("mrs %0, fpcr" : "=r"(now));
  return now;
}
void set_float_environment(uint64_t to) { asm volatile("msr fpcr, %0" : : "r"(to)); }
#endif

// --- questions ----------------------------------------------------------------------------------------

struct Setting {
  const char* instruction_set;
  int threads;
  int routing_bits;
  bool is_hostile;
};

bool same(const BundleCounts& a, const BundleCounts& b) {
  return a.num_bundles == b.num_bundles && a.num_nan_rows == b.num_nan_rows && a.num_conflicting == b.num_conflicting &&
         a.num_conflicting_rows == b.num_conflicting_rows && a.label_counts == b.label_counts && a.starts == b.starts;
}

bool ids_are_right(const Case& c, int threads) {
  std::vector<int64_t> ids(c.ids.size(), -1);
  const int64_t bundles = cpu::bundle_ids(c.acts.view, c.grid, c.tolerance_or_null(), ids.data(), threads);
  return bundles == c.counts.num_bundles && ids == c.ids;
}

bool counts_are_right(const Case& c, int threads) {
  return same(cpu::count_bundles(c.acts.view, c.labels.labels(), c.grid, c.tolerance_or_null(), true, threads),
              c.counts);
}

bool counts_without_nan_check_are_right(const Case& c, int threads) {
  BundleCounts counts =
      cpu::count_bundles(c.acts.view, c.labels.labels(), c.grid, c.tolerance_or_null(), false, threads);
  if (counts.num_nan_rows < 0 || counts.num_nan_rows > c.counts.num_nan_rows) return false;
  counts.num_nan_rows = c.counts.num_nan_rows;
  return same(counts, c.counts);
}

bool fingerprints_are_right(const Case& c, int threads) {
  std::vector<uint64_t> fingerprints(c.fingerprints.size(), 1);
  std::vector<uint8_t> holds_nan(c.holds_nan.size(), 2);
  cpu::row_fingerprints(c.acts.view, c.grid, {0x243f6a8885a308d3ull, 0}, fingerprints.data(), holds_nan.data(),
                        threads);
  return fingerprints == c.fingerprints && holds_nan == c.holds_nan;
}

// As in streaming: rows without NaN, in two blocks.
bool fingerprints_count_right(const Case& c, int threads) {
  const LabelsView labels = c.labels.labels();
  std::vector<uint64_t> kept;
  std::vector<int64_t> label_of_kept;
  for (size_t i = 0; i < c.ids.size(); ++i) {
    if (c.holds_nan[i]) continue;
    int64_t label = 0;  // little-endian; which label is which does not matter, nor does a sign
    std::memcpy(&label, labels.data + static_cast<int64_t>(i) * labels.stride_bytes,
                static_cast<size_t>(labels.itemsize));
    kept.insert(kept.end(), {c.fingerprints[2 * i], c.fingerprints[2 * i + 1]});
    label_of_kept.push_back(label);
  }
  const auto n = static_cast<int64_t>(label_of_kept.size()), half = n / 3;
  BundleCounts counts = cpu::count_fingerprints(
      {{kept.data(), label_of_kept.data(), half}, {kept.data() + 2 * half, label_of_kept.data() + half, n - half}},
      threads);
  counts.num_bundles += c.counts.num_nan_rows;
  counts.num_nan_rows += c.counts.num_nan_rows;
  return same(counts, c.counts);
}

bool margin_is_right(const Case& c, int threads) {
  return cpu::conflict_margin(c.acts.view, c.labels.labels(), threads) == c.margin;
}

struct Question {
  const char* name;
  bool (*is_right)(const Case&, int threads);
};

std::vector<Question> questions_of(const Case& c) {
  std::vector<Question> questions{{"ids", ids_are_right},
                                  {"counts", counts_are_right},
                                  {"counts without looking for NaN", counts_without_nan_check_are_right}};
  if (!c.has_tolerance) {
    questions.push_back({"fingerprints", fingerprints_are_right});
    questions.push_back({"counts of fingerprints", fingerprints_count_right});
  }
  if (c.has_margin) questions.push_back({"margin", margin_is_right});
  return questions;
}

class Report {
 public:
  void check(const Case& c, const Setting& setting) {
    use_routing_bits(setting.routing_bits);
    const uint64_t before = float_environment();
    for (const Question& question : questions_of(c)) {
      if (setting.is_hostile) set_float_environment(hostile);
      const uint64_t given = float_environment();
      bool right = false;
      std::string said = "wrong";
      try {
        right = question.is_right(c, setting.threads);
      } catch (const std::exception& error) { said = error.what(); }
      const bool kept = float_environment() == given;
      set_float_environment(before);
      ++num_answers_;
      num_parallel_ += last_work().parallel_regions > 0;
      if (!right) complain(c, setting, question.name, said);
      if (!kept) complain(c, setting, question.name, "the caller's floating-point environment was changed");
    }
    if (!c.acts.is_as_it_was() || !c.labels.is_as_it_was()) complain(c, setting, "input", "it was written to");
  }
  int64_t num_answers() const { return num_answers_; }
  int64_t num_parallel() const { return num_parallel_; }
  int64_t num_wrong() const { return num_wrong_; }

 private:
  void complain(const Case& c, const Setting& s, const char* question, const std::string& what) {
    ++num_wrong_;
    std::printf("WRONG: %s: %s: %s (%s, %d threads, %d routing bits, %s environment)\n", c.name.c_str(), question,
                what.c_str(), s.instruction_set, s.threads, s.routing_bits, s.is_hostile ? "hostile" : "usual");
  }

  int64_t num_answers_ = 0, num_parallel_ = 0, num_wrong_ = 0;
};

void check_everywhere(const Case& c, Report& report) {
  for (const std::string& set : instruction_sets()) {
    use_instruction_set(set);
    report.check(c, {set.c_str(), 1, 64, false});
    report.check(c, {set.c_str(), 3, 64, true});
    if (c.may_collide) report.check(c, {set.c_str(), 1, 0, false});
  }
}

int run(const char* path) {
  Reader file(path);
  char magic[8];
  file.read(magic, sizeof magic);
  if (std::memcmp(magic, "cbkcase1", sizeof magic)) throw std::runtime_error("no file of export_cases.py");
  const int64_t num_cases = file.integer();
  Report report;
  for (int64_t i = 0; i < num_cases; ++i) check_everywhere(Case(file), report);
  std::string sets;
  int64_t num_hashes = 0, num_wrong = report.num_wrong();
  for (const std::string& set : instruction_sets()) {
    sets += " " + set;
    use_instruction_set(set);
    num_wrong += routing_check::check(instruction_set_in_use(), num_hashes);
  }
  std::printf("%" PRId64 " cases, %" PRId64 " answers by%s, %" PRId64 " of them on several threads, %" PRId64
              " routing hashes, %" PRId64 " wrong\n",
              num_cases, report.num_answers(), sets.c_str(), report.num_parallel(), num_hashes, num_wrong);
  return num_wrong || !report.num_parallel() ? 1 : 0;
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 2) {
    std::fprintf(stderr, "usage: %s FILE, which export_cases.py writes\n", arguments[0]);
    return 2;
  }
  try {
    return run(arguments[1]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", arguments[1], error.what());
    return 2;
  }
}
