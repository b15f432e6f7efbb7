// Sums of a row of columns over the windows of pixels, one after another. A column has K vectors of sums beside each
// other.
#pragma once
#include "guided_filter_fixed_point.h"
#include "guided_filter_windows.h"

namespace fastseg::FASTSEG_ISA {

// Exact sums of fixed-point numbers.
template <class A, int count>
struct FixedColumns {
  using Fixed = FixedPoint<A>;
  using Sum = typename Fixed::Sum;
  static constexpr int K = count;
  const std::remove_reference_t<decltype(Sum{}[0])>* data;
  int lost_bits;
  Sum sum[K] = {};

  Sum at(int64_t x, int k) const { return Fixed::coarse(load_sum<Sum>(data + (x * K + k) * lanes<A>), lost_bits); }
  void add(int k, Sum v) { sum[k] += v; }
  Vec<A> total(int k) const { return Fixed::to(sum[k]); }
};

// Sums in floating point: what an addition rounds off is added the next time (Kahan).
template <class A, int count>
struct FloatColumns {
  static constexpr int K = count;
  const A* data;
  Vec<A> sum[K] = {}, excess[K] = {};

  Vec<A> at(int64_t x, int k) const { return load(data + (x * K + k) * lanes<A>); }
  void add(int k, Vec<A> v) {
    const Vec<A> step = v - excess[k], next = sum[k] + step;
    excess[k] = (next - sum[k]) - step;
    sum[k] = next;
  }
  Vec<A> total(int k) const { return sum[k]; }
};

template <class Columns>
class WindowSum {
 public:
  static constexpr int K = Columns::K;

  // `enter` and `leave` have the columns that come in and go at each pixel; `nothing` is a column of zeros.
  WindowSum(const Columns& columns, const Axis& axis, const int32_t* enter, const int32_t* leave, int64_t nothing)
      : columns_(columns), enter_(enter), leave_(leave) {
    for (int64_t x = -axis.radius - 1; x < axis.radius; ++x) {
      const int64_t pixel = axis.pixel(x);
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) columns_.add(k, columns_.at(pixel < 0 ? nothing : pixel, k));
    }
  }

  // To pixel x, after the pixel before it.
  [[gnu::always_inline]] void step(int64_t x) {
    const int64_t in = enter_[x], out = leave_[x];
#pragma GCC unroll 4
    for (int k = 0; k < K; ++k) columns_.add(k, columns_.at(in, k) - columns_.at(out, k));
  }
  [[gnu::always_inline]] auto sum(int k) const { return columns_.total(k); }

 private:
  Columns columns_;
  const int32_t *enter_, *leave_;
};

}  // namespace fastseg::FASTSEG_ISA
