// Runs the threads of a launch: which one next, who waits for whom, and what can never come true any more.
#include <cfenv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "emulation.h"
#include "fibers.h"
#include "scheduler.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace emulation {
namespace {

constexpr uint32_t whole_warp = 0xffffffffu;
constexpr int64_t most_steps_without_progress = 20'000'000;  // about half a second
constexpr int64_t most_steps = 4'000'000'000;
constexpr int most_steps_of_a_turn = 4096;  // also in order: a spin must not keep the processor
constexpr size_t guard_bytes = 64;
constexpr unsigned char guard_value = 0xdb, garbage = 0xcd;

class Random {
 public:
  void seed(uint64_t value) { state_ = value * 0x9e3779b97f4a7c15ull + 1; }
  uint32_t next() {  // splitmix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
    return static_cast<uint32_t>((z ^ (z >> 31)) >> 32);
  }
  uint32_t below(uint32_t count) { return static_cast<uint32_t>(uint64_t{next()} * count >> 32); }

 private:
  uint64_t state_ = 1;
};

struct Warp {
  uint32_t can_run = whole_warp, at_block_barrier = 0, finished = 0;
  int arrived = 0;  // at the collective
  Collective collective = Collective::syncwarp;
  unsigned generation = 0;  // which of the two buffers the next collective uses
  uint64_t values[2][32];
  uint32_t rarely = 0;  // chance of being passed over, of 2^32
};

struct Block {
  unsigned index = 0;
  int arrived = 0, finished = 0;
  BlockBarrier barrier = BlockBarrier::syncthreads;
  unsigned generation = 0;
  bool any[2] = {false, false};
  std::vector<Warp> warps;
  std::vector<Fiber*> fibers;
  std::unique_ptr<unsigned char[]> shared_memory;  // with guard bytes on both sides
};

struct Launch {
  const std::function<void()>* body = nullptr;
  int num_blocks = 0, num_threads = 0;
  size_t shared_bytes = 0;
  bool is_random = false;
  bool starves_warps = false;
  Random random;
  std::vector<std::unique_ptr<Block>> resident;
  std::vector<std::unique_ptr<Fiber>> fibers;  // kept from launch to launch
  int64_t steps = 0, steps_at_progress = 0;
  int steps_of_turn = 0;
  uint32_t accesses_to_interrupt = 0, most_accesses = 1;  // until the next interruption
  std::string failure;
  // the running thread
  Block* block = nullptr;
  Warp* warp = nullptr;
  Fiber* fiber = nullptr;
  int lane = 0;
};
Launch now;
thread_local bool is_running_threads = false;  // of a launch, in this thread of the host
uint64_t schedule_seed = 0, launches_of_schedule = 0;

std::string running_thread() {
  return "thread " + std::to_string(threadIdx.x) + " of block " + std::to_string(blockIdx.x);
}

// Ends the launch; called on the stack of a thread, which never runs again.
[[noreturn]] void fail(const std::string& what) {
  now.failure = what + " (" + running_thread() + ")";
  now.fiber->leave_for_good();
}

void progress() { now.steps_at_progress = now.steps; }

void step() {
  ++now.steps;
  ++now.steps_of_turn;
  if (now.steps - now.steps_at_progress > most_steps_without_progress || now.steps > most_steps)
    fail("no progress: a spin that never ends, or a wait for a block that is not running");
}

void pause() {
  now.fiber->pause();
  now.steps_of_turn = 0;
}

const char* name_of(Collective collective) {
  constexpr const char* names[] = {"__syncwarp", "__shfl_sync", "__shfl_up_sync", "__shfl_xor_sync",
                                   "__any_sync", "__all_sync",  "__ballot_sync",  "__match_any_sync"};
  return names[static_cast<int>(collective)];
}
const char* name_of(BlockBarrier barrier) {
  return barrier == BlockBarrier::syncthreads ? "__syncthreads" : "__syncthreads_or";
}

void run_thread() {
  (*now.body)();
  Warp& warp = *now.warp;
  Block& block = *now.block;
  if (warp.arrived != 0)
    fail(std::string("warp divergence: the thread has left the kernel while others wait in ") +
         name_of(warp.collective));
  if (block.arrived != 0)
    fail(std::string("barrier divergence: the thread has left the kernel while others wait in ") +
         name_of(block.barrier));
  warp.can_run &= ~(1u << now.lane);
  warp.finished |= 1u << now.lane;
  ++block.finished;
  ++counting().threads_run;
  progress();
  now.fiber->leave_for_good();
}

// --- blocks: begin, end -------------------------------------------------------------------------------------

std::unique_ptr<Block> begin_block(unsigned index, int slot) {
  constexpr uint32_t chances[] = {0, 0, 0, 0x80000000u, 0xf8000000u};
  auto block = std::make_unique<Block>();
  block->index = index;
  block->warps.resize(static_cast<size_t>(now.num_threads / 32));
  if (now.starves_warps)
    for (Warp& warp : block->warps) warp.rarely = chances[now.random.below(5)];
  for (int t = 0; t < now.num_threads; ++t) {
    const size_t f = static_cast<size_t>(slot * now.num_threads + t);
    if (f == now.fibers.size()) now.fibers.push_back(std::make_unique<Fiber>());
    block->fibers.push_back(now.fibers[f].get());
    block->fibers.back()->start(run_thread);
  }
  const size_t bytes = now.shared_bytes + 2 * guard_bytes;
  block->shared_memory.reset(new unsigned char[bytes]);
  std::memset(block->shared_memory.get(), guard_value, bytes);
  std::memset(block->shared_memory.get() + guard_bytes, garbage, now.shared_bytes);
  protect_guards(block->shared_memory.get() + guard_bytes, now.shared_bytes, guard_bytes);
  return block;
}

bool is_overwritten(const unsigned char* guard) {
  for (size_t i = 0; i < guard_bytes; ++i)
    if (guard[i] != guard_value) return true;
  return false;
}

void end_block(const Block& block) {
  unsigned char* memory = block.shared_memory.get() + guard_bytes;
  unprotect_guards(memory, now.shared_bytes, guard_bytes);
  if (!now.failure.empty()) return;
  const std::string where = " (block " + std::to_string(block.index) + ")";
  if (is_overwritten(memory - guard_bytes) || is_overwritten(memory + now.shared_bytes))
    now.failure = "a write outside of the " + std::to_string(now.shared_bytes) + " bytes of shared memory" + where;
  for (const Fiber* fiber : block.fibers)
    if (fiber->has_overflowed()) now.failure = "a thread's stack has overflowed" + where;
}

// --- turns --------------------------------------------------------------------------------------------------

void resume(Block& block, Warp& warp, int warp_index, int lane) {
  const int thread = warp_index * 32 + lane;
  now.block = &block;
  now.warp = &warp;
  now.lane = lane;
  now.fiber = block.fibers[static_cast<size_t>(thread)];
  now.steps_of_turn = 0;
  threadIdx = {static_cast<unsigned>(thread), 0, 0};
  blockIdx = {block.index, 0, 0};
  now.fiber->resume();
}

// Lets a warp run as far as it gets, or for some turns.
void run_warp(Block& block, int warp_index) {
  Warp& warp = block.warps[static_cast<size_t>(warp_index)];
  const uint32_t turns = now.is_random ? 1 + now.random.below(12) : whole_warp;
  for (uint32_t turn = 0; turn < turns && warp.can_run != 0; ++turn) {
    const uint32_t first = now.is_random ? now.random.below(32) : 0;
    const uint32_t stride = now.is_random ? 2 * now.random.below(16) + 1 : 1;  // odd: every lane once
    const uint32_t had_turn = warp.can_run;
    bool has_yielded = false;
    for (uint32_t k = 0; k < 32; ++k) {
      const int lane = static_cast<int>((first + k * stride) % 32);
      if ((had_turn >> lane & 1u) == 0) continue;
      const unsigned generation = warp.generation, barrier = block.generation;
      resume(block, warp, warp_index, lane);
      if (!now.failure.empty()) return;
      has_yielded |= (warp.can_run >> lane & 1u) != 0 && warp.generation == generation && block.generation == barrier;
    }
    if (has_yielded) return;
  }
}

// Every warp of every resident block in some order, once. False when no thread could run.
bool run_round() {
  std::vector<std::pair<Block*, int>> order;
  for (const auto& block : now.resident)
    for (size_t w = 0; w < block->warps.size(); ++w) order.emplace_back(block.get(), static_cast<int>(w));
  if (now.is_random)
    for (size_t i = order.size(); i > 1; --i)
      std::swap(order[i - 1], order[now.random.below(static_cast<uint32_t>(i))]);
  bool could_run = false;
  for (const auto& [block, w] : order) {
    const Warp& warp = block->warps[static_cast<size_t>(w)];
    if (warp.can_run == 0) continue;
    could_run = true;
    if (now.is_random && now.random.next() < warp.rarely) continue;
    run_warp(*block, w);
    if (!now.failure.empty()) return true;
  }
  return could_run;
}

void run_blocks(bool is_cooperative) {
  std::vector<unsigned> waiting(static_cast<size_t>(now.num_blocks));  // the next at the back
  for (size_t i = 0; i < waiting.size(); ++i) waiting[i] = static_cast<unsigned>(waiting.size() - 1 - i);
  if (now.is_random)
    for (size_t i = waiting.size(); i > 1; --i)
      std::swap(waiting[i - 1], waiting[now.random.below(static_cast<uint32_t>(i))]);
  const uint32_t places =
      now.is_random && !is_cooperative ? 1 + now.random.below(most_resident_blocks) : most_resident_blocks;
  std::vector<int> free_slots(places);
  std::iota(free_slots.rbegin(), free_slots.rend(), 0);
  std::vector<int> slots;  // of the resident blocks
  while (now.failure.empty() && (!waiting.empty() || !now.resident.empty())) {
    for (; !waiting.empty() && !free_slots.empty(); waiting.pop_back(), free_slots.pop_back()) {
      slots.push_back(free_slots.back());
      now.resident.push_back(begin_block(waiting.back(), free_slots.back()));
    }
    if (!run_round()) now.failure = "deadlock: every thread waits for others";
    for (size_t b = now.resident.size(); b-- > 0 && now.failure.empty();) {
      if (now.resident[b]->finished < now.num_threads) continue;
      end_block(*now.resident[b]);
      free_slots.push_back(slots[b]);
      now.resident.erase(now.resident.begin() + static_cast<std::ptrdiff_t>(b));
      slots.erase(slots.begin() + static_cast<std::ptrdiff_t>(b));
    }
  }
  for (const auto& block : now.resident) end_block(*block);
  now.resident.clear();
}

}  // namespace

// --- what kernels call --------------------------------------------------------------------------------------

const uint64_t* exchange(Collective collective, unsigned mask, uint64_t value) {
  Warp& warp = *now.warp;
  step();
  if (mask != whole_warp) fail(std::string(name_of(collective)) + " with a mask that is not the whole warp");
  if (warp.finished != 0)
    fail(std::string("warp divergence: a lane has left the kernel before ") + name_of(collective));
  if (warp.at_block_barrier != 0)
    fail(std::string("warp divergence: ") + name_of(collective) + " while other lanes wait in " +
         name_of(now.block->barrier));
  if (warp.arrived == 0)
    warp.collective = collective;
  else if (warp.collective != collective)
    fail(std::string("warp divergence: ") + name_of(collective) + " while other lanes wait in " +
         name_of(warp.collective));
  const uint64_t* values = warp.values[warp.generation & 1];
  warp.values[warp.generation & 1][now.lane] = value;
  if (++warp.arrived < 32) {
    warp.can_run &= ~(1u << now.lane);
    pause();
    return values;
  }
  warp.arrived = 0;
  ++warp.generation;
  warp.can_run = whole_warp;
  ++counting().collectives;
  if (now.is_random && now.random.below(4) == 0) pause();  // the last one to come need not be the first to go
  return values;
}

bool wait_for_block(BlockBarrier barrier, bool value) {
  Block& block = *now.block;
  Warp& warp = *now.warp;
  step();
  if (block.finished != 0)
    fail(std::string("barrier divergence: a thread has left the kernel before ") + name_of(barrier));
  if (warp.arrived != 0)
    fail(std::string("barrier divergence: ") + name_of(barrier) + " while other lanes wait in " +
         name_of(warp.collective));
  if (block.arrived == 0)
    block.barrier = barrier;
  else if (block.barrier != barrier)
    fail(std::string("barrier divergence: ") + name_of(barrier) + " while other threads wait in " +
         name_of(block.barrier));
  bool& any = block.any[block.generation & 1];
  any = block.arrived == 0 ? value : any | value;
  if (++block.arrived < now.num_threads) {
    warp.can_run &= ~(1u << now.lane);
    warp.at_block_barrier |= 1u << now.lane;
    pause();
    return any;
  }
  block.arrived = 0;
  ++block.generation;
  for (Warp& other : block.warps) {
    other.can_run = whole_warp;
    other.at_block_barrier = 0;
  }
  ++counting().collectives;
  progress();
  if (now.is_random && now.random.below(4) == 0) pause();
  return any;
}

void sleep() {
  step();
  pause();
}

void may_interrupt() {
  step();
  if (now.is_random ? now.random.below(8) == 0 : now.steps_of_turn > most_steps_of_a_turn) pause();
}

void may_interrupt_access() {
  if (!now.is_random || now.accesses_to_interrupt-- != 0 || !is_running_threads) return;
  now.accesses_to_interrupt = now.random.below(now.most_accesses);
  step();
  pause();
}

unsigned char* dynamic_shared_memory() { return now.block->shared_memory.get() + guard_bytes; }
int lane() { return now.lane; }

// --- what the runtime and tests call ------------------------------------------------------------------------

void set_schedule(uint64_t seed) {
  schedule_seed = seed;
  launches_of_schedule = 0;
}

std::string run(int num_blocks, int num_threads, size_t shared_bytes, bool is_cooperative,
                const std::function<void()>& body) {
  now.body = &body;
  now.num_blocks = num_blocks;
  now.num_threads = num_threads;
  now.shared_bytes = shared_bytes;
  now.is_random = schedule_seed != 0;
  now.random.seed(schedule_seed * 0x100000001b3ull + launches_of_schedule++);
  now.starves_warps = now.is_random && now.random.below(3) != 0;
  now.most_accesses = 8u << now.random.below(6);
  now.accesses_to_interrupt = now.random.below(now.most_accesses);
  now.steps = now.steps_at_progress = 0;
  now.failure.clear();
  gridDim = dim3(static_cast<unsigned>(num_blocks));
  blockDim = dim3(static_cast<unsigned>(num_threads));
  std::fenv_t environment;
  std::fegetenv(&environment);
  std::fesetenv(FE_DFL_ENV);  // the caller may flush subnormals; a GPU does not know
  is_running_threads = true;
  run_blocks(is_cooperative);
  is_running_threads = now.is_random = false;
  std::fesetenv(&environment);
  ++counting().launches;
  return now.failure;
}

}  // namespace emulation
