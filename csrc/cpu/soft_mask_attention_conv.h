// y = (1 + sigmoid(weight features + bias)) * trunk: the mask is the product of a 1x1 convolution, tile by tile, and is
// neither written nor read.
//
// Floor: features and trunk once, y once: 3u where all have as many channels, 5u in two kernels; inputs * channels
// multiply-adds a pixel.
#pragma once
#include "fastseg/cpu/vec_math.h"
#include "fastseg/soft_mask_attention.h"
#include "pointwise_layouts.h"

namespace fastseg::FASTSEG_ISA {

// A vector of y from its logits, where `left` elements of trunk are left in its line.
template <class T>
inline Vec<compute_t<T>> attend_logits(Vec<compute_t<T>> logits, const T* trunk, int64_t left) {
  constexpr int64_t L = lanes<compute_t<T>>;
  return (sigmoid(logits).value + 1) * load_part(trunk, left < L ? left : L);
}

template <class T>
inline void attend_conv(const SoftMaskAttentionConv& args, int threads, bool stream) {
  const View& trunk = args.trunk;
  const int64_t channels = args.conv.outputs;
  const auto first_of = [&](int64_t n, int64_t pixel) {
    return static_cast<const T*>(trunk.data) + n * trunk.batch_stride + pixel * trunk.spatial_stride;
  };
  pointwise_in_layout<T>(
      args.conv, threads, stream,
      [&](int64_t n, int64_t first, int64_t count) {
        return [=, from = first_of(n, first), stride = trunk.channel_stride](auto logits, int64_t channel, int64_t p) {
          return attend_logits(logits, from + channel * stride + p, count - p);
        };
      },
      [&](int64_t n, int64_t first, int64_t) {
        return [=, from = first_of(n, first), stride = trunk.spatial_stride](auto logits, int64_t channel, int64_t p) {
          return attend_logits(logits, from + p * stride + channel, channels - channel);
        };
      });
}

}  // namespace fastseg::FASTSEG_ISA
