// Winner takes all on CPUs: the volume is read once.
//
// Bytes: the volume, and 24 a pixel written (44 with float64), as many more read where slices came before: of 64 slices
// a tenth. Operations: about 12 for each vector of costs, less time than the volume takes from memory.
//
// A block of pixels is taken through all slices. What is known of its pixels lies in the first cache, and is loaded to
// registers for some slices at a time. A processor does not foresee such jumps: what comes next is asked for while the
// slices before are taken, without which all of this takes four times as long.
#include "fastseg/cpu/parallel.h"
#include "winner_takes_all_state.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t block_pixels = 512;
constexpr int64_t slices_at_a_time = 4;

template <class T, bool Near>
class WinnerBlock {
 public:
  using A = compute_t<T>;
  static constexpr int L = lanes<A>;

  explicit WinnerBlock(const WinnerTakesAll& args) : args_(args), states_((block_pixels + L - 1) / L) {}

  // Pixels `begin` to `end` of volume n.
  void run(int64_t n, int64_t begin, int64_t end) const {
    for (int64_t d = 0; d < args_.slices; d += slices_at_a_time) {
      const int64_t behind = d + slices_at_a_time < args_.slices ? d + slices_at_a_time : args_.slices;
      for (int64_t x = begin; x < end; x += L) {
        if (end - x >= L)
          advance<true>(n, x, L, d, behind, states_[(x - begin) / L]);
        else
          advance<false>(n, x, end - x, d, behind, states_[(x - begin) / L]);
      }
    }
  }

 private:
  // `count` pixels from x on, through slices d to behind. Inlined, for a call takes as long as two slices.
  template <bool Whole>
  __attribute__((always_inline)) void advance(int64_t n, int64_t x, int64_t count, int64_t d, int64_t behind,
                                              WinnerState<A, Near>& kept) const {
    if constexpr (Whole) count = L;
    const int64_t at = n * args_.pixels + x, stride = args_.costs.channel_stride;
    Candidates<A, Near> candidates{};
    if constexpr (Near)
      candidates = {load_integers<A>(args_.near + at, count), std::make_unsigned_t<Integer<A>>(args_.reach)};
    WinnerState<A, Near> state;
    if (d > 0)
      state = kept;
    else if (args_.first > 0)
      state.resume(args_.previous, at, count, args_.first, candidates);
    else
      state.clear();
    const T* costs = static_cast<const T*>(args_.costs.data) + n * args_.costs.batch_stride + d * stride + x;
    // The same pixels in the next slices, or the next block in the first ones.
    const int64_t ahead = behind < args_.slices ? (behind - d) * stride : block_pixels - d * stride;
    Integers<A> follows = state.follows(args_.first + d);
    const auto take = [&](int64_t i) {
      __builtin_prefetch(costs + i * stride + ahead);
      state.take(load_some(costs + i * stride, count), Integer<A>(args_.first + d + i), candidates, follows);
    };
    if (Whole && behind - d == slices_at_a_time) {
#pragma GCC unroll 8
      for (int64_t i = 0; i < slices_at_a_time; ++i) take(i);
    } else {
      for (int64_t i = 0; i < behind - d; ++i) take(i);
    }
    if (behind < args_.slices)
      kept = state;
    else
      state.finish(args_.result, at, count, args_.first + behind);
  }

  const WinnerTakesAll& args_;
  Scratch<WinnerState<A, Near>> states_;
};

template <class T, bool Near>
void run(const WinnerTakesAll& args, int threads) {
  const int64_t blocks = (args.pixels + block_pixels - 1) / block_pixels;
  parallel_spans(threads, args.batch * blocks, [&](int64_t first, int64_t last) {
    const WinnerBlock<T, Near> block(args);
    for (int64_t i = first; i < last; ++i) {
      const int64_t begin = i % blocks * block_pixels, end = begin + block_pixels;
      block.run(i / blocks, begin, end < args.pixels ? end : args.pixels);
    }
  });
}

}  // namespace

void winner_takes_all(const WinnerTakesAll& args, int threads) {
  with_pixel(args.costs.type, [&](auto pixel) {
    using T = decltype(pixel);
    args.near ? run<T, true>(args, threads) : run<T, false>(args, threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
