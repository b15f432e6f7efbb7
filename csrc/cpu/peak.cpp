// How many multiply-adds this processor does when nothing but registers is asked for: what kernels that are bound by
// arithmetic are compared with. Compiled once per instruction set.
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// Runs 2 * Chains * lanes * rounds float32 operations on each thread and returns their number over all threads.
double multiply_add_rounds(int64_t rounds, int threads) {
  constexpr int chains = 12;  // more than the latency times the units of any processor, fewer than its registers
  Scratch<float> sink(threads * int64_t(lanes<float>));
  parallel_spans(threads, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      Vec<float> sum[chains];
      for (int i = 0; i < chains; ++i) sum[i] = broadcast<Vec<float>>(float(i));
      Vec<float> factor = broadcast<Vec<float>>(0.999f), term = broadcast<Vec<float>>(0.001f);
      for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 12
        for (int i = 0; i < chains; ++i) sum[i] = sum[i] * factor + term;
      }
      for (int i = 1; i < chains; ++i) sum[0] += sum[i];
      store(sink.get() + t * lanes<float>, sum[0]);
    }
  });
  return 2.0 * chains * lanes<float> * double(rounds) * threads;
}

}  // namespace fastseg::FASTSEG_ISA
