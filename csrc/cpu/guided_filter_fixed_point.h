// Sums over windows that slide, without drift. A running sum in float32 keeps the rounding errors of all that ever
// passed through it, and 1 / eps makes them seen (5e-4 of a picture's range after 375 rows, at eps 1e-4). So float32
// values are added up as 32-bit integers, exactly: scaled by a power of two by which the sum over a column of the
// window just fits, and column sums lose the bits by which the sum over their row would not. That rounds a window's
// mean by less than width / 2^31 of the largest value. float64 is wide enough as it is.
#pragma once
#include "fastseg/cpu/pixels.h"

namespace fastseg::FASTSEG_ISA {

// Wider windows would leave integers too few bits.
constexpr int64_t widest_fixed_point_window = 256;

template <class A>
struct FixedPoint;

template <>
struct FixedPoint<float> {
  typedef int32_t Sum __attribute__((vector_size(vector_bytes)));

  static Sum from(Vec<float> v) {
#if defined(__AVX512F__)
    return (Sum)_mm512_cvtps_epi32((__m512)v);
#elif defined(__AVX2__)
    return (Sum)_mm256_cvtps_epi32((__m256)v);
#elif defined(__SSE2__)
    return (Sum)_mm_cvtps_epi32((__m128)v);
#else
    return __builtin_convertvector(v + (v < 0.0f ? broadcast<Vec<float>>(-0.5f) : broadcast<Vec<float>>(0.5f)), Sum);
#endif
  }
  static Vec<float> to(Sum sum) { return __builtin_convertvector(sum, Vec<float>); }

  // The scale for values up to `largest` in columns of up to `height`.
  static float scale(float largest, int64_t height) {
    if (!(largest > 0)) return 1;
    const double most = double(INT32_MAX - widest_fixed_point_window) / double(height) - 1;
    const int exponent = __builtin_ilogb(most / double(largest));
    return __builtin_ldexpf(1.0f, exponent < 126 ? exponent : 126);
  }

  // Bits that column sums lose, so that `width` of them add up. Columns begin with half of what is lost, not with zero:
  // cutting the bits off rounds to nearest then.
  static int lost_bits(int64_t width) {
    int bits = 0;
    while (int64_t(1) << bits < width) ++bits;
    return bits;
  }
  static int32_t half(int bits) { return 1 << bits >> 1; }
  static Sum coarse(Sum column, int bits) { return column >> bits; }
};

template <>
struct FixedPoint<double> {
  typedef Vec<double> Sum;

  static Sum from(Vec<double> v) { return v; }
  static Vec<double> to(Sum sum) { return sum; }
  static double scale(double, int64_t) { return 1; }
  static int lost_bits(int64_t) { return 0; }
  static double half(int) { return 0; }
  static Sum coarse(Sum column, int) { return column; }
};

// The largest |number|; NaN where there is one, for its bits are larger than those of any number.
template <class T>
inline compute_t<T> largest_magnitude(const T* from, int64_t count) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>, chains = 4;
  using Integer = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  typedef Integer Bits __attribute__((vector_size(vector_bytes)));
  const Bits all_but_sign = Bits{} + Integer(~(uint64_t(1) << (8 * sizeof(A) - 1)));
  Bits most[chains] = {};
  const auto take = [&](Bits& to, Vec<A> v) {
    const Bits bits = (Bits)v & all_but_sign;
    to = bits > to ? bits : to;
  };
  int64_t i = 0;
  for (; i + chains * L <= count; i += chains * L)
#pragma GCC unroll 4
    for (int k = 0; k < chains; ++k) take(most[k], load(from + i + k * L));
  for (; i < count; ++i) take(most[0], broadcast<Vec<A>>(A(load_one(from + i))));
  for (int k = 1; k < chains; ++k) most[0] = most[k] > most[0] ? most[k] : most[0];
  Integer largest = 0;
  for (int lane = 0; lane < L; ++lane) largest = most[0][lane] > largest ? most[0][lane] : largest;
  A value;
  std::memcpy(&value, &largest, sizeof value);
  return value;
}

template <class Sum, class S>
inline Sum load_sum(const S* p) {
  Sum v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class Sum, class S>
inline void store_sum(S* p, Sum v) {
  std::memcpy(p, &v, sizeof v);
}

}  // namespace fastseg::FASTSEG_ISA
