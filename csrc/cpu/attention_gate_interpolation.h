// Linear interpolation between pixels of a coarse grid (align_corners=False), and its adjoint.
//
// All features of a pixel lie together, so that vectors go over features. For each row of the fine grid the two or four
// rows around it are combined first, then neighbours in that row.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// Between which coarse indices each fine one lies.
template <class A>
struct LinearAxis {
  Scratch<int64_t> low, high;
  Scratch<A> weight;  // of high

  LinearAxis(int64_t fine, int64_t coarse) : low(fine), high(fine), weight(fine) {
    for (int64_t i = 0; i < fine; ++i) {
      const double at = (double(i) + 0.5) * double(coarse) / double(fine) - 0.5;
      const double inside = at > 0 ? at : 0;
      const int64_t below = int64_t(inside) < coarse - 1 ? int64_t(inside) : coarse - 1;
      low[i] = below;
      high[i] = below + 1 < coarse ? below + 1 : below;
      weight[i] = A(inside - double(below));
    }
  }
};

template <class V, class A>
inline V between(V low, V high, A weight) {
  return low * (1 - weight) + high * weight;
}

template <class A>
class Interpolation {
 public:
  static constexpr int L = lanes<A>;

  Interpolation(const int64_t (&fine)[3], const int64_t (&coarse)[3], int64_t features)
      : z_(fine[0], coarse[0]),
        y_(fine[1], coarse[1]),
        x_(fine[2], coarse[2]),
        height_(fine[1]),
        width_(fine[2]),
        volume_(fine[0] > 1),
        coarse_height_(coarse[1]),
        coarse_width_(coarse[2]),
        features_(features),
        pitch_(rounded_up(features, L)) {}

  int64_t pitch() const { return pitch_; }  // features of a pixel, filled up to vectors
  int64_t row_size() const { return coarse_width_ * pitch_; }
  int64_t coarse_width() const { return coarse_width_; }

  // Rows of the coarse grid around fine pixels [first, last): from `begin` on, up to `end`.
  void rows_around(int64_t first, int64_t last, int64_t& begin, int64_t& end) const {
    const int64_t top = first / width_, bottom = (last - 1) / width_;
    begin = volume_ ? z_.low[top / height_] * coarse_height_ : y_.low[top];
    end = volume_ ? (z_.high[bottom / height_] + 1) * coarse_height_ : y_.high[bottom] + 1;
  }

  // Fine pixels [first, first + count) of one sample to `to` [count][pitch]. `row` holds row_size() numbers.
  void interpolate(const A* coarse, int64_t pixel_stride, int64_t first, int64_t count, A* row, A* to) const {
    for_rows(first, count, [&](int64_t z, int64_t y, int64_t begin, int64_t end) {
      const A* rows[2][2];
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) rows[i][j] = coarse + coarse_row(z, y, i, j) * coarse_width_ * pixel_stride;
      const bool one_plane = z_.low[z] == z_.high[z];
      for (int64_t k = x_.low[begin]; k <= x_.high[end - 1]; ++k)
        for (int64_t f = 0; f < pitch_; f += L) {
          const int64_t at = k * pixel_stride + f, part = features_ - f < L ? features_ - f : L;
          Vec<A> v = between(load_part(rows[0][0] + at, part), load_part(rows[0][1] + at, part), y_.weight[y]);
          if (!one_plane)
            v = between(v, between(load_part(rows[1][0] + at, part), load_part(rows[1][1] + at, part), y_.weight[y]),
                        z_.weight[z]);
          store(row + k * pitch_ + f, v);
        }
      for (int64_t x = begin; x < end; ++x, to += pitch_) {
        const A *low = row + x_.low[x] * pitch_, *high = row + x_.high[x] * pitch_;
        for (int64_t f = 0; f < pitch_; f += L) store(to + f, between(load(low + f), load(high + f), x_.weight[x]));
      }
    });
  }

  // Adds what fine pixels [first, first + count) of `from` [count][pitch] give to coarse rows, of which `to` holds
  // those from first_row on, [rows][coarse width][pitch]. `row` as above.
  void add_adjoint(const A* from, int64_t first, int64_t count, A* row, int64_t first_row, A* to) const {
    for_rows(first, count, [&](int64_t z, int64_t y, int64_t begin, int64_t end) {
      const int64_t k0 = x_.low[begin] * pitch_, k1 = (x_.high[end - 1] + 1) * pitch_;
      for (int64_t k = k0; k < k1; k += L) store(row + k, Vec<A>{});
      for (int64_t x = begin; x < end; ++x, from += pitch_) {
        A *low = row + x_.low[x] * pitch_, *high = row + x_.high[x] * pitch_;
        for (int64_t f = 0; f < pitch_; f += L) {
          const Vec<A> v = load(from + f);
          store(low + f, load(low + f) + v * (1 - x_.weight[x]));
          store(high + f, load(high + f) + v * x_.weight[x]);
        }
      }
      for (int i = 0; i < 2; ++i)
        for (int j = 0; j < 2; ++j) {
          const A weight = (i ? z_.weight[z] : 1 - z_.weight[z]) * (j ? y_.weight[y] : 1 - y_.weight[y]);
          if (weight == 0) continue;
          A* target = to + (coarse_row(z, y, i, j) - first_row) * row_size();
          for (int64_t k = k0; k < k1; k += L) store(target + k, load(target + k) + load(row + k) * weight);
        }
    });
  }

 private:
  int64_t coarse_row(int64_t z, int64_t y, int i, int j) const {
    return (i ? z_.high : z_.low)[z] * coarse_height_ + (j ? y_.high : y_.low)[y];
  }

  // Calls body(z, y, begin, end) for the parts of rows that fine pixels [first, first + count) are.
  template <class Body>
  void for_rows(int64_t first, int64_t count, const Body& body) const {
    for (int64_t done = 0; done < count;) {
      const int64_t row = (first + done) / width_, begin = (first + done) % width_, left = count - done;
      const int64_t end = width_ - begin < left ? width_ : begin + left;
      body(row / height_, row % height_, begin, end);
      done += end - begin;
    }
  }

  LinearAxis<A> z_, y_, x_;
  int64_t height_, width_;
  bool volume_;  // the fine grid has several planes
  int64_t coarse_height_, coarse_width_, features_, pitch_;
};

}  // namespace fastseg::FASTSEG_ISA
