// Address space and memory from the system, in units of 2 MB: what memory.cpp shares out.
#pragma once
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <new>

namespace fastseg::cpu {

constexpr int64_t huge_page = int64_t(1) << 21;

inline int64_t whole_pages(int64_t bytes) { return (bytes + huge_page - 1) / huge_page * huge_page; }

inline int64_t physical_memory() { return int64_t(sysconf(_SC_PHYS_PAGES)) * int64_t(sysconf(_SC_PAGE_SIZE)); }

struct Range {
  char* data;
  int64_t bytes;
};

// Addresses that nothing else gets, without memory: as many as the machine has memory, so that blocks lie beside each
// other. Only what is needed where the process may not have more addresses than memory (ulimit -v), or where so many
// are refused.
inline Range reserve(int64_t least) {
  rlimit addresses{};
  const bool limited = getrlimit(RLIMIT_AS, &addresses) != 0 || addresses.rlim_cur != RLIM_INFINITY;
  for (int64_t bytes = limited ? least : std::max(least, whole_pages(physical_memory()));; bytes = least) {
    // One page more than needed, cut to a boundary: the system places mappings on 4 KB boundaries only.
    const size_t wanted = size_t(bytes + huge_page);
    // Without MAP_NORESERVE, which would let open_pages promise what the machine can never hold.
    void* mapped = mmap(nullptr, wanted, PROT_NONE, MAP_PRIVATE | MAP_ANON, -1, 0);
    if (mapped == MAP_FAILED) {
      if (bytes == least) throw std::bad_alloc();
      continue;
    }
    char* start = static_cast<char*>(mapped);
    char* data = reinterpret_cast<char*>(whole_pages(int64_t(reinterpret_cast<uintptr_t>(start))));
    if (data > start) munmap(start, size_t(data - start));
    if (start + wanted > data + bytes) munmap(data + bytes, size_t(start + wanted - data - bytes));
    return {data, bytes};
  }
}

// Lets the process write to reserved addresses. The first write to a page gets it its memory, zeroed.
inline void open_pages(char* data, int64_t bytes) {
  if (mprotect(data, size_t(bytes), PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
  madvise(data, size_t(bytes), MADV_HUGEPAGE);  // a refusal is no error
#endif
}

// Gives the memory back at once. The addresses stay reserved.
inline void close_pages(char* data, int64_t bytes) {
  if (mmap(data, size_t(bytes), PROT_NONE, MAP_PRIVATE | MAP_ANON | MAP_FIXED, -1, 0) == MAP_FAILED)
    madvise(data, size_t(bytes), MADV_DONTNEED);  // no mapping is left: at least the memory goes
}

// Moves memory that is no longer needed where it lies to open addresses, without copying it: the page tables change, a
// huge page by one entry. Then `from` is closed. False where the system cannot (Linux before 5.7, other systems) or
// where it has no more mappings; what moved before that is merely memory at `to` instead of `from`.
inline bool move_pages(char* from, char* to, int64_t bytes) {
#ifdef __linux__
  constexpr int keep_addresses = 4;  // MREMAP_DONTUNMAP, which older headers lack
  constexpr int flags = MREMAP_MAYMOVE | MREMAP_FIXED | keep_addresses;
  // Page by page: a range may be several mappings, and before Linux 6.17 a move of these unmaps `to` and then fails,
  // so that others' mappings get there.
  for (int64_t page = 0; page < bytes; page += huge_page) {
    if (mremap(from + page, size_t(huge_page), size_t(huge_page), flags, to + page) != MAP_FAILED) continue;
    // A late failure may have unmapped the page of `to`. Nothing is there yet that MADV_DONTNEED could lose.
    if (madvise(to + page, size_t(huge_page), MADV_DONTNEED) == 0) return false;
    constexpr int readable = PROT_READ | PROT_WRITE, fixed = MAP_PRIVATE | MAP_ANON | MAP_FIXED;
    if (mmap(to + page, size_t(huge_page), readable, fixed, -1, 0) == MAP_FAILED) throw std::bad_alloc();
    return false;
  }
  close_pages(from, bytes);
  return true;
#else
  (void)from, (void)to, (void)bytes;
  return false;
#endif
}

// The system may take the memory whenever it is short of it, until something is written there.
inline void offer_pages(char* data, int64_t bytes) {
#ifdef MADV_FREE
  madvise(data, size_t(bytes), MADV_FREE);
#else
  (void)data, (void)bytes;
#endif
}

}  // namespace fastseg::cpu
