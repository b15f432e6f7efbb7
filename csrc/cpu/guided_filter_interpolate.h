// The fast guided filter's last step: coarse coefficients, interpolated linearly, times the guide.
//
// Bytes: the guide and the coefficients read, dst written, once each. Operations: 2 a coefficient and pixel along rows,
// 2 along columns for the coarse ones, and a move. Vectors lie along coarse pixels: pixels of one phase, x % subsample,
// are beside each other, and are put in their places at the end.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "guided_filter_sums.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
class Interpolation {
 public:
  using A = compute_t<T>;

  explicit Interpolation(const GuidedFilterInterpolate& args)
      : args_(args),
        coarse_height_((args.height + args.subsample - 1) / args.subsample),
        coarse_width_((args.width + args.subsample - 1) / args.subsample) {}

  // Rows of all images, numbered through; all channels of a row, for which the guide is read once.
  void rows(int64_t begin, int64_t end) const {
    const int64_t pitch = rounded_up(coarse_width_ + 1, L), planes = args_.subsample * pitch;
    const Scratch<A> mixed((args_.guide_channels + 1) * (pitch + L)), colours(args_.guide_channels * planes),
        phases(planes), line(args_.width + L);
    for (int64_t i = 0; i < (args_.guide_channels + 1) * (pitch + L); ++i) mixed[i] = 0;
    for (int64_t i = 0; i < args_.guide_channels * planes; ++i) colours[i] = 0;
    for (int64_t at = begin; at < end; ++at) {
      const int64_t n = at / args_.height, y = at % args_.height;
      for (int64_t g = 0; g < args_.guide_channels; ++g) read_guide(n, g, y, pitch, colours.get() + g * planes);
      for (int64_t c = 0; c < args_.channels; ++c) {
        mix_rows(n, c, y, pitch + L, mixed.get());
        if (args_.guide_channels == 1)
          interpolate<1>(mixed.get(), colours.get(), pitch, phases.get());
        else
          interpolate<3>(mixed.get(), colours.get(), pitch, phases.get());
        for (int64_t i = 0; i < args_.subsample; ++i)
          for (int64_t x = i, coarse = 0; x < args_.width; x += args_.subsample, ++coarse)
            line[x] = phases[i * pitch + coarse];
        const ImageRows<T> dst{
            static_cast<T*>(args_.dst.data) + n * args_.dst.batch_stride + c * args_.dst.channel_stride, args_.height,
            args_.width};
        for (int64_t x = 0; x < args_.width; x += L) dst.write(y, x, load(line.get() + x));
      }
    }
  }

 private:
  static constexpr int L = lanes<A>;

  // Coarse rows of all coefficients of a channel, interpolated to row y. The last pixel goes on beyond the end.
  void mix_rows(int64_t n, int64_t c, int64_t y, int64_t pitch, A* mixed) const {
    const int64_t s = args_.subsample, count = args_.guide_channels + 1;
    const int64_t above = y / s, below = above + 1 < coarse_height_ ? above + 1 : above;
    const A down = A(y % s) / A(s);
    for (int64_t k = 0; k < count; ++k, mixed += pitch) {
      const A* plane = static_cast<const A*>(args_.coefficients.data) + n * args_.coefficients.batch_stride +
                       (c * count + k) * args_.coefficients.channel_stride;
      const A *upper = plane + above * coarse_width_, *lower = plane + below * coarse_width_;
      for (int64_t x = 0; x < coarse_width_; ++x) mixed[x] = upper[x] + down * (lower[x] - upper[x]);
      mixed[coarse_width_] = mixed[coarse_width_ - 1];
    }
  }

  template <int G>
  void interpolate(const A* mixed, const A* colours, int64_t pitch, A* phases) const {
    const int64_t s = args_.subsample;
    for (int64_t x = 0; x < coarse_width_; x += L) {
      Vec<A> from[G + 1], step[G + 1];
      for (int k = 0; k <= G; ++k) {
        from[k] = load(mixed + k * (pitch + L) + x);
        step[k] = load(mixed + k * (pitch + L) + x + 1) - from[k];
      }
      for (int64_t i = 0; i < s; ++i) {
        const A across = A(i) / A(s);
        Vec<A> q = from[G] + across * step[G];
        for (int g = 0; g < G; ++g) q += (from[g] + across * step[g]) * load(colours + (g * s + i) * pitch + x);
        store(phases + i * pitch + x, q);
      }
    }
  }

  // A row of the guide, [subsample][pitch].
  void read_guide(int64_t n, int64_t g, int64_t y, int64_t pitch, A* to) const {
    with_pixel(args_.guide.type, [&](auto pixel) {
      using P = decltype(pixel);
      const P* from = static_cast<const P*>(args_.guide.data) + n * args_.guide.batch_stride +
                      g * args_.guide.channel_stride + y * args_.width;
      for (int64_t i = 0; i < args_.subsample; ++i)
        for (int64_t x = i, coarse = 0; x < args_.width; x += args_.subsample, ++coarse)
          to[i * pitch + coarse] = A(load_one(from + x));
    });
  }

  const GuidedFilterInterpolate& args_;
  int64_t coarse_height_, coarse_width_;
};

}  // namespace fastseg::FASTSEG_ISA
