// What the two layouts of the norm family share: activation, moments, affine coefficients.
#pragma once
#include <type_traits>

#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"
#include "fastseg/norm.h"

namespace fastseg::FASTSEG_ISA {

// Integers of the width of A, for bit masks.
template <class A>
using bits_t = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;

// Every activation of the family is z where z > 0 and (z * slope) & keep elsewhere: slope 1 for none; keep 0 for relu,
// so that it gives 0 for -infinity too. One code path instead of three keeps the build short, and costs one
// instruction. Written so that NaN passes through. V is a vector, or A for a single number.
template <class A>
struct Activate {
  A slope;
  bits_t<A> keep;

  Activate(Activation activation, double negative_slope)
      : slope(activation == Activation::leaky_relu ? A(negative_slope) : A(1)),
        keep(activation == Activation::relu ? 0 : -1) {}

  template <class V>
  V masked(V value) const {
    if constexpr (sizeof(V) == sizeof(A)) {
      return keep ? value : V(0);
    } else {
      typedef bits_t<A> Bits __attribute__((vector_size(sizeof(V))));
      return (V)((Bits)value & (Bits{} + keep));
    }
  }
  template <class V>
  V operator()(V z) const {
    return z <= 0 ? masked<V>(z * (V{} + slope)) : z;
  }
  // The gradient through the activation; `decider` is z, or y, which has z's sign.
  template <class V>
  V backward(V grad, V decider) const {
    return decider <= 0 ? masked<V>(grad * (V{} + slope)) : grad;
  }
};

// Count, mean and sum of squared differences from it; merged by Chan's rule, which does not cancel.
struct Moments {
  double count = 0, mean = 0, m2 = 0;

  void merge(double other_count, double other_mean, double other_m2) {
    if (other_count == 0) return;
    const double total = count + other_count;
    const double delta = other_mean - mean;
    mean += delta * (other_count / total);
    m2 += other_m2 + delta * delta * (count * other_count / total);
    count = total;
  }
  void merge(const Moments& other) { merge(other.count, other.mean, other.m2); }
};

// y = act((x - centre) * scale + shift + residual). The mean is split in two, centre as x's compute type holds it and
// the rest inside shift, so that nothing cancels where |mean| is far above the deviation.
template <class A>
struct Affine {
  A centre, scale, shift;
};

template <class A>
inline Affine<A> forward_affine(double mean, double rstd, double weight, double bias) {
  const A centre = A(mean);
  const double scale = rstd * weight;
  return {centre, A(scale), A(bias - (mean - double(centre)) * scale)};
}

// What forward leaves of a row's moments: mean and rstd, and for running statistics the unbiased variance.
template <class A>
inline void write_statistics(const InstanceNormActForward& args, int64_t row, const Moments& moments, double rstd) {
  static_cast<A*>(args.mean)[row] = A(moments.mean);
  static_cast<A*>(args.rstd)[row] = A(rstd);
  if (args.variance) static_cast<A*>(args.variance)[row] = A(moments.m2 / (moments.count - 1));
}

inline double reciprocal_deviation(double m2, double count, double eps) {
  return 1.0 / __builtin_sqrt(m2 / count + eps);
}

// What backward takes from x instead of the mean, and what that leaves of it: for float32 a number so coarse, about a
// 32nd of the deviation, that x - centre is seldom rounded; for float64 the mean itself.
template <class A>
struct Centre {
  A centre;
  double rest;
};

template <class A>
inline Centre<A> backward_centre(A mean, A rstd) {
  if constexpr (sizeof(A) == sizeof(double)) return {mean, 0.0};
  const double deviation = 1 / double(rstd);
  uint64_t bits;
  std::memcpy(&bits, &deviation, 8);
  bits &= 0x7ff0000000000000;  // the power of two below it
  double step;
  std::memcpy(&step, &bits, 8);
  step *= 0x1p-5;
  const A centre = A(__builtin_nearbyint(double(mean) / step) * step);
  return __builtin_isfinite(centre) ? Centre<A>{centre, double(mean) - double(centre)} : Centre<A>{mean, 0.0};
}

// The bias of z = (x - centre) * scale + bias. Of a bias of 0, an x at the mean gives forward's z of exactly 0:
// rounding must not put z above it, or a constant channel would pass gradients that ReLU stopped.
inline double backward_bias(double bias, double, double) { return bias; }
inline float backward_bias(double bias, double rest, float scale) {
  float shifted = float(bias - rest * double(scale));
  while (bias == 0 && double(float(rest)) * double(scale) + double(shifted) > 0)
    shifted = __builtin_nextafterf(shifted, -__builtin_inff());
  return shifted;
}

// Vectors of a row's backward sums that are added up in the compute type before float64 takes over. Every one is a
// rounding that torch, which widens each element, does not make; 16-bit elements bring larger ones with them.
template <class T>
constexpr int vectors_in_run = sizeof(T) == 2 ? 4 : 2;

// dx = slope_g * g' - (slope_x * (x - centre) + offset), from the row's sums of g' and of g' * xhat over `count`
// elements; slope_g * g' alone where the statistics did not depend on x.
template <class A>
struct BackwardAffine {
  A slope_g, slope_x, offset;
};

template <class A>
inline BackwardAffine<A> backward_affine(double rstd, double weight, double sum_g, double sum_g_xhat, int64_t count,
                                         bool statistics_fixed, double rest) {
  const double scale = rstd * weight;
  if (statistics_fixed) return {A(scale), A(0), A(0)};
  const double slope_x = scale * rstd * (sum_g_xhat / double(count));
  return {A(scale), A(slope_x), A(scale * (sum_g / double(count)) - slope_x * rest)};
}

}  // namespace fastseg::FASTSEG_ISA
