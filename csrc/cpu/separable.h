// Depthwise and 1x1 convolution in one: what the depthwise convolution gives stays in the cache and feeds the product.
//
// Floor: x once, y once, and what the two need of multiply-adds. The tensor between them is neither written nor read.
//
// Channels-last only. Rows were measured too, one convolver for each channel filling a panel of pixels: the windows of
// all channels leave so few rows to a band that their halos cost more than the tensor between (0.7 to 0.95 times the
// speed for volumes).
#pragma once
#include "depthwise_channels_last.h"
#include "fastseg/separable.h"
#include "pointwise_pixels.h"

namespace fastseg::FASTSEG_ISA {

// Each row of targets is multiplied as it lies in the convolver.
template <class T, bool Stream>
inline void separable_channels_last(const SeparableConvForward& args, int threads) {
  const int64_t inputs = args.shape.channels;
  const PixelConvolution<T> conv(args.shape, false, args.x, {}, args.weight, args.bias);
  const PackedPixelWeights<T> weights({args.pointwise_weight, inputs, args.outputs, inputs, 1, args.pointwise_bias},
                                      threads);
  const int64_t width = conv.x.targets, pitch = args.y.spatial_stride;
  parallel_spans(threads, conv.tasks(), [&](int64_t begin, int64_t end) {
    PixelConvolver<T, false> convolver(conv);
    for (int64_t task = begin; task < end; ++task) {
      T* target = static_cast<T*>(args.y.data) + task / conv.bands.count() * args.y.batch_stride;
      convolver.run_rows(
          task, [](int64_t, int64_t) { return static_cast<T*>(nullptr); },
          [&](int64_t oz, int64_t oy) {
            for (int64_t b = 0; b < weights.blocks(); ++b)
              multiply_pixels<Stream>(weights.block(b), convolver.row_of_targets(), conv.block, width,
                                      target + (oz * conv.y.targets + oy) * width * pitch, pitch);
          },
          [](int64_t) {});
    }
    if constexpr (Stream) stream_fence();
  });
}

// Whether one block has all channels; only then can a row of targets be multiplied as soon as it is there.
template <class T>
inline bool separable_in_one_block(const SeparableConvForward& args) {
  return PixelConvolution<T>(args.shape, false, args.x, {}, args.weight, args.bias).blocks == 1;
}

}  // namespace fastseg::FASTSEG_ISA
