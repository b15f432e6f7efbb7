// The weighted median of numbers in memory, exactly: bisection over integers of the same order as the numbers.
//
// A pass adds up the weights of all numbers up to a pivot, and finds the numbers next to it on either side. One of them
// becomes a bound, so that the bounds are numbers of the window and meet in its median. Pivots are where the weights
// would reach half if they were spread evenly between the bounds, and every third is halfway, for windows that are not
// so: some 6 passes for a few hundred different numbers, 96 at most (192 for float64).
#pragma once
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

template <class A>
struct OrderedOf;
template <>
struct OrderedOf<float> {
  using type = int32_t;
};
template <>
struct OrderedOf<double> {
  using type = int64_t;
};
// An integer that compares as its number does; -0 lies just below 0.
template <class A>
using Ordered = typename OrderedOf<A>::type;

template <class A>
struct OrderedVecOf {
  typedef Ordered<A> type __attribute__((vector_size(vector_bytes)));
};
template <class A>
using OrderedVec = typename OrderedVecOf<A>::type;

template <class A>
constexpr Ordered<A> largest_ordered = sizeof(A) == 8 ? Ordered<A>(INT64_MAX) : Ordered<A>(INT32_MAX);

// Negative numbers have their other bits inverted; the map is its own inverse.
template <class Integers>
inline Integers invert_negative(Integers bits) {
  using I = std::remove_cv_t<std::remove_reference_t<decltype(bits[0])>>;
  constexpr I others = sizeof(I) == 8 ? I(INT64_MAX) : I(INT32_MAX);
  return bits ^ ((bits >> (8 * sizeof(I) - 1)) & others);
}
template <class A>
inline OrderedVec<A> to_ordered(Vec<A> v) {
  return invert_negative((OrderedVec<A>)v);
}
template <class A>
inline A from_ordered(Ordered<A> value) {
  const OrderedVec<A> bits = invert_negative(OrderedVec<A>{} + value);
  return ((Vec<A>)bits)[0];
}

template <class A>
inline OrderedVec<A> load_ordered(const Ordered<A>* p) {
  OrderedVec<A> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class A>
inline void store_ordered(Ordered<A>* p, OrderedVec<A> v) {
  std::memcpy(p, &v, sizeof v);
}

template <class V>
inline V smaller(V a, V b) {
  return a < b ? a : b;
}
template <class V>
inline V larger(V a, V b) {
  return a > b ? a : b;
}

// Folds the lanes of a vector, halves first.
template <class V, class Fold>
inline auto fold_lanes(V v, const Fold& fold) {
  using I = std::remove_cv_t<std::remove_reference_t<decltype(v[0])>>;
  if constexpr (sizeof(V) == 2 * sizeof(I)) {
    return fold(I(v[0]), I(v[1]));
  } else {
    typedef I Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof halves);
    return fold_lanes(fold(halves[0], halves[1]), fold);
  }
}
template <class V>
inline auto smallest_lane(V v) {
  return fold_lanes(v, [](auto a, auto b) { return smaller(a, b); });
}
template <class V>
inline auto largest_lane(V v) {
  return fold_lanes(v, [](auto a, auto b) { return larger(a, b); });
}

// Independent sums hide the latency of additions. Arrays of a window are padded to as many whole vectors.
constexpr int select_vectors = 4;
template <class A>
constexpr int select_step = select_vectors * lanes<A>;

// A window's numbers and their weights, `count` of them, a multiple of select_step; what pads it repeats a number and
// weighs nothing.
template <class A>
struct Weighted {
  const Ordered<A>* values;
  const A* weights;
  int64_t count;
};

template <class A>
struct Split {
  A weight;                 // of all numbers up to the pivot
  Ordered<A> below, above;  // the numbers next to it: the largest up to it, the smallest beyond it
};

template <class A>
inline Split<A> split(const Weighted<A>& window, Ordered<A> pivot) {
  constexpr int G = select_vectors, L = lanes<A>;
  const OrderedVec<A> at = broadcast<OrderedVec<A>>(pivot);
  const Vec<A> nothing = {};
  Vec<A> weight[G] = {};
  OrderedVec<A> below[G], above[G];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) {
    above[g] = broadcast<OrderedVec<A>>(largest_ordered<A>);
    below[g] = ~above[g];
  }
  for (int64_t i = 0; i < window.count; i += select_step<A>) {
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      const OrderedVec<A> value = load_ordered<A>(window.values + i + g * L), low = value <= at;
      weight[g] += low ? load(window.weights + i + g * L) : nothing;
      below[g] = low ? larger(below[g], value) : below[g];
      above[g] = low ? above[g] : smaller(above[g], value);
    }
  }
#pragma GCC unroll 8
  for (int g = 1; g < G; ++g) {
    weight[0] += weight[g];
    below[0] = larger(below[0], below[g]);
    above[0] = smaller(above[0], above[g]);
  }
  return {add_lanes(weight[0]), largest_lane(below[0]), smallest_lane(above[0])};
}

// The smallest number v whose window[<= v] weighs half of `total` or more; `least` and `most` are the window's
// extremes. `guess` is where to look first and changes nothing else.
template <class A>
inline Ordered<A> select_median(const Weighted<A>& window, A total, Ordered<A> least, Ordered<A> most,
                                Ordered<A> guess) {
  const A half = total / 2;
  A before = 0, up_to = total;  // weights of the numbers below `least`, and of those up to `most`
  Ordered<A> pivot = guess;
  for (int pass = 1; least < most; ++pass) {
    const Split<A> parts = split(window, pivot < least ? least : pivot < most ? pivot : most - 1);
    if (parts.weight >= half)
      most = parts.below, up_to = parts.weight;
    else
      least = parts.above, before = parts.weight;
    if (pass % 3 == 0) {
      pivot = (least & most) + ((least ^ most) >> 1);  // halfway, without overflow
    } else {
      const double there = double(least) + (double(most) - double(least)) * double((half - before) / (up_to - before));
      pivot = there < double(most) ? Ordered<A>(there) : most;
    }
  }
  return most;
}

}  // namespace fastseg::FASTSEG_ISA
