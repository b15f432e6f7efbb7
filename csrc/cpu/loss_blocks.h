// Logits and truth block by block as planes, one a class, whatever their layout and element type.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec_math.h"
#include "fastseg/loss.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t voxels_in_slot = 4096;    // whose sums are one slot of partial sums
constexpr int64_t plane_bytes = 32 * 1024;  // of a block's planes, which stay in the first-level cache

// Integers as wide as what a voxel is computed in, so that comparing them gives masks for it.
template <class A>
struct LabelOf {
  using type = int32_t;
};
template <>
struct LabelOf<double> {
  using type = int64_t;
};
template <class A>
using Label = typename LabelOf<A>::type;
constexpr int no_class = -1;

template <class A>
inline auto load_labels(const Label<A>* p) {
  typedef Label<A> Labels __attribute__((vector_size(vector_bytes)));
  Labels v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// Voxels of a block: whole vectors, a divisor of those of a slot where there are few classes.
template <class A>
inline int64_t voxels_in_block(int64_t classes) {
  constexpr int64_t most = 1024, L = lanes<A>;
  const int64_t fit = plane_bytes / int64_t(sizeof(A)) / classes / L * L;
  return fit > most ? most : fit < L ? L : fit;
}

// One plane a class. Planes a multiple of 4 KB apart would share a few sets of the cache, and a load would wait for the
// store to the plane before it.
template <class A>
class Planes {
 public:
  const int64_t classes;

  Planes(int64_t classes_, int64_t voxels) : classes(classes_), pitch_(voxels + lanes<A>), data_(classes * pitch_) {}
  A* operator[](int64_t k) const { return data_.get() + k * pitch_; }

 private:
  int64_t pitch_;
  Scratch<A> data_;
};

// What a truth that is no class leaves behind: how many such voxels, and one of the values.
struct Wrong {
  int64_t count = 0;
  double value = 0;
};

// Planes of `count` voxels from `first` on; zeros up to a whole vector.
template <class T>
inline void load_planes(const View& v, int64_t n, int64_t first, int64_t count, const Planes<compute_t<T>>& planes) {
  constexpr int L = lanes<compute_t<T>>;
  const T* from = static_cast<const T*>(v.data) + n * v.batch_stride + first * v.spatial_stride;
  for (int64_t k = 0; k < planes.classes; ++k, from += v.channel_stride) {
    compute_t<T>* plane = planes[k];
    if (v.spatial_stride == 1) {
      for (int64_t i = 0; i < count; i += L) store(plane + i, load_part(from + i, count - i < L ? count - i : L));
    } else {
      for (int64_t i = 0; i < count; ++i) plane[i] = load_one(from + i * v.spatial_stride);
      for (int64_t i = count; i % L; ++i) plane[i] = 0;
    }
  }
}

// And back.
template <class T, bool Stream>
inline void store_planes(const View& v, int64_t n, int64_t first, int64_t count, const Planes<compute_t<T>>& planes) {
  constexpr int L = lanes<compute_t<T>>;
  T* to = static_cast<T*>(v.data) + n * v.batch_stride + first * v.spatial_stride;
  for (int64_t k = 0; k < planes.classes; ++k, to += v.channel_stride) {
    const compute_t<T>* plane = planes[k];
    if (v.spatial_stride == 1) {
      for (int64_t i = 0; i < count; i += L) store_part<Stream>(to + i, load(plane + i), count - i < L ? count - i : L);
    } else {
      for (int64_t i = 0; i < count; ++i) store_one(to + i * v.spatial_stride, plane[i]);
    }
  }
}

// Calls body(pointer to the truth's first element of sample n and voxel `first`) with the element's type.
template <class Body>
inline void with_truth(const Truth& t, int64_t n, int64_t first, const Body& body) {
  const int64_t at = n * t.batch_stride + first * t.spatial_stride;
  switch (t.type) {
    case TruthType::uint8:
      return body(static_cast<const uint8_t*>(t.data) + at);
    case TruthType::int8:
      return body(static_cast<const int8_t*>(t.data) + at);
    case TruthType::int16:
      return body(static_cast<const int16_t*>(t.data) + at);
    case TruthType::int32:
      return body(static_cast<const int32_t*>(t.data) + at);
    case TruthType::int64:
      return body(static_cast<const int64_t*>(t.data) + at);
    case TruthType::float32:
      return body(static_cast<const float*>(t.data) + at);
    case TruthType::float64:
      return body(static_cast<const double*>(t.data) + at);
  }
}

// Written so that NaN is none.
template <class S>
inline bool is_class(S value, int64_t classes) {
  if constexpr (std::is_floating_point_v<S>)
    return value >= 0 && value < S(classes) && value == S(int64_t(value));
  else
    return value >= 0 && int64_t(value) < classes;
}

template <class S>
inline bool same(S value, int64_t ignored) {
  if constexpr (std::is_floating_point_v<S>)
    return value == S(ignored);
  else
    return int64_t(value) == ignored;
}

// The classes of `count` voxels; no_class for those that do not count, and up to a whole vector.
template <class A>
inline void load_classes(const Truth& t, int64_t n, int64_t first, int64_t count, int64_t classes, int64_t ignored,
                         Label<A>* labels, Wrong& wrong) {
  with_truth(t, n, first, [&](const auto* from) {
    using S = std::remove_cv_t<std::remove_pointer_t<decltype(from)>>;
    const int64_t step = t.spatial_stride;
    int64_t outside = 0;
    for (int64_t i = 0; i < count; ++i) {
      const S value = from[i * step];
      const bool counts = is_class(value, classes);
      labels[i] = counts ? Label<A>(value) : Label<A>(no_class);
      outside += !counts;
    }
    for (int64_t i = 0; outside && i < count; ++i) {
      const S value = from[i * step];
      if (is_class(value, classes)) {
        if (int64_t(value) == ignored) labels[i] = no_class;
      } else if (!same(value, ignored)) {
        ++wrong.count;
        wrong.value = double(value);
      }
    }
    if (!outside && ignored >= 0 && ignored < classes)
      for (int64_t i = 0; i < count; ++i) labels[i] = labels[i] == Label<A>(ignored) ? Label<A>(no_class) : labels[i];
    for (int64_t i = count; i % lanes<A>; ++i) labels[i] = no_class;
  });
}

// Regions from 0 to 1 as planes; zeros up to a whole vector.
template <class A>
inline void load_regions(const Truth& t, int64_t n, int64_t first, int64_t count, const Planes<A>& planes,
                         Wrong& wrong) {
  with_truth(t, n, first, [&](const auto* from) {
    for (int64_t k = 0; k < planes.classes; ++k, from += t.channel_stride) {
      A* plane = planes[k];
      const int64_t step = t.spatial_stride;
      int64_t outside = 0;
      for (int64_t i = 0; i < count; ++i) {
        plane[i] = A(from[i * step]);
        outside += !(plane[i] >= 0 && plane[i] <= 1);
      }
      for (int64_t i = 0; outside && i < count; ++i)
        if (!(plane[i] >= 0 && plane[i] <= 1)) {
          ++wrong.count;
          wrong.value = double(from[i * step]);
        }
      for (int64_t i = count; i % lanes<A>; ++i) plane[i] = 0;
    }
  });
}

// The four sums of a class over voxels. Short runs in float32, then float64: what a voxel adds is often the same for
// all, and so is its rounding.
template <class A>
class ClassSums {
 public:
  static constexpr int64_t run = 16 * lanes<A>;  // voxels

  // Calls add(i, sums) for each vector of [0, count): it adds to sums[0] to sums[3].
  template <class Add>
  void add_vectors(int64_t count, const Add& add) {
    for (int64_t begin = 0; begin < count; begin += run) {
      Vec<A> sums[loss_sums] = {};
      for (int64_t i = begin; i < count && i < begin + run; i += lanes<A>) add(i, sums);
      for (int which = 0; which < loss_sums; ++which) wide_[which].add(sums[which]);
    }
  }
  void add_to(double* sums, int64_t classes) const {
    for (int which = 0; which < loss_sums; ++which) sums[which * classes] += wide_[which].total();
  }

 private:
  WideSum<A> wide_[loss_sums];
};

// Slots of voxels: sample after sample.
struct LossSlots {
  int64_t spatial, in_sample, count;

  LossSlots(int64_t batch, int64_t spatial_)
      : spatial(spatial_), in_sample((spatial_ + voxels_in_slot - 1) / voxels_in_slot), count(batch * in_sample) {}

  // Calls body(sample, first voxel, voxels) for the blocks of a slot.
  template <class Body>
  void for_blocks(int64_t slot, int64_t block, const Body& body) const {
    const int64_t begin = slot % in_sample * voxels_in_slot;
    const int64_t end = begin + voxels_in_slot < spatial ? begin + voxels_in_slot : spatial;
    for (int64_t first = begin; first < end; first += block)
      body(slot / in_sample, first, end - first < block ? end - first : block);
  }
};

// The sums of each sample, by a Block of a thread's own, whose add(args, sample, first voxel, voxels, sums) adds those
// of a block of voxels. Slots are added in their order, and so is what was wrong.
template <class Block>
inline void sum_slots(const LossSums& args, int threads) {
  const LossSlots slots(args.batch, args.spatial);
  const int64_t size = loss_sums * args.classes;
  Scratch<double> partial(slots.count * size);
  Scratch<Wrong> wrong(slots.count);
  parallel_spans(threads, slots.count, [&](int64_t begin, int64_t end) {
    Block block(args.classes);
    for (int64_t slot = begin; slot < end; ++slot) {
      double* sums = partial.get() + slot * size;
      for (int64_t i = 0; i < size; ++i) sums[i] = 0;
      block.wrong = {};
      slots.for_blocks(slot, block.voxels,
                       [&](int64_t n, int64_t first, int64_t count) { block.add(args, n, first, count, sums); });
      wrong[slot] = block.wrong;
    }
  });
  for (int64_t i = 0; i < args.batch * size; ++i) args.sums[i] = 0;
  args.wrong[0] = args.wrong[1] = 0;
  for (int64_t slot = 0; slot < slots.count; ++slot) {
    double* to = args.sums + slot / slots.in_sample * size;
    for (int64_t i = 0; i < size; ++i) to[i] += partial[slot * size + i];
    if (wrong[slot].count == 0) continue;
    args.wrong[0] += double(wrong[slot].count);
    args.wrong[1] = wrong[slot].value;
  }
}

}  // namespace fastseg::FASTSEG_ISA
