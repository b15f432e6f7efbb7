// The soft_mask_attention family: y = (1 + sigmoid(mask)) * trunk.
#pragma once
#include "fastseg/pointwise.h"
#include "fastseg/tensor.h"

namespace fastseg {

// All Views of one call have trunk's element type. With as many mask_channels as channels all are rows or all are
// channels-last; a mask of one channel is rows (spatial_stride 1).
struct SoftMaskAttentionForward {
  int64_t batch, channels, spatial;
  int64_t mask_channels;  // channels or 1
  View trunk;
  View mask;
  View y;  // written
};

struct SoftMaskAttentionBackward {
  int64_t batch, channels, spatial;
  int64_t mask_channels;
  View grad;  // of y
  View trunk;
  View mask;
  View dtrunk;  // written, optional
  View dmask;   // written, optional; like mask
};

// Channels-last. The mask is what conv would write to its y; (1 + sigmoid(mask)) * trunk is written there instead.
struct SoftMaskAttentionConv {
  PointwiseConv conv;
  View trunk;  // of y's shape, layout and type
};

namespace cpu {
void soft_mask_attention_forward(const SoftMaskAttentionForward& args, int threads);
void soft_mask_attention_backward(const SoftMaskAttentionBackward& args, int threads);
void soft_mask_attention_conv(const SoftMaskAttentionConv& args, int threads);
}  // namespace cpu

}  // namespace fastseg
