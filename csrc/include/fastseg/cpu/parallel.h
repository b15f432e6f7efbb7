// Parallel loops and scratch memory for CPU kernels.
#pragma once
#include <cstdint>
#include <cstdlib>
#include <new>

namespace fastseg::FASTSEG_ISA {

inline int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
inline int64_t rounded_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

// Calls body(first, last) with one contiguous span of [0, count) per thread. Contiguous spans keep two threads from
// faulting in the same huge page of a fresh output.
template <class Body>
inline void parallel_spans(int threads, int64_t count, const Body& body) {
  if (count <= 0) return;
  if (threads > count) threads = int(count);
  if (threads <= 1) {
    body(int64_t(0), count);
    return;
  }
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int t = 0; t < threads; ++t) body(count * t / threads, count * (t + 1) / threads);
}

// Adds slots 1, 2, ... of `size` sums each to slot 0, always in this order.
inline void add_slots(double* sums, int64_t slots, int64_t size, int threads) {
  constexpr int64_t run = 512;
  parallel_spans(size * slots < 1 << 15 ? 1 : threads, (size + run - 1) / run, [&](int64_t begin, int64_t end) {
    const int64_t last = end * run < size ? end * run : size;
    for (int64_t slot = 1; slot < slots; ++slot)
      for (int64_t i = begin * run; i < last; ++i) sums[i] += sums[slot * size + i];
  });
}

// Uninitialised memory from a cache line's start on, so that vectors in it cross none; not std::vector, for the reason
// in vec.h.
template <class A>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    constexpr size_t line = 64;
    const size_t bytes = (size_t(count > 0 ? count : 1) * sizeof(A) + line - 1) / line * line;
    data_ = static_cast<A*>(std::aligned_alloc(line, bytes));
    if (!data_) throw std::bad_alloc();
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  A* get() const { return data_; }
  A& operator[](int64_t i) const { return data_[i]; }

 private:
  A* data_;
};

}  // namespace fastseg::FASTSEG_ISA
