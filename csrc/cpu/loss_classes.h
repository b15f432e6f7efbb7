// Softmax over classes: its sums, and the gradient of logits.
//
// Floor: forward u + labels, backward 2u + labels, u being one pass over the logits. An element takes one exp and some
// thirty operations in forward, about as much time as its bytes; in backward, where the probabilities are computed
// again, as many.
#pragma once
#include "loss_blocks.h"

namespace fastseg::FASTSEG_ISA {

// What a thread holds of a block of voxels.
template <class T>
struct ClassBlock {
  using A = compute_t<T>;
  static constexpr int L = lanes<A>;

  const int64_t classes, voxels;
  Planes<A> planes;    // exp(logit - largest), one plane a class; 0 where a voxel does not count
  Scratch<A> inverse;  // 1 / their sum; 0 there
  Scratch<A> entropy;  // -log p of the voxel's class; anything where it has none
  Scratch<Label<A>> labels;
  Wrong wrong;

  explicit ClassBlock(int64_t classes_)
      : classes(classes_),
        voxels(voxels_in_block<A>(classes_)),
        planes(classes, voxels),
        inverse(voxels),
        entropy(voxels),
        labels(voxels) {}

  template <bool Entropy, class Args>
  void load_block(const Args& args, int64_t n, int64_t first, int64_t count) {
    load_planes<T>(args.logits, n, first, count, planes);
    load_classes<A>(args.truth, n, first, count, classes, args.ignored, labels.get(), wrong);
    for (int64_t i = 0; i < count; i += L) {
      Vec<A> largest = load(planes[0] + i);
      for (int64_t k = 1; k < classes; ++k) {
        const Vec<A> z = load(planes[k] + i);
        largest = z > largest ? z : largest;
      }
      const auto label = load_labels<A>(labels.get() + i);
      const Vec<A> zero{};
      Vec<A> sum{}, chosen{};
      for (int64_t k = 0; k < classes; ++k) {
        const Vec<A> z = load(planes[k] + i) - largest, e = exp(z);
        if constexpr (Entropy) chosen = label == Label<A>(k) ? z : chosen;
        sum += e;
        store(planes[k] + i, label >= 0 ? e : zero);
      }
      store(inverse.get() + i, label >= 0 ? 1 / sum : zero);
      // log is for numbers only.
      if constexpr (Entropy) store(entropy.get() + i, sum == sum ? log(sum) - chosen : sum);
    }
  }

  void add(const LossSums& args, int64_t n, int64_t first, int64_t count, double* sums) {
    load_block<true>(args, n, first, count);
    for (int64_t k = 0; k < classes; ++k) {
      const A *plane = planes[k], *scale = inverse.get(), *missed = entropy.get();
      const Label<A>* label = labels.get();
      ClassSums<A> of_class;
      of_class.add_vectors(count, [&](int64_t i, Vec<A>* to) __attribute__((always_inline)) {
        const auto is = load_labels<A>(label + i) == Label<A>(k);
        const Vec<A> p = load(plane + i) * load(scale + i), zero{};
        to[0] += is ? p : zero;
        to[1] += p;
        to[2] += is ? zero + 1 : zero;
        to[3] += is ? load(missed + i) : zero;
      });
      of_class.add_to(sums + k, classes);
    }
  }
};

// dz_k = p_k (a_k - sum_j p_j a_j) + w (p_k - r_k) with a_k, the slope by p_k, and w, that by the entropy.
template <class T, bool Stream>
inline void gradient_of_classes(const LossGradient& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const int64_t classes = args.classes;
  const LossSlots slots(args.batch, args.spatial);
  parallel_spans(threads, slots.count, [&](int64_t begin, int64_t end) {
    ClassBlock<T> block(classes);
    Scratch<A> slopes(loss_slopes * classes);
    const A *by_shared = slopes.get(), *by_predicted = by_shared + classes, *by_entropy = by_predicted + classes;
    int64_t sample = -1;
    for (int64_t slot = begin; slot < end; ++slot)
      slots.for_blocks(slot, block.voxels, [&](int64_t n, int64_t first, int64_t count) {
        if (n != sample)
          for (int64_t i = 0; i < loss_slopes * classes; ++i)
            slopes[i] = A(args.grad * args.slopes[n * loss_slopes * classes + i]);
        sample = n;
        block.template load_block<false>(args, n, first, count);
        for (int64_t i = 0; i < count; i += L) {
          const auto label = load_labels<A>(block.labels.get() + i);
          const Vec<A> inverse = load(block.inverse.get() + i), zero{};
          Vec<A> mean{}, weight{};
          for (int64_t k = 0; k < classes; ++k) {
            const auto is = label == Label<A>(k);
            const Vec<A> p = load(block.planes[k] + i) * inverse;
            mean += p * (by_predicted[k] + (is ? zero + by_shared[k] : zero));
            weight = is ? zero + by_entropy[k] : weight;
          }
          for (int64_t k = 0; k < classes; ++k) {
            const auto is = label == Label<A>(k);
            const Vec<A> p = load(block.planes[k] + i) * inverse;
            const Vec<A> slope = by_predicted[k] + (is ? zero + by_shared[k] : zero) - mean;
            store(block.planes[k] + i, p * slope + weight * (p - (is ? zero + 1 : zero)));
          }
        }
        store_planes<T, Stream>(args.dlogits, n, first, count, block.planes);
      });
    if constexpr (Stream) stream_fence();
  });
}

}  // namespace fastseg::FASTSEG_ISA
