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
};

// Voxels behind the block's end, which vectors reach into, are left out.
template <class T>
inline void add_regions(const RegionBlock<T>& block, int64_t count, double* sums) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  Label<A> numbers[L];
  for (int i = 0; i < L; ++i) numbers[i] = i;
  const auto number = load_labels<A>(numbers);
  for (int64_t k = 0; k < block.classes; ++k) {
    const A *logits = block.logits[k], *truth = block.truth[k];
    ClassSums<A> of_region;
    of_region.add_vectors(count, [&](int64_t i, Vec<A>* add) __attribute__((always_inline)) {
      const Vec<A> z = load(logits + i), r = load(truth + i), p = sigmoid(z).value, zero{};
      const auto inside = number < Label<A>(count - i);
      add[0] += p * r;
      add[1] += inside ? p : zero;
      add[2] += r;
      const Vec<A> wrong = z > 0 ? 1 - r : -r;  // max(z, 0) - z r = z wrong, and z may be infinite
      add[3] += inside ? (wrong == 0 ? zero : z * wrong) + log1p(exp(-abs(z))) : zero;
    });
    of_region.add_to(sums + k, block.classes);
  }
}

template <class T>
inline void sum_regions(const LossSums& args, int threads) {
  const LossSlots slots(args.batch, args.spatial);
  const int64_t size = loss_sums * args.classes;
  Scratch<double> partial(slots.count * size);
  Scratch<Wrong> wrong(slots.count);
  parallel_spans(threads, slots.count, [&](int64_t begin, int64_t end) {
    RegionBlock<T> block(args.classes);
    for (int64_t slot = begin; slot < end; ++slot) {
      double* sums = partial.get() + slot * size;
      for (int64_t i = 0; i < size; ++i) sums[i] = 0;
      block.wrong = {};
      slots.for_blocks(slot, block.voxels, [&](int64_t n, int64_t first, int64_t count) {
        block.load_block(args, n, first, count);
        add_regions(block, count, sums);
      });
      wrong[slot] = block.wrong;
    }
  });
  merge_slots(slots, partial.get(), wrong.get(), args);
}

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
