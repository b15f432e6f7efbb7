#include "fastseg/cpu/memory.h"

#include <cstdlib>
#include <map>
#include <mutex>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace fastseg::cpu {
namespace {

constexpr int64_t huge_page = int64_t(1) << 21;

int64_t round_up(int64_t bytes) { return (bytes + huge_page - 1) / huge_page * huge_page; }

#if defined(__linux__)

void* map_block(int64_t capacity) {
  // One huge page more than needed, cut to a 2 MB boundary: the system places mappings on 4 KB boundaries only.
  const size_t wanted = size_t(capacity + huge_page);
  void* mapped = mmap(nullptr, wanted, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapped == MAP_FAILED) throw std::bad_alloc();
  const uintptr_t start = reinterpret_cast<uintptr_t>(mapped);
  const uintptr_t aligned = (start + huge_page - 1) & ~uintptr_t(huge_page - 1);
  if (aligned > start) munmap(mapped, aligned - start);
  const uintptr_t end = start + wanted, aligned_end = aligned + uintptr_t(capacity);
  if (end > aligned_end) munmap(reinterpret_cast<void*>(aligned_end), end - aligned_end);
  void* block = reinterpret_cast<void*>(aligned);
  madvise(block, size_t(capacity), MADV_HUGEPAGE);  // a refusal is no error
  return block;
}

void unmap_block(void* data, int64_t capacity) { munmap(data, size_t(capacity)); }

void offer_to_system(void* data, int64_t capacity) {
#ifdef MADV_FREE
  madvise(data, size_t(capacity), MADV_FREE);
#else
  (void)data, (void)capacity;
#endif
}

#else

void* map_block(int64_t capacity) {
  void* data = std::aligned_alloc(size_t(huge_page), size_t(capacity));
  if (!data) throw std::bad_alloc();
  return data;
}
void unmap_block(void* data, int64_t) { std::free(data); }
void offer_to_system(void*, int64_t) {}

#endif

int64_t default_limit() {
  constexpr int64_t at_most = int64_t(2) << 30;
#if defined(__linux__)
  const int64_t eighth = int64_t(sysconf(_SC_PHYS_PAGES)) * int64_t(sysconf(_SC_PAGE_SIZE)) / 8;
  return eighth < at_most ? eighth : at_most;
#else
  return at_most;
#endif
}

class Cache {
 public:
  void* take(int64_t bytes, int64_t* capacity) {
    const int64_t wanted = round_up(bytes);
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      // A block that is much larger is left for a tensor that fills it. Of those that fit, the one that died last: it
      // may still be in a cache.
      auto best = blocks_.end();
      for (auto it = blocks_.lower_bound(wanted); it != blocks_.end() && it->first <= wanted + wanted / 4; ++it)
        if (best == blocks_.end() || it->second.given > best->second.given) best = it;
      if (best != blocks_.end()) {
        void* data = best->second.data;
        *capacity = best->first;
        kept_ -= best->first;
        if (best->second.warm) warm_ -= best->first;
        blocks_.erase(best);
        return data;
      }
    }
    *capacity = wanted;
    return map_block(wanted);
  }

  void give(void* data, int64_t capacity) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      if (kept_ + capacity <= limit_) {
        blocks_.emplace(capacity, Kept{data, ++given_, true});
        kept_ += capacity;
        warm_ += capacity;
        cool_down();
        return;
      }
    }
    unmap_block(data, capacity);
  }

  void shrink_to(int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex_);
    while (kept_ > bytes) {
      const auto largest = std::prev(blocks_.end());
      kept_ -= largest->first;
      if (largest->second.warm) warm_ -= largest->first;
      unmap_block(largest->second.data, largest->first);
      blocks_.erase(largest);
    }
  }

  void set_limit(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex_);
      limit_ = bytes;
    }
    shrink_to(bytes);
  }

  int64_t limit() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return limit_;
  }

  int64_t kept() {
    const std::lock_guard<std::mutex> lock(mutex_);
    return kept_;
  }

 private:
  struct Kept {
    void* data;
    uint64_t given;  // counts up
    bool warm;       // not offered to the system yet
  };

  // Offers the oldest blocks to the system until a quarter of the limit is left. Not all at once: offering a block and
  // touching it again costs as much as filling it (measured: 110 us for 8 MB).
  void cool_down() {
    while (warm_ > limit_ / 4) {
      auto oldest = blocks_.end();
      for (auto it = blocks_.begin(); it != blocks_.end(); ++it)
        if (it->second.warm && (oldest == blocks_.end() || it->second.given < oldest->second.given)) oldest = it;
      oldest->second.warm = false;
      warm_ -= oldest->first;
      offer_to_system(oldest->second.data, oldest->first);
    }
  }

  std::mutex mutex_;
  std::multimap<int64_t, Kept> blocks_;  // by capacity
  int64_t kept_ = 0, warm_ = 0;
  uint64_t given_ = 0;
  int64_t limit_ = default_limit();
};

// Never destroyed: tensors may die after static destructors have run.
Cache& cache() {
  static Cache* instance = new Cache;
  return *instance;
}

}  // namespace

Block::Block(int64_t bytes) : bytes_(bytes) { data_ = cache().take(bytes, &capacity_); }
Block::~Block() { cache().give(data_, capacity_); }

void set_cache_limit(int64_t bytes) { cache().set_limit(bytes); }
int64_t cache_limit() { return cache().limit(); }
int64_t cached_bytes() { return cache().kept(); }
void release_cache() { cache().shrink_to(0); }

}  // namespace fastseg::cpu
