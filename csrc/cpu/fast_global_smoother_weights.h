// Weights exp(-|dI| / sigma) of neighbouring pixels of a guide, in bundles: see fast_global_smoother_lines.h.
#pragma once
#include "fast_global_smoother_lines.h"
#include "fastseg/cpu/pixels.h"
#include "fastseg/cpu/vec_math.h"

namespace fastseg::FASTSEG_ISA {

// One image of a guide, read in the compute type, row by row.
template <class A>
class GuideLines {
 public:
  GuideLines(const Images& guide, int64_t n, int64_t channels, int64_t height, int64_t width, int64_t padded)
      : guide_(guide),
        n_(n),
        channels_(channels),
        height_(height),
        width_(width),
        pitch_(padded + lanes<A>),
        lines_(2 * channels * pitch_) {
    for (int64_t i = 0; i < 2 * channels * pitch_; ++i) lines_[i] = 0;
  }

  // Rows y and y + 1 are there afterwards; call it for one row after another.
  void step(int64_t y, bool first) {
    if (first) convert(y);
    if (y + 1 < height_) convert(y + 1);
  }
  // Weights of pixel x, ... and its neighbour to the right, and below. `padded` may be read, beyond the width is zero.
  Vec<A> right(int64_t y, int64_t x, A sigma) const { return weight(line(y) + x, line(y) + x + 1, sigma); }
  Vec<A> below(int64_t y, int64_t x, A sigma) const { return weight(line(y) + x, line(y + 1) + x, sigma); }

 private:
  A* line(int64_t y) const { return lines_.get() + y % 2 * channels_ * pitch_; }

  void convert(int64_t y) {
    with_pixel(guide_.type, [&](auto pixel) {
      using T = decltype(pixel);
      for (int64_t c = 0; c < channels_; ++c) {
        const T* from =
            static_cast<const T*>(guide_.data) + n_ * guide_.batch_stride + c * guide_.channel_stride + y * width_;
        A* to = line(y) + c * pitch_;
        for (int64_t x = 0; x < width_; ++x) to[x] = A(load_one(from + x));
      }
    });
  }

  Vec<A> weight(const A* here, const A* there, A sigma) const {
    Vec<A> distance = load(here) - load(there);
    if (channels_ == 1) {
      distance = abs(distance);
    } else {
      distance *= distance;
      for (int64_t c = 1; c < channels_; ++c) {
        const Vec<A> other = load(here + c * pitch_) - load(there + c * pitch_);
        distance += other * other;
      }
      distance = sqrt(distance);
    }
    return exp(-distance / sigma);
  }

  const Images& guide_;
  int64_t n_, channels_, height_, width_, pitch_;
  Scratch<A> lines_;  // [2, channels, pitch]
};

// Weights of rows first to first + bundle: to the right as a bundle [width][bundle], below into column bundles.
template <class A>
inline void weigh_rows(GuideLines<A>& guide, int64_t first, int64_t height, int64_t width, A sigma, A* staging,
                       A* to_right, const ColumnBundles<A>& to_below) {
  constexpr int L = lanes<A>;
  const int64_t padded = (width + bundle<A> - 1) / bundle<A> * bundle<A>;
  const int64_t last = first + bundle<A> < height ? first + bundle<A> : height;
  const ImageRows<A> staged{staging, last - first, padded};
  for (int64_t y = first; y < last; ++y) {
    guide.step(y, y == first);
    A* row = staging + (y - first) * padded;
    for (int64_t x = 0; x < padded; x += L) {
      store(row + x, guide.right(y, x, sigma));
      to_below.write(y, x, y + 1 < height ? guide.below(y, x, sigma) : Vec<A>{});
    }
    for (int64_t x = width - 1; x < padded; ++x) row[x] = 0;
  }
  rows_to_bundle(staged, 0, padded, to_right);
}

}  // namespace fastseg::FASTSEG_ISA
