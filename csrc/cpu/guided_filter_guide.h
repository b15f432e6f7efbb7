// What the guided filter needs of a guide, once for all channels of src: the centred and scaled guide, windowed means
// and the inverse of the windowed covariance. Sums are in float64: with eps 1e-4, rounding of a float32 covariance
// would show.
#pragma once
#include "guided_filter_sums.h"

namespace fastseg::FASTSEG_ISA {

template <int G, class A>
struct GuidePlanes {
  static constexpr int inverses = G * (G + 1) / 2;
  Planes<A> colours;  // [G], less the mean of the image, times `scale`: no number is above 1
  Planes<A> means;    // [G]
  Planes<A> inverse;  // [inverses]: 00, 01, 02, 11, 12, 22
  double* row_sums;   // [3, G, height]: sum, smallest, largest
  double* centre;     // [G]
  double* scale;      // a power of two
};

// Inverse of a symmetric matrix of which no eigenvalue is below eps, by elimination (L D L^T): inverting by cofactors
// would lose the small eigenvalues.
inline void invert(const Vec<double> (&s)[1], double, Vec<double> (&inverse)[1]) { inverse[0] = 1.0 / s[0]; }
inline void invert(const Vec<double> (&s)[6], double eps, Vec<double> (&inverse)[6]) {
  const auto at_least = [eps](Vec<double> d) { return d < eps ? broadcast<Vec<double>>(eps) : d; };
  const Vec<double> r0 = 1.0 / s[0], l10 = s[1] * r0, l20 = s[2] * r0;
  const Vec<double> rest = s[4] - l20 * s[1];
  const Vec<double> r1 = 1.0 / at_least(s[3] - l10 * s[1]), l21 = rest * r1;
  const Vec<double> r2 = 1.0 / at_least(s[5] - l20 * s[2] - l21 * rest);
  const Vec<double> m20 = l10 * l21 - l20;  // the last line of L^-1, of which the others are plain
  inverse[0] = r0 + l10 * l10 * r1 + m20 * m20 * r2;
  inverse[1] = -l10 * r1 - m20 * l21 * r2;
  inverse[2] = m20 * r2;
  inverse[3] = r1 + l21 * l21 * r2;
  inverse[4] = -l21 * r2;
  inverse[5] = r2;
}

// Three phases, each over bands of rows: sums of rows; the centred guide; statistics of windows.
template <int G, class A>
class GuideStatistics {
 public:
  static constexpr int phases = 3, values = G + G * (G + 1) / 2;

  GuideStatistics(const Images& guide, const Axis& rows, const Axis& columns, double eps, const GuidePlanes<G, A>& to)
      : guide_(guide), rows_(rows), columns_(columns), eps_(eps), to_(to) {}

  static int64_t doubles(int64_t width, int64_t radius) { return WindowMeans<values>::doubles(width, radius); }

  void run(int64_t phase, int64_t n, int64_t first, int64_t last, double* scratch) const {
    if (phase == 0) {
      with_pixel(guide_.type, [&](auto pixel) { add_rows(row_of<decltype(pixel)>(n), first, last); });
    } else if (phase == 1) {
      with_pixel(guide_.type, [&](auto pixel) { centre_rows(row_of<decltype(pixel)>(n), first, last); });
    } else {
      window_rows(first, last, scratch);
    }
  }

 private:
  template <class T>
  auto row_of(int64_t n) const {
    return [this, n](int g, int64_t y) {
      return static_cast<const T*>(guide_.data) + n * guide_.batch_stride + g * guide_.channel_stride +
             y * columns_.size;
    };
  }

  template <class Rows>
  void add_rows(const Rows& rows, int64_t first, int64_t last) const {
    for (int g = 0; g < G; ++g)
      for (int64_t y = first; y < last; ++y) {
        const auto* from = rows(g, y);
        constexpr int chains = 8;
        double sums[chains] = {}, low[chains], high[chains];
        for (int i = 0; i < chains; ++i) low[i] = high[i] = double(load_one(from));
        for (int64_t x = 0; x < columns_.size; ++x) {
          const double value = double(load_one(from + x));
          double &smallest = low[x % chains], &largest = high[x % chains];
          sums[x % chains] += value;
          smallest = value < smallest ? value : smallest;
          largest = value > largest ? value : largest;
        }
        for (int i = 1; i < chains; ++i) {
          sums[0] += sums[i];
          low[0] = low[i] < low[0] ? low[i] : low[0];
          high[0] = high[i] > high[0] ? high[i] : high[0];
        }
        *of_row(0, g, y) = sums[0];
        *of_row(1, g, y) = low[0];
        *of_row(2, g, y) = high[0];
      }
  }
  double* of_row(int what, int g, int64_t y) const { return to_.row_sums + (what * G + g) * rows_.size + y; }

  template <class Rows>
  void centre_rows(const Rows& rows, int64_t first, int64_t last) const {
    double centre[G], span = 0;
    for (int g = 0; g < G; ++g) {
      double total = 0, low = *of_row(1, g, 0), high = *of_row(2, g, 0);
      for (int64_t y = 0; y < rows_.size; ++y) {
        total += *of_row(0, g, y);
        low = *of_row(1, g, y) < low ? *of_row(1, g, y) : low;
        high = *of_row(2, g, y) > high ? *of_row(2, g, y) : high;
      }
      centre[g] = double(A(total / (double(rows_.size) * double(columns_.size))));
      const double farther = high - centre[g] > centre[g] - low ? high - centre[g] : centre[g] - low;
      span = farther > span ? farther : span;
    }
    const double scale = span > 0 ? __builtin_ldexp(1.0, -1 - __builtin_ilogb(span)) : 1.0;
    if (first == 0) {
      *to_.scale = scale;
      for (int g = 0; g < G; ++g) to_.centre[g] = centre[g];
    }
    for (int g = 0; g < G; ++g)
      for (int64_t y = first; y < last; ++y) {
        const auto* from = rows(g, y);
        A* to = to_.colours.row(g, y);
        for (int64_t x = 0; x < columns_.size; ++x) to[x] = (A(load_one(from + x)) - A(centre[g])) * A(scale);
        for (int64_t x = columns_.size; x < to_.colours.pitch; ++x) to[x] = 0;
      }
  }

  void window_rows(int64_t first, int64_t last, double* scratch) const {
    const auto products = [this](int64_t y, int) {
      return [this, y](int64_t x, Vec<double>(&v)[values]) {
        int at = G;
        for (int i = 0; i < G; ++i) v[i] = load_wide(to_.colours.row(i, y) + x);
        for (int i = 0; i < G; ++i)
          for (int j = i; j < G; ++j) v[at++] = v[i] * v[j];
      };
    };
    const double eps = eps_ * *to_.scale * *to_.scale;
    WindowMeans<values> windows(rows_, columns_, scratch);
    for (int64_t y = first; y < last; ++y) {
      windows.step(products, y, y == first);
      for (int64_t x = 0; x < columns_.size; x += lanes<double>) {
        Vec<double> m[values], covariance[values - G], inverse[values - G];
        windows.means(x, m);
        int at = 0;
        for (int i = 0; i < G; ++i)
          for (int j = i; j < G; ++j, ++at) {
            covariance[at] = m[G + at] - m[i] * m[j];
            if (i == j) {
              covariance[at] = covariance[at] > 0.0 ? covariance[at] : Vec<double>{};
              covariance[at] += eps;
            }
          }
        invert(covariance, eps, inverse);
        for (int i = 0; i < G; ++i) store_wide(to_.means.row(i, y) + x, m[i]);
        for (int i = 0; i < values - G; ++i) store_wide(to_.inverse.row(i, y) + x, inverse[i]);
      }
    }
  }

  const Images& guide_;
  Axis rows_, columns_;
  double eps_;
  const GuidePlanes<G, A>& to_;
};

}  // namespace fastseg::FASTSEG_ISA
