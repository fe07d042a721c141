#include "threads.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <utility>
#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "../contract.h"
#include "float_environment.h"

namespace cbkernels {
namespace {

constexpr auto between_questions = std::chrono::milliseconds(100);

struct Asked {  // of a thread
  const std::function<void()>* question = nullptr;
  std::chrono::steady_clock::time_point next;
  const std::atomic<bool>* failed = nullptr;  // of the loop that it works for
};
thread_local Asked asked;

struct Loop {  // outlives the call when a helper starts late; `work` does not, and is not touched then
  int64_t count, chunk;
  const std::function<void(int64_t, int64_t)>* work;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::condition_variable all_finished;
  int64_t finished = 0;
  std::exception_ptr error;

  template <class Step>
  void attempt(const Step& step) {
    try {
      stop_if_asked();
      step();
    } catch (...) {
      const std::lock_guard<std::mutex> lock(mutex);
      if (!error) error = std::current_exception();
      failed = true;
    }
  }

  void run() {
    const FloatEnvironment ieee;
    const auto* outer = std::exchange(asked.failed, &failed);
    for (;;) {
      const int64_t begin = next.fetch_add(chunk);
      if (begin >= count) break;
      const int64_t end = std::min(count, begin + chunk);
      if (!failed.load(std::memory_order_relaxed)) attempt([&] { (*work)(begin, end); });
      const std::lock_guard<std::mutex> lock(mutex);
      finished += end - begin;
      if (finished == count) all_finished.notify_all();
    }
    asked.failed = outer;
  }

  // The caller's questions go on while the last pieces of others do.
  void wait() {
    std::unique_lock<std::mutex> lock(mutex);
    while (!all_finished.wait_for(lock, between_questions, [&] { return finished == count; })) {
      lock.unlock();
      attempt([] {});
      lock.lock();
    }
  }
};

// The C library ends the process where a new thread finds no memory for its variables: start none near a limit. Much
// more is asked for than a thread takes, since others take memory meanwhile.
bool has_room_for_a_thread() {
#if defined(__linux__)
  constexpr size_t room = 64 << 20;
  void* found = mmap(nullptr, room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return found != MAP_FAILED && munmap(found, room) == 0;
#else
  return true;
#endif
}

}  // namespace

Work& last_work() {
  thread_local Work work;
  return work;
}

void parallel_for(int64_t count, int64_t chunk, int num_threads, const std::function<void(int64_t, int64_t)>& work) {
  if (count <= 0) return;
  const int64_t num_chunks = (count + chunk - 1) / chunk;
  const int helpers = static_cast<int>(std::min<int64_t>(num_threads, num_chunks)) - 1;
  if (helpers <= 0) {
    for (int64_t begin = 0; begin < count; begin += chunk) {
      stop_if_asked();
      work(begin, std::min(count, begin + chunk));
    }
    return;
  }
  const auto loop = std::make_shared<Loop>();
  loop->count = count;
  loop->chunk = chunk;
  loop->work = &work;
  Work& counters = last_work();
  ++counters.parallel_regions;
  for (int i = 0; i < helpers && has_room_for_a_thread(); ++i) {
    try {
      std::thread([loop] { loop->run(); }).detach();
      counters.threads = std::max<int64_t>(counters.threads, i + 2);
    } catch (const std::exception&) {
      break;  // no more threads to be had, or no memory for one: those that there are do the work
    }
  }
  loop->run();
  loop->wait();
  if (loop->error) std::rethrow_exception(loop->error);
}

Stoppable::Stoppable(const std::function<void()>& question) : outer_(std::exchange(asked.question, &question)) {
  asked.next = std::chrono::steady_clock::now() + between_questions;
}
Stoppable::~Stoppable() { asked.question = outer_; }

void stop_if_asked() {
  Asked& mine = asked;
  if (mine.failed && mine.failed->load(std::memory_order_relaxed)) throw Stopped{};
  if (!mine.question) return;
  const auto now = std::chrono::steady_clock::now();
  if (now < mine.next) return;
  mine.next = now + between_questions;
  (*mine.question)();
}

}  // namespace cbkernels
