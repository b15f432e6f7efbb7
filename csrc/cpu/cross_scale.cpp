// Cross-scale aggregation on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that
// the processor has.
//
// Floor, u = one pass over the finest level: S levels of full size are read and the result is written, (S + 1)u; in a
// pyramid level s has u / 8^s, so 2u and a seventh at most. Two operations an element read: memory decides. Each thread
// takes one contiguous span of the result and writes whole vectors of it, past the caches where it is large.
//
// No element's arithmetic depends on its place in a vector or a span, so results do not depend on the number of
// threads.
#include "fastseg/cross_scale.h"

#include "cross_scale_backward.h"
#include "cross_scale_levels.h"
#include "cross_scale_pyramid.h"
#include "fastseg/cpu/parallel.h"

namespace fastseg::FASTSEG_ISA {
namespace {

template <class T, bool Stream>
void combine_full_size(const CrossScale& args, int threads) {
  using A = compute_t<T>;
  using V = Vec<A>;
  constexpr int L = lanes<A>, K = 4;
  const int64_t levels = args.levels.count;
  const int64_t elements = args.batch * args.levels.level[0].disparities * args.height * args.width;
  const Coupling<A> coupling(levels, args.lambda);
  T* result = static_cast<T*>(args.result);
  const auto level = [&](int64_t s) { return static_cast<T*>(args.levels.level[s].data); };

  // The vector at i of a line that ends at `end`.
  const auto one = [&](int64_t i, int64_t end) {
    V u = line_of(level(levels - 1), end).read(0, i);
    for (int64_t s = levels - 1; s-- > 0;) u += coupling.gain[s] * (line_of(level(s), end).read(0, i) - u);
    line_of(result, end).write(0, i, u);
    return u;
  };
  const int64_t head = misaligned_elements(result, elements);
  constexpr int64_t run = K * L;
  parallel_spans(threads, (elements - head + run - 1) / run, [&](int64_t first, int64_t last) {
    FiniteCheck<A> check;
    int64_t i = head + first * run;
    const int64_t end = head + last * run < elements ? head + last * run : elements;
    for (; i + run <= end; i += run) {
      V u[K];
      const T* coarsest = level(levels - 1) + i;
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) u[k] = load(coarsest + k * L);
      for (int64_t s = levels - 1; s-- > 0;) {
        const V gain = broadcast<V>(coupling.gain[s]);
        const T* c = level(s) + i;
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) u[k] += gain * (load(c + k * L) - u[k]);
      }
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) {
        check.add(u[k]);
        store<Stream>(result + i + k * L, u[k]);
      }
    }
    for (; i < end; i += L) check.add(one(i, end));
    if (first == 0 && head > 0) check.add(one(0, head));
    check.report(args.finite);
    if constexpr (Stream) stream_fence();
  });
}

template <class T, bool Stream>
void combine(const CrossScale& args, int threads) {
  args.pyramid ? combine_pyramid<T, Stream>(args, threads) : combine_full_size<T, Stream>(args, threads);
}

}  // namespace

void cross_scale_aggregate(const CrossScale& args, int threads, bool stream) {
  with_element(args.type, [&](auto element) {
    using T = decltype(element);
    stream ? combine<T, true>(args, threads) : combine<T, false>(args, threads);
  });
}

void cross_scale_aggregate_backward(const CrossScale& args, int threads, bool stream) {
  with_element(args.type, [&](auto element) {
    using T = decltype(element);
    if (args.pyramid)
      stream ? spread_pyramid<T, true>(args, threads) : spread_pyramid<T, false>(args, threads);
    else
      stream ? spread_full_size<T, true>(args, threads) : spread_full_size<T, false>(args, threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
