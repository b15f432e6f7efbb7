// The fast guided filter's last step: coarse coefficients, interpolated linearly, times the guide.
//
// Bytes: the guide and the coefficients read, dst written, once each. 4 operations a coefficient and pixel along rows,
// 2 along columns, for which rows of coefficients are mixed first.
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

  // Row y of channel c of image n. `mixed` is a coarse row, `line` a row.
  void row(int64_t n, int64_t c, int64_t y, A* mixed, A* line, A* colours) const {
    const int64_t s = args_.subsample, width = args_.width, slopes = args_.guide_channels;
    const int64_t above = y / s, below = above + 1 < coarse_height_ ? above + 1 : above;
    const A down = A(y % s) / A(s);
    for (int64_t k = 0; k <= slopes; ++k) {
      const A* plane = static_cast<const A*>(args_.coefficients.data) + n * args_.coefficients.batch_stride +
                       (c * (slopes + 1) + k) * args_.coefficients.channel_stride;
      const A *upper = plane + above * coarse_width_, *lower = plane + below * coarse_width_;
      for (int64_t x = 0; x < coarse_width_; ++x) mixed[x] = upper[x] + down * (lower[x] - upper[x]);
      mixed[coarse_width_] = mixed[coarse_width_ - 1];
      if (k < slopes) read_guide(n, k, y, colours);
      for (int64_t at = 0, x = 0; x < width; ++at) {
        const A from = mixed[at], step = (mixed[at + 1] - from) / A(s);
        const int64_t last = x + s < width ? x + s : width;
        for (int64_t i = 0; x < last; ++x, ++i) {
          const A value = (from + A(i) * step) * (k < slopes ? colours[x] : A(1));
          line[x] = k == 0 ? value : line[x] + value;
        }
      }
    }
    const ImageRows<T> dst{static_cast<T*>(args_.dst.data) + n * args_.dst.batch_stride + c * args_.dst.channel_stride,
                           args_.height, width};
    for (int64_t x = 0; x < width; x += lanes<A>) dst.write(y, x, load(line + x));
  }

  void rows(int64_t begin, int64_t end) const {
    const Scratch<A> mixed(coarse_width_ + 1), line(args_.width + lanes<A>), colours(args_.width);
    for (int64_t at = begin; at < end; ++at) {
      const int64_t y = at % args_.height, c = at / args_.height % args_.channels,
                    n = at / args_.height / args_.channels;
      row(n, c, y, mixed.get(), line.get(), colours.get());
    }
  }

 private:
  void read_guide(int64_t n, int64_t g, int64_t y, A* to) const {
    with_pixel(args_.guide.type, [&](auto pixel) {
      using P = decltype(pixel);
      const P* from = static_cast<const P*>(args_.guide.data) + n * args_.guide.batch_stride +
                      g * args_.guide.channel_stride + y * args_.width;
      for (int64_t x = 0; x < args_.width; ++x) to[x] = A(load_one(from + x));
    });
  }

  const GuidedFilterInterpolate& args_;
  int64_t coarse_height_, coarse_width_;
};

}  // namespace fastseg::FASTSEG_ISA
