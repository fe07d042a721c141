// Uninitialised scratch memory for one call. First touches are what costs: on a virtual machine 300 microseconds for
// 650 KB in pages of 4 KiB and 46 for a page of 2 MiB, as long as reading 2 MB. So small arrays come from an arena
// of 4 MiB that each calling thread keeps, larger ones from huge pages where the system has them.
// Arrays must be destroyed in the reverse order of their construction, as local variables are.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <new>
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace cbkernels {

constexpr size_t huge_page_bytes = 2 << 20;

inline void* allocate_pages(size_t bytes) {
  const size_t rounded = (bytes + huge_page_bytes - 1) / huge_page_bytes * huge_page_bytes;
  void* memory = std::aligned_alloc(huge_page_bytes, rounded);
  if (!memory) throw std::bad_alloc();
#if defined(__linux__)
  madvise(memory, rounded, MADV_HUGEPAGE);  // a wish: refused on some systems, and that is fine
#endif
  return memory;
}

class ScratchArena {
 public:
  static constexpr size_t capacity = 2 * huge_page_bytes;
  ScratchArena() = default;
  ~ScratchArena() { std::free(memory_); }
  ScratchArena(const ScratchArena&) = delete;
  ScratchArena& operator=(const ScratchArena&) = delete;

  static ScratchArena& of_this_thread() {
    thread_local ScratchArena arena;
    return arena;
  }
  // nullptr when it does not fit.
  void* take(size_t bytes) {
    if (used_ + bytes > capacity) return nullptr;
    if (!memory_) memory_ = static_cast<std::byte*>(allocate_pages(capacity));
    void* taken = memory_ + used_;
    used_ += bytes;
    return taken;
  }
  void give_back(size_t bytes) { used_ -= bytes; }

 private:
  std::byte* memory_ = nullptr;
  size_t used_ = 0;
};

template <class T>
class ScratchArray {
 public:
  explicit ScratchArray(int64_t size)
      : size_(size), bytes_((std::max<size_t>(static_cast<size_t>(size) * sizeof(T), 1) + 63) / 64 * 64),
        arena_(&ScratchArena::of_this_thread()), data_(static_cast<T*>(arena_->take(bytes_))) {
    if (data_) return;
    arena_ = nullptr;
    data_ = static_cast<T*>(allocate_pages(bytes_));
  }
  ~ScratchArray() {
    if (arena_)
      arena_->give_back(bytes_);
    else
      std::free(data_);
  }
  ScratchArray(const ScratchArray&) = delete;
  ScratchArray& operator=(const ScratchArray&) = delete;

  void fill(const T& value) { std::fill(data_, data_ + size_, value); }
  T* data() { return data_; }
  const T* data() const { return data_; }
  int64_t size() const { return size_; }
  T& operator[](int64_t i) { return data_[i]; }
  const T& operator[](int64_t i) const { return data_[i]; }

 private:
  int64_t size_;
  size_t bytes_;
  ScratchArena* arena_;  // null: own pages
  T* data_;
};

}  // namespace cbkernels
