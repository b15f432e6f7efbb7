// The guided filter of one image at a time: vectors along rows, sums in float64. For few channels; many of them are
// faster side by side (guided_filter_slices.h).
#pragma once
#include "guided_filter_guide.h"

namespace fastseg::FASTSEG_ISA {

template <int G, class A>
inline Vec<double> solve_row(const GuidePlanes<G, A>& guide, const Vec<double> (&covariance)[G], int i, int64_t y,
                             int64_t x) {
  Vec<double> a = {};
  for (int j = 0; j < G; ++j) {
    const int low = i < j ? i : j, high = i < j ? j : i;
    a += load_wide(guide.inverse.row(low * G - low * (low - 1) / 2 + high - low, y) + x) * covariance[j];
  }
  return a;
}

// Two phases for each channel: a and b of all windows; the result. As in guided_filter_slices.h, a channel with a
// number that is not finite comes out as NaN everywhere.
template <class T, int G>
class ImageFilter {
 public:
  using A = compute_t<T>;
  static constexpr int values = G + 1;

  ImageFilter(const GuidedFilter& args, const Axis& rows, const Axis& columns, const GuidePlanes<G, A>& guide,
              const Planes<A>& windows)
      : args_(args), rows_(rows), columns_(columns), guide_(guide), windows_(windows) {}

  static int64_t doubles(int64_t width, int64_t radius) {
    return WindowMeans<values>::doubles(width, radius) + 2 * Planes<A>::pitch_of(width);
  }

  // Whether all numbers that went in were finite.
  bool fit(int64_t n, int64_t c, int64_t first, int64_t last, double* scratch) const {
    const int64_t pitch = windows_.pitch;
    A* staging = reinterpret_cast<A*>(scratch);
    const ImageRows<T> src = image<T>(args_.src, n, c);
    const auto products = [&, staging](int64_t y, int slot) {
      A* p = staging + slot * pitch;
      for (int64_t x = 0; x < pitch; x += lanes<A>) store(p + x, src.read(y, x));
      return [this, p, y](int64_t x, Vec<double>(&v)[values]) {
        v[0] = load_wide(p + x);
        for (int i = 0; i < G; ++i) v[1 + i] = load_wide(guide_.colours.row(i, y) + x) * v[0];
      };
    };
    WindowMeans<values> means(rows_, columns_, scratch + 2 * pitch);
    for (int64_t y = first; y < last; ++y) {
      means.step(products, y, y == first);
      for (int64_t x = 0; x < columns_.size; x += lanes<double>) {
        Vec<double> m[values], centre[G], covariance[G];
        means.means(x, m);
        for (int i = 0; i < G; ++i) {
          centre[i] = load_wide(guide_.means.row(i, y) + x);
          covariance[i] = m[1 + i] - centre[i] * m[0];
        }
        Vec<double> b = m[0];
        for (int i = 0; i < G; ++i) {
          const Vec<double> a = solve_row(guide_, covariance, i, y, x);
          b -= a * centre[i];
          store_wide(windows_.row(i, y) + x, a);
        }
        store_wide(windows_.row(G, y) + x, b);
      }
    }
    return means.finite();
  }

  void apply(int64_t n, int64_t c, int64_t first, int64_t last, bool finite, double* scratch) const {
    const double one = finite ? 1.0 : __builtin_nan("");
    const auto planes = [this](int64_t y, int) {
      return [this, y](int64_t x, Vec<double>(&v)[values]) {
        for (int i = 0; i < values; ++i) v[i] = load_wide(windows_.row(i, y) + x);
      };
    };
    A* line = reinterpret_cast<A*>(scratch);
    WindowMeans<values> means(rows_, columns_, scratch + 2 * windows_.pitch);
    for (int64_t y = first; y < last; ++y) {
      means.step(planes, y, y == first);
      const auto fill = [&](const auto& value) {
        for (int64_t x = 0; x < columns_.size; x += lanes<double>) {
          Vec<double> m[values];
          means.means(x, m);
          store_wide(line + x, value(x, m) * one);
        }
      };
      const auto write = [&](const auto& to) {
        for (int64_t x = 0; x < columns_.size; x += lanes<A>) to.write(y, x, load(line + x));
      };
      if (args_.coefficients) {
        for (int i = 0; i < values; ++i) {
          fill([&](int64_t, const Vec<double>(&m)[values]) {
            if (i < G) return m[i] * *guide_.scale;
            Vec<double> value = m[G];
            for (int j = 0; j < G; ++j) value -= m[j] * (*guide_.scale * guide_.centre[j]);
            return value;
          });
          write(image<A>(args_.dst, n, c * values + i));
        }
      } else {
        fill([&](int64_t x, const Vec<double>(&m)[values]) {
          Vec<double> q = m[G];
          for (int i = 0; i < G; ++i) q += m[i] * load_wide(guide_.colours.row(i, y) + x);
          return q;
        });
        if (args_.index)
          keep_smallest(line, n, c, y);
        else
          write(image<T>(args_.dst, n, c));
      }
    }
  }

 private:
  template <class P>
  ImageRows<P> image(const Images& images, int64_t n, int64_t c) const {
    return {static_cast<P*>(images.data) + n * images.batch_stride + c * images.channel_stride, rows_.size,
            columns_.size};
  }

  // NaN counts as smaller than any number, as in guided_filter_argmin.h.
  void keep_smallest(const A* line, int64_t n, int64_t c, int64_t y) const {
    const int64_t at = (n * rows_.size + y) * columns_.size;
    A* value = static_cast<A*>(args_.value) + at;
    for (int64_t x = 0; x < columns_.size; ++x)
      if (c == 0 || line[x] < value[x] || line[x] != line[x]) value[x] = line[x], args_.index[at + x] = c;
  }

  const GuidedFilter& args_;
  Axis rows_, columns_;
  const GuidePlanes<G, A>& guide_;
  Planes<A> windows_;  // [G + 1]: a and b of the channel in hand
};

}  // namespace fastseg::FASTSEG_ISA
