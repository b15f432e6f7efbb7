// The sigmoid of each region by itself: its sums, and the gradient of logits.
//
// Floor: forward u + truth, backward 2u + truth, u being one pass over the logits.
#pragma once
#include "loss_blocks.h"

namespace fastseg::FASTSEG_ISA {

// What a thread holds of a block of voxels.
template <class T>
struct RegionBlock {
  using A = compute_t<T>;

  const int64_t classes, voxels;
  Planes<A> logits, truth;
  Wrong wrong;

  explicit RegionBlock(int64_t classes_)
      : classes(classes_), voxels(voxels_in_block<A>(classes_)), logits(classes, voxels), truth(classes, voxels) {}

  template <class Args>
  void load_block(const Args& args, int64_t n, int64_t first, int64_t count) {
    load_planes<T>(args.logits, n, first, count, logits);
    load_regions<A>(args.truth, n, first, count, truth, wrong);
  }

  // Voxels behind the block's end, which vectors reach into, are left out.
  void add(const LossSums& args, int64_t n, int64_t first, int64_t count, double* sums) {
    load_block(args, n, first, count);
    Label<A> numbers[lanes<A>];
    for (int i = 0; i < lanes<A>; ++i) numbers[i] = i;
    const auto number = load_labels<A>(numbers);
    for (int64_t k = 0; k < classes; ++k) {
      const A *logit = logits[k], *real = truth[k];
      ClassSums<A> of_region;
      of_region.add_vectors(count, [&](int64_t i, Vec<A>* to) __attribute__((always_inline)) {
        const Vec<A> z = load(logit + i), r = load(real + i), p = sigmoid(z).value, zero{};
        const auto inside = number < Label<A>(count - i);
        to[0] += p * r;
        to[1] += inside ? p : zero;
        to[2] += r;
        const Vec<A> side = z > 0 ? 1 - r : -r;  // max(z, 0) - z r = z side, and z may be infinite
        to[3] += inside ? (side == 0 ? zero : z * side) + log1p(exp(-abs(z))) : zero;
      });
      of_region.add_to(sums + k, classes);
    }
  }
};

// dz = p' (slope by p + r slope by rp) + w (p - r).
template <class T, bool Stream>
inline void gradient_of_regions(const LossGradient& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const int64_t classes = args.classes;
  const LossSlots slots(args.batch, args.spatial);
  parallel_spans(threads, slots.count, [&](int64_t begin, int64_t end) {
    RegionBlock<T> block(classes);
    for (int64_t slot = begin; slot < end; ++slot)
      slots.for_blocks(slot, block.voxels, [&](int64_t n, int64_t first, int64_t count) {
        block.load_block(args, n, first, count);
        const double* slopes = args.slopes + n * loss_slopes * classes;
        for (int64_t k = 0; k < classes; ++k) {
          const A by_shared = A(args.grad * slopes[k]), by_predicted = A(args.grad * slopes[classes + k]),
                  by_entropy = A(args.grad * slopes[2 * classes + k]);
          A *logits = block.logits[k], *truth = block.truth[k];
          for (int64_t i = 0; i < count; i += L) {
            const auto s = sigmoid(load(logits + i));
            const Vec<A> r = load(truth + i);
            store(logits + i, s.derivative * (by_predicted + r * by_shared) + by_entropy * (s.value - r));
          }
        }
        store_planes<T, Stream>(args.dlogits, n, first, count, block.logits);
      });
    if constexpr (Stream) stream_fence();
  });
}

}  // namespace fastseg::FASTSEG_ISA
