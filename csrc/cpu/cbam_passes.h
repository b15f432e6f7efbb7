// What the two layouts of channel and spatial attention share: blocks, maxima that remember their place, arguments.
#pragma once
#include "cbam_gates.h"
#include "norm_math.h"

namespace fastseg::FASTSEG_ISA {

// Pixels that a task takes through all channels: few enough that sums over them stay in the first cache, and that an
// image of few pixels still has several tasks. Depends on the shape only, so results do not depend on threads.
constexpr int64_t most_block_pixels = 1024;

inline int64_t block_pixels(const CbamShape& shape) {
  const int64_t eighth = rounded_up((shape.pixels() + 7) / 8, 64);
  return eighth < most_block_pixels ? eighth : most_block_pixels;
}

inline int64_t blocks_of(const CbamShape& shape) {
  const int64_t block = block_pixels(shape);
  return (shape.pixels() + block - 1) / block;
}

struct Span {
  int64_t first, count;
};

inline Span block_span(const CbamShape& shape, int64_t block) {
  const int64_t size = block_pixels(shape), first = block * size, left = shape.pixels() - first;
  return {first, left < size ? left : size};
}

// Integers as wide as A's vectors.
template <class A>
struct IndexVecOf {
  typedef bits_t<A> type __attribute__((vector_size(vector_bytes)));
};
template <class A>
using IndexVec = typename IndexVecOf<A>::type;

template <class A>
inline IndexVec<A> lane_numbers() {
  IndexVec<A> v;
  for (int i = 0; i < lanes<A>; ++i) v[i] = i;
  return v;
}

// 32-bit indices in memory, as wide as A in registers.
template <class A>
struct Indices {
  typedef int32_t Narrow __attribute__((vector_size(4 * lanes<A>)));

  static IndexVec<A> load(const int32_t* p, int64_t count) {
    Narrow narrow = {};
    if (count >= lanes<A>)
      std::memcpy(&narrow, p, sizeof narrow);
    else
      std::memcpy(&narrow, p, size_t(count) * 4);
    return __builtin_convertvector(narrow, IndexVec<A>);
  }
  static void store(int32_t* p, IndexVec<A> v, int64_t count) {
    const Narrow narrow = __builtin_convertvector(v, Narrow);
    if (count >= lanes<A>)
      std::memcpy(p, &narrow, sizeof narrow);
    else
      std::memcpy(p, &narrow, size_t(count) * 4);
  }
};

// The maximum and its first place. NaN is larger than all numbers, as in torch.max.
template <class A>
inline bool is_above(A value, A best) {
  return value > best || (value != value && best == best);
}

template <class A>
struct Best {
  Vec<A> value = broadcast<Vec<A>>(A(-__builtin_inf()));
  IndexVec<A> at = {};

  void take(Vec<A> v, IndexVec<A> where) {
    const IndexVec<A> above = (v > value) | ((v != v) & (value == value));
    value = above ? v : value;
    at = above ? where : at;
  }
};

// Folds the lanes of a vector to one, halves at a time.
template <class V, class Fold>
inline auto fold_lanes(V v, const Fold& fold) {
  using A = std::remove_cv_t<std::remove_reference_t<decltype(v[0])>>;
  if constexpr (sizeof(V) == 2 * sizeof(A)) {
    A low = v[0], high = v[1];
    return fold(low, high);
  } else {
    typedef A Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof halves);
    return fold_lanes(Half(fold(halves[0], halves[1])), fold);
  }
}

// NaN, if there is one.
template <class V>
inline auto peak_of_lanes(V v) {
  return fold_lanes(v, [](auto a, auto b) { return (a > b) | (a != a) ? a : b; });
}

// Where `v` is the maximum, which may be NaN.
template <class V>
inline auto is_peak(V v, V peak) {
  return (v == peak) | ((v != v) & (peak != peak));
}

// An index behind all others.
template <class A>
inline IndexVec<A> far_away() {
  return IndexVec<A>{} + bits_t<A>(0x7fffffff);
}

template <class A>
inline bits_t<A> least_of_lanes(IndexVec<A> v) {
  return fold_lanes(v, [](auto a, auto b) { return a < b ? a : b; });
}

// The first lanes' numbers, and minus infinity behind them.
template <class A>
inline Vec<A> only_first(Vec<A> v, int64_t count) {
  if (count >= lanes<A>) return v;
  return lane_numbers<A>() < (IndexVec<A>{} + bits_t<A>(count)) ? v : broadcast<Vec<A>>(A(-__builtin_inf()));
}

// Of a part of a channel.
template <class A>
struct PoolPart {
  double sum;
  A peak;
  int64_t at;
};

// What the passes read of one image's gates, and the sums that backward spreads again.
template <class A>
struct Gates {
  const A* channel;  // [channels]; ones where there is no such gate
  const A* spatial;  // [pixels]
  const A* mix;      // [channels]: the weights with which channels were added up for the spatial gate
  // Backward: of each pixel's weighted sum over channels, and of its maximum (with the channel that it has).
  const A *dsum, *dpeak;
  const int32_t* peak_channel;
  const A* offset;  // [channels]: the gradient of a channel's mean, for each pixel
};

}  // namespace fastseg::FASTSEG_ISA
