// Memory for large outputs on the CPU, kept for later outputs.
//
// A fresh 268 MB output costs 65,536 page faults, or 128 faults that each clear 2 MB: more than the kernel that fills
// it (measured on four Zen 5 cores: 13 ms to normalise into memory that is there, 24 ms into fresh huge pages, 70 ms
// into fresh small pages). So blocks of huge pages go back to a cache when their tensor dies. What has not been used
// for a while, beyond a quarter of the limit, is handed to the system as lazily freeable: under memory pressure the
// system takes it, without asking.
//
// Blocks lie beside each other in one range of addresses, and what is free there serves outputs of any size: neighbours
// together, or a part of a block. Where a large output finds only smaller gaps, their pages move to new addresses. So
// memory grows only where none is free. Blocks kept for outputs of their own size took 1.5 to 2 times as much in a
// training step of a U-Net, whose levels have sizes of their own.
#pragma once
#include <cstdint>

namespace fastseg::cpu {

// `bytes` of writable, uninitialised memory on a 2 MB boundary. Throws std::bad_alloc.
class Block {
 public:
  explicit Block(int64_t bytes);
  ~Block();
  Block(const Block&) = delete;
  Block& operator=(const Block&) = delete;

  void* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

 private:
  char* data_;
  int64_t bytes_;
  int64_t capacity_;
};

// Bytes of dead blocks that are kept at most. 0 turns the cache off; a lower limit frees what is over it at once.
void set_cache_limit(int64_t bytes);
int64_t cache_limit();
// Bytes that are kept at present.
int64_t cached_bytes();
// Gives every kept block back to the system.
void release_cache();

}  // namespace fastseg::cpu
