// y = (1 + sigmoid(weight features + bias)) * trunk: the mask is the product of a 1x1 convolution, tile by tile, and is
// neither written nor read.
//
// Floor: features and trunk once, y once: 3u where all have as many channels, 5u in two kernels; inputs * channels
// multiply-adds a pixel.
//
// Channels-last only: 1.5 times the speed of two kernels (1x32x128^3, four Zen 5 cores). Rows were measured too, where
// it is as fast as two: tiles read so few lines of each channel of trunk that they wait for memory.
#pragma once
#include "fastseg/cpu/vec_math.h"
#include "fastseg/soft_mask_attention.h"
#include "pointwise_channels_last.h"

namespace fastseg::FASTSEG_ISA {

// A vector of y from its logits, where `left` elements of trunk are left in its line.
template <class T>
inline Vec<compute_t<T>> attend_logits(Vec<compute_t<T>> logits, const T* trunk, int64_t left) {
  constexpr int64_t L = lanes<compute_t<T>>;
  return (sigmoid(logits).value + 1) * load_part(trunk, left < L ? left : L);
}

template <class T, bool Stream>
inline void attend_conv(const SoftMaskAttentionConv& args, int threads) {
  const View& trunk = args.trunk;
  pointwise_channels_last<T, Stream>(args.conv, threads, [&](int64_t n, int64_t first, int64_t) {
    const T* from = static_cast<const T*>(trunk.data) + n * trunk.batch_stride + first * trunk.spatial_stride;
    return [=, stride = trunk.spatial_stride, channels = args.conv.outputs](auto logits, int64_t channel, int64_t p) {
      return attend_logits(logits, from + p * stride + channel, channels - channel);
    };
  });
}

}  // namespace fastseg::FASTSEG_ISA
