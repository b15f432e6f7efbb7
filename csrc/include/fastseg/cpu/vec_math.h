// Elementary functions on vectors of float32.
#pragma once
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

typedef int32_t IntVec __attribute__((vector_size(vector_bytes)));

// The logarithm of normal numbers > 0, to about one unit in the last place, next to 1 too.
// Polynomial of the Cephes library's logf.
inline Vec<float> log(Vec<float> x) {
  const IntVec bits = (IntVec)x;
  // The exponent that leaves a mantissa in [sqrt(1/2), sqrt(2)).
  const IntVec exponent = (bits - 0x3f3504f3) >> 23;
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

// log(1 + x) for x >= 0, to a few units in the last place however small x is.
inline Vec<float> log1p(Vec<float> x) {
  const Vec<float> u = 1.0f + x, exact = u - 1.0f;
  return exact > 0.0f ? log(u) * (x / exact) : x;
}

// 2^x, between the smallest normal number and 2^126. Polynomial of the Cephes library's exp2f.
inline Vec<float> exp2(Vec<float> x) {
  x = x > -126.0f ? x : broadcast<Vec<float>>(-126.0f);
  x = x < 126.0f ? x : broadcast<Vec<float>>(126.0f);
  // Adding 1.5 * 2^23 rounds to an integer, which is then in the lowest bits.
  const Vec<float> shifted = x + 12582912.0f, f = x - (shifted - 12582912.0f);
  Vec<float> p = 1.535336188319500e-4f * f + 1.339887440266574e-3f;
  p = p * f + 9.618437357674640e-3f;
  p = p * f + 5.550332471162809e-2f;
  p = p * f + 2.402264791363012e-1f;
  p = p * f + 6.931472028550421e-1f;
  return (Vec<float>)((IntVec)(p * f + 1.0f) + (((IntVec)shifted - 0x4b400000) << 23));
}

}  // namespace fastseg::FASTSEG_ISA
