// What both directions of cross-scale aggregation share: the numbers that couple levels, and where a pyramid is read.
#pragma once
#include "fastseg/cpu/pixels.h"
#include "fastseg/cpu/vec.h"
#include "fastseg/cross_scale.h"

namespace fastseg::FASTSEG_ISA {

// The result is sum_s weight[s] C_s, row 0 of the inverse of the tridiagonal matrix A (fastseg/reference/cross_scale.py
// says which). The same as averages of two, from the coarsest level on: u = C_{S-1}, then u += gain[s] (C_s - u) down
// to level 0. They come from Gaussian elimination in float64, written without a subtraction.
template <class A>
struct Coupling {
  A gain[CrossScaleLevels::most], weight[CrossScaleLevels::most];

  Coupling(int64_t levels, double lambda) {
    double q[CrossScaleLevels::most];
    q[levels - 1] = 1;
    for (int64_t s = levels - 1; s-- > 0;) q[s] = 1 + q[s + 1] * (lambda / (lambda + q[s + 1]));
    double w = 1 / q[0];
    for (int64_t s = 0; s < levels; ++s) {
      if (s > 0) w *= lambda / (lambda + q[s]);
      gain[s] = A(1 / q[s]);
      weight[s] = A(w);
    }
  }
};

// Level s of a pyramid holds pixel (y, x) of the finest level at (y / 2^s, x / 2^s) and disparity m at m / 2^s, rounded
// up: from level to level (m + 1) / 2, rounded down.
class PyramidShape {
 public:
  explicit PyramidShape(const CrossScale& args)
      : height_(args.height),
        width_(args.width),
        disparities_(args.levels.level[0].disparities),
        first_(args.min_disparity) {}

  int64_t height(int64_t s) const { return halved(height_, s); }
  int64_t width(int64_t s) const { return halved(width_, s); }
  // Place in level s of disparity d of the finest level, and how many places are looked up.
  int64_t place(int64_t s, int64_t d) const { return halved(first_ + d, s) - first(s); }
  int64_t disparities(int64_t s) const { return place(s, disparities_ - 1) + 1; }
  int64_t first(int64_t s) const { return halved(first_, s); }

 private:
  // Rounded up, also for negative numbers.
  static int64_t halved(int64_t value, int64_t times) { return (value + (int64_t(1) << times) - 1) >> times; }

  int64_t height_, width_, disparities_, first_;
};

// Some elements as a line of ImageRows, whose last vector is in part beyond its end.
template <class T>
inline ImageRows<T> line_of(T* data, int64_t count) {
  return {data, 1, count};
}

}  // namespace fastseg::FASTSEG_ISA
