// Products of weights and all pixels of some images, run by run.
#pragma once
#include <algorithm>

#include "fastseg/cpu/parallel.h"
#include "pointwise_pixels.h"

namespace fastseg::FASTSEG_ISA {

// Pixels that are multiplied together, at most.
constexpr int64_t most_pixels_together = 192;

// Runs of pixels of one image, of a number that stays in the second-level cache with all that is kept of a pixel; as
// many for each thread.
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

// [batch][pixels] of inputs times weights, of their element type.
template <class T>
struct PixelProducts {
  const void* weight;
  int64_t inputs, outputs, output_stride, input_stride;  // strides of weight
  Vector bias;                                           // [outputs], optional
  int64_t batch, pixels, pixel_bytes;                    // bytes kept of a pixel

  // of(n, first, count, numbers) makes what multiplies a run of pixels, which may be brought into the first of
  // of.scratch(count) numbers: multiply(block) each, and then finish(). Without `finishes` there is nothing to be done
  // then, and threads may take some blocks each.
  template <class Runs>
  void each_run(int threads, bool finishes, const Runs& of) const {
    using A = compute_t<T>;
    // Of few pixels a thread has outputs of its own, and packs their weights itself: these are read once, and do not
    // leave its cache, while all threads read all of x. Of many it has pixels of its own.
    const bool by_outputs = !finishes && 8 * outputs >= batch * pixels && outputs >= threads * lanes<A>;
    const PixelWeights<T> weights(weight, inputs, outputs, output_stride, input_stride, bias, by_outputs ? threads : 1);
    // Blocks that threads cannot share out evenly are shared out with runs of pixels.
    const bool even = by_outputs && weights.blocks() % threads == 0;
    const PixelRuns runs(batch, pixels, pixel_bytes, even ? 1 : threads);
    const int64_t all_runs = batch * runs.each, numbers = of.scratch(runs.together);
    const auto run_of = [&](int64_t run, A* scratch) {
      const int64_t first = run % runs.each * runs.together;
      return of(run / runs.each, first, std::min(runs.together, pixels - first), scratch);
    };
    if (by_outputs) {
      parallel_spans(threads, weights.blocks() * all_runs, [&](int64_t begin, int64_t end) {
        Scratch<A> panel(weights.panel_size()), scratch(numbers);
        for (int64_t task = begin; task < end; ++task) {
          const int64_t b = task / all_runs;
          for (int64_t i = 0; (task == begin || task % all_runs == 0) && i < weights.runs(); ++i)
            weights.pack(b, i, panel.get());
          run_of(task % all_runs, scratch.get()).multiply(weights.block(b, panel.get()));
        }
        if constexpr (Runs::streams) stream_fence();
      });
      return;
    }
    const PackedPixelWeights<T> packed(weights, threads);
    parallel_spans(threads, all_runs, [&](int64_t begin, int64_t end) {
      Scratch<A> scratch(numbers);
      for (int64_t i = begin; i < end; ++i) {
        const auto run = run_of(i, scratch.get());
        for (int64_t b = 0; b < weights.blocks(); ++b) run.multiply(packed.block(b));
        run.finish();
      }
      if constexpr (Runs::streams) stream_fence();
    });
  }
};

}  // namespace fastseg::FASTSEG_ISA
