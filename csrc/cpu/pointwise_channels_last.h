// 1x1 convolutions of channels-last images: pixels are rows of a matrix as they lie. 16-bit ones are converted chunk by
// chunk, in the cache.
#pragma once
#include "fastseg/pointwise.h"
#include "image_pixels.h"
#include "pixel_runs.h"

namespace fastseg::FASTSEG_ISA {

template <class T, bool Stream, class Finish>
class PointwiseRuns {
 public:
  using A = compute_t<T>;
  static constexpr bool streams = Stream;

  PointwiseRuns(const View& x, const View& y, int64_t inputs, int64_t pixels, const Finish& finish_of)
      : x_{x, pixels}, y_{y, pixels}, inputs_(inputs), finish_of_(finish_of) {}

  int64_t scratch(int64_t together) const { return std::is_same_v<T, A> ? 0 : together * inputs_; }

  auto operator()(int64_t n, int64_t first, int64_t count, A* converted) const {
    if constexpr (!std::is_same_v<T, A>) x_.copy(n * x_.pixels + first, count, 0, inputs_, converted, inputs_);
    T* const y = y_.at(n, first);
    using FinishRun = decltype(finish_of_(n, first, count));
    if constexpr (std::is_same_v<T, A>)
      return Run<FinishRun>{x_.at(n, first),        x_.view.spatial_stride,     count, y,
                            y_.view.spatial_stride, finish_of_(n, first, count)};
    else
      return Run<FinishRun>{converted, inputs_, count, y, y_.view.spatial_stride, finish_of_(n, first, count)};
  }

 private:
  template <class FinishRun>
  struct Run {
    const A* x;
    int64_t pitch, count;
    T* y;
    int64_t y_pitch;
    FinishRun finish_;

    void multiply(const PixelBlock<A>& block) const {
      multiply_pixels<Stream>(block, x, pitch, count, y, y_pitch, finish_);
    }
    void finish() const {}
  };

  ImagePixels<T> x_, y_;
  int64_t inputs_;
  const Finish& finish_of_;
};

template <class T, bool Stream, class Finish = EachAsItIs>
inline void pointwise_channels_last(const PointwiseConv& args, int threads, const Finish& finish_of = {}) {
  int64_t batch = args.batch, pixels = args.pixels;
  const auto dense = [&](const View& v) { return v.batch_stride == args.pixels * v.spatial_stride; };
  if (std::is_same_v<Finish, EachAsItIs> && dense(args.x) && dense(args.y)) {  // one image
    pixels *= batch;
    batch = 1;
  }
  const PixelProducts<T> products{args.weight,
                                  args.inputs,
                                  args.outputs,
                                  args.output_stride,
                                  args.input_stride,
                                  args.bias,
                                  batch,
                                  pixels,
                                  args.inputs * int64_t(sizeof(compute_t<T>))};
  products.each_run(threads, false, PointwiseRuns<T, Stream, Finish>(args.x, args.y, args.inputs, pixels, finish_of));
}

}  // namespace fastseg::FASTSEG_ISA
