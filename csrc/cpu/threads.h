// Threads that live for one loop: nothing persists, so fork, several callers at once and other thread
// pools cannot be harmed. Work is handed out in chunks; the caller works too and waits for finished chunks, not
// for threads, so a helper that the system starts late costs nothing. Starting one costs about 15 microseconds:
// small work must ask for one thread (the callers' thresholds). Loops that may last ask stop_if_asked() on their way.
#pragma once
#include <algorithm>
#include <cstdint>
#include <functional>

namespace cbkernels {

// Calls work(begin, end) for consecutive pieces of [0, count), at most `chunk` long, on up to num_threads
// threads. Rethrows the first exception after all pieces have stopped.
void parallel_for(int64_t count, int64_t chunk, int num_threads, const std::function<void(int64_t, int64_t)>& work);

struct Stopped {};  // thrown where a kernel ends early; the reason is with whoever caused it

// While it lives, stop_if_asked() in this thread asks `question` every tenth of a second; what that throws ends the
// kernel. The innermost one counts: a signal handler may call a kernel of its own.
class Stoppable {
 public:
  explicit Stoppable(const std::function<void()>& question);
  ~Stoppable();
  Stoppable(const Stoppable&) = delete;
  Stoppable& operator=(const Stoppable&) = delete;

 private:
  const std::function<void()>* outer_;
};

// Throws when this thread's question says so, or when another thread of its loop has failed. Costs a look at the
// clock, about 30 ns: ask between pieces of some microseconds.
void stop_if_asked();

// Asks once for so much work, for loops whose steps are shorter.
class Pace {
 public:
  void after(int64_t bytes) {
    left_ -= bytes;
    if (left_ > 0) return;
    left_ = bytes_between_questions;
    stop_if_asked();
  }

 private:
  static constexpr int64_t bytes_between_questions = 256 << 10;
  int64_t left_ = bytes_between_questions;
};

// std::sort that can be stopped: a large one takes seconds.
template <class Iterator, class Less>
void sort_stoppably(Iterator begin, Iterator end, const Less& less) {
  if (end - begin < (1 << 20)) return std::sort(begin, end, less);
  Pace pace;
  std::sort(begin, end, [&](const auto& a, const auto& b) {
    pace.after(64);
    return less(a, b);
  });
}

}  // namespace cbkernels
