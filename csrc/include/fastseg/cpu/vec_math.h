// Elementary functions of vectors, for the vector extensions have none.
#pragma once
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// exp by n * ln 2 + r, |r| <= ln 2 / 2: a polynomial of r (Cephes), and n added to the exponent's bits. At most two
// units in the last place off; 0 where the result would be below the smallest normal number.
inline Vec<float> exp(Vec<float> x) {
  typedef int32_t Int __attribute__((vector_size(vector_bytes)));
  const Vec<float> low = broadcast<Vec<float>>(-87.336543f), high = broadcast<Vec<float>>(88.722839f);
  const Vec<float> inside = x < low ? low : x > high ? high : x;
  const float shift = 12582912.0f;  // adding it rounds to an integer, which stands in the last bits then
  const Vec<float> shifted = inside * 1.44269504f + shift, n = shifted - shift;
  const Vec<float> r = inside - n * 0.693359375f + n * 2.12194440e-4f;
  Vec<float> p = r * 1.9875691500e-4f + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * (r * r) + r + 1.0f;
  const Vec<float> y = (Vec<float>)((Int)p + ((Int)shifted << 23));
  const Vec<float> zero = {}, infinity = zero + __builtin_inff();
  return x < low ? zero : x > high ? infinity : x == x ? y : x;
}

inline Vec<double> exp(Vec<double> x) {
  typedef int64_t Int __attribute__((vector_size(vector_bytes)));
  const Vec<double> low = broadcast<Vec<double>>(-708.39641853226408),
                    high = broadcast<Vec<double>>(709.78271289338397);
  const Vec<double> inside = x < low ? low : x > high ? high : x;
  const double shift = 6755399441055744.0;
  const Vec<double> shifted = inside * 1.4426950408889634 + shift, n = shifted - shift;
  const Vec<double> r = inside - n * 6.93145751953125e-1 - n * 1.42860682030941723212e-6;
  const Vec<double> rr = r * r;
  const Vec<double> p =
      r * ((rr * 1.26177193074810590878e-4 + 3.02994407707441961300e-2) * rr + 9.99999999999999999910e-1);
  const Vec<double> q =
      ((rr * 3.00198505138664455042e-6 + 2.52448340349684104192e-3) * rr + 2.27265548208155028766e-1) * rr + 2.0;
  const Vec<double> e = p / (q - p) * 2.0 + 1.0;
  const Vec<double> y = (Vec<double>)((Int)e + ((Int)shifted << 52));
  const Vec<double> zero = {}, infinity = zero + __builtin_inf();
  return x < low ? zero : x > high ? infinity : x == x ? y : x;
}

// The logarithm of normal numbers > 0, to about one unit in the last place, next to 1 too.
// Polynomial of the Cephes library's logf.
inline Vec<float> log(Vec<float> x) {
  typedef int32_t Int __attribute__((vector_size(vector_bytes)));
  const Int bits = (Int)x;
  // The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
  const Int exponent = (bits - 0x3f3504f3) >> 23;
  const Vec<float> f = (Vec<float>)(bits - (exponent << 23)) - 1.0f;
  const Vec<float> e = __builtin_convertvector(exponent, Vec<float>), square = f * f;
  Vec<float> p = 7.0376836292e-2f * f - 1.1514610310e-1f;
  p = p * f + 1.1676998740e-1f;
  p = p * f - 1.2420140846e-1f;
  p = p * f + 1.4249322787e-1f;
  p = p * f - 1.6668057665e-1f;
  p = p * f + 2.0000714765e-1f;
  p = p * f - 2.4999993993e-1f;
  p = p * f + 3.3333331174e-1f;
  return f + (p * f * square - 0.5f * square) + e * 0.69314718056f;
}

// Lane by lane: no kernel is in a hurry in float64.
inline Vec<double> log(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_log(x[i]);
  return x;
}
inline Vec<double> log1p(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_log1p(x[i]);
  return x;
}

// log(1 + x) for x >= 0, to a few units in the last place however small x is.
inline Vec<float> log1p(Vec<float> x) {
  const Vec<float> u = 1.0f + x, exact = u - 1.0f;
  return exact > 0.0f ? log(u) * (x / exact) : x;
}

template <class V>
inline V abs(V x) {
  return x < 0 ? -x : x;
}

// Compilers make one instruction of the loop.
inline Vec<float> sqrt(Vec<float> x) {
  for (int i = 0; i < lanes<float>; ++i) x[i] = __builtin_sqrtf(x[i]);
  return x;
}
inline Vec<double> sqrt(Vec<double> x) {
  for (int i = 0; i < lanes<double>; ++i) x[i] = __builtin_sqrt(x[i]);
  return x;
}

// 1 / (1 + exp(-x)) and its derivative. exp(-|x|) does not overflow, and the derivative from it does not cancel where
// the value is next to 1.
template <class V>
struct Sigmoid {
  V value, derivative;
};
template <class V>
inline Sigmoid<V> sigmoid(V x) {
  const V one = V{} + 1, e = exp(-abs(x)), r = one / (one + e), er = e * r;
  return {x < 0 ? er : r, er * r};
}

}  // namespace fastseg::FASTSEG_ISA
