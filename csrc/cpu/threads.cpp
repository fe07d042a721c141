#include "threads.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>

#include "../contract.h"
#include "float_environment.h"

namespace cbkernels {
namespace {

struct Loop {  // outlives the call when a helper starts late; `work` does not, and is not touched then
  int64_t count, chunk;
  const std::function<void(int64_t, int64_t)>* work;
  std::atomic<int64_t> next{0};
  std::atomic<bool> failed{false};
  std::mutex mutex;
  std::condition_variable all_finished;
  int64_t finished = 0;
  std::exception_ptr error;

  void run() {
    const FloatEnvironment ieee;
    for (;;) {
      const int64_t begin = next.fetch_add(chunk);
      if (begin >= count) return;
      const int64_t end = std::min(count, begin + chunk);
      if (!failed.load(std::memory_order_relaxed)) {
        try {
          (*work)(begin, end);
        } catch (...) {
          const std::lock_guard<std::mutex> lock(mutex);
          if (!error) error = std::current_exception();
          failed = true;
        }
      }
      const std::lock_guard<std::mutex> lock(mutex);
      finished += end - begin;
      if (finished == count) all_finished.notify_all();
    }
  }
};

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
    for (int64_t begin = 0; begin < count; begin += chunk) work(begin, std::min(count, begin + chunk));
    return;
  }
  const auto loop = std::make_shared<Loop>();
  loop->count = count;
  loop->chunk = chunk;
  loop->work = &work;
  Work& counters = last_work();
  ++counters.parallel_regions;
  for (int i = 0; i < helpers; ++i) {
    try {
      std::thread([loop] { loop->run(); }).detach();
      counters.threads = std::max<int64_t>(counters.threads, i + 2);
    } catch (const std::system_error&) {
      break;  // no more threads to be had: those that there are do the work
    }
  }
  loop->run();
  std::unique_lock<std::mutex> lock(loop->mutex);
  loop->all_finished.wait(lock, [&] { return loop->finished == loop->count; });
  if (loop->error) std::rethrow_exception(loop->error);
}

}  // namespace cbkernels
