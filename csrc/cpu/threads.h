// Threads that live for one loop: nothing persists, so fork, several callers at once and other thread
// pools cannot be harmed. Work is handed out in chunks; the caller works too and waits for finished chunks, not
// for threads, so a helper that the system starts late costs nothing. Starting one costs about 15 microseconds:
// small work must ask for one thread (the callers' thresholds).
#pragma once
#include <cstdint>
#include <functional>

namespace cbkernels {

// Calls work(begin, end) for consecutive pieces of [0, count), at most `chunk` long, on up to num_threads
// threads. Rethrows the first exception after all pieces have stopped.
void parallel_for(int64_t count, int64_t chunk, int num_threads, const std::function<void(int64_t, int64_t)>& work);

}  // namespace cbkernels
