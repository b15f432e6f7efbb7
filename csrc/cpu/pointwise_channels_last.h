// 1x1 convolutions of channels-last images: pixels are rows of a matrix as they lie. 16-bit ones are converted chunk by
// chunk, in the cache.
#pragma once
#include <algorithm>

#include "fastseg/pointwise.h"
#include "pixel_copies.h"
#include "pointwise_pixels.h"

namespace fastseg::FASTSEG_ISA {

// Pixels that are multiplied together, at most.
constexpr int64_t most_pixels_together = 192;

// Runs of pixels of one image, of a number that stays in the second-level cache with all inputs; as many for each
// thread.
struct PixelRuns {
  int64_t together, each;  // pixels of a run, runs of an image

  PixelRuns(int64_t batch, int64_t pixels, int64_t pixel_bytes, int threads) {
    constexpr int64_t bytes = 512 * 1024, least_together = 96;
    const int64_t fitting = std::clamp(bytes / pixel_bytes, least_together, most_pixels_together);
    const int64_t runs = rounded_up(batch * ceil_div(pixels, fitting), threads);
    together = rounded_up(ceil_div(pixels, ceil_div(runs, batch)), product_pixels(tile_output_vectors));
    each = ceil_div(pixels, together);
  }
};

template <class T, bool Stream, class Finish = EachAsItIs>
inline void pointwise_channels_last(const PointwiseConv& args, int threads, const Finish& finish_of = {}) {
  using A = compute_t<T>;
  int64_t batch = args.batch, pixels = args.pixels;
  const auto dense = [&](const View& v) { return v.batch_stride == args.pixels * v.spatial_stride; };
  if (std::is_same_v<Finish, EachAsItIs> && dense(args.x) && dense(args.y)) {  // one image
    pixels *= batch;
    batch = 1;
  }
  // Of few pixels a thread has outputs of its own, and packs their weights itself: these are read once, and do not
  // leave its cache, while all threads read all of x. Of many it has pixels of its own.
  const bool by_outputs = 8 * args.outputs >= args.batch * args.pixels && args.outputs >= threads * lanes<A>;
  const PixelWeights<T> weights(args.weight, args.inputs, args.outputs, args.output_stride, args.input_stride,
                                args.bias, by_outputs ? threads : 1);
  // Blocks that threads cannot share out evenly are shared out with runs of pixels.
  const bool even = by_outputs && weights.blocks() % threads == 0;
  const PixelRuns runs(batch, pixels, args.inputs * int64_t(sizeof(A)), even ? 1 : threads);
  const auto multiply = [&](int64_t run, A* converted, int64_t first_block, int64_t last_block, const auto& block) {
    const int64_t n = run / runs.each, first = run % runs.each * runs.together;
    const int64_t count = std::min(runs.together, pixels - first);
    const T* x = static_cast<const T*>(args.x.data) + n * args.x.batch_stride + first * args.x.spatial_stride;
    T* y = static_cast<T*>(args.y.data) + n * args.y.batch_stride + first * args.y.spatial_stride;
    const auto finish = finish_of(n, first, count);
    if constexpr (std::is_same_v<T, A>) {
      for (int64_t b = first_block; b < last_block; ++b)
        multiply_pixels<Stream>(block(b), x, args.x.spatial_stride, count, y, args.y.spatial_stride, finish);
    } else {
      copy_pixels(x, args.x.spatial_stride, args.inputs, count, converted, args.inputs);
      for (int64_t b = first_block; b < last_block; ++b)
        multiply_pixels<Stream>(block(b), converted, args.inputs, count, y, args.y.spatial_stride, finish);
    }
  };
  const int64_t converted_size = std::is_same_v<T, A> ? 0 : runs.together * args.inputs;
  const int64_t all_runs = batch * runs.each;
  if (by_outputs) {
    parallel_spans(threads, weights.blocks() * all_runs, [&](int64_t begin, int64_t end) {
      Scratch<A> panel(weights.panel_size()), converted(converted_size);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t b = task / all_runs;
        for (int64_t i = 0; (task == begin || task % all_runs == 0) && i < weights.runs(); ++i)
          weights.pack(b, i, panel.get());
        multiply(task % all_runs, converted.get(), b, b + 1, [&](int64_t i) { return weights.block(i, panel.get()); });
      }
      if constexpr (Stream) stream_fence();
    });
    return;
  }
  const PackedPixelWeights<T> packed(weights, threads);
  parallel_spans(threads, all_runs, [&](int64_t begin, int64_t end) {
    Scratch<A> converted(converted_size);
    for (int64_t run = begin; run < end; ++run)
      multiply(run, converted.get(), 0, weights.blocks(), [&](int64_t i) { return packed.block(i); });
    if constexpr (Stream) stream_fence();
  });
}

}  // namespace fastseg::FASTSEG_ISA
