// The separable family: a depthwise convolution, then a 1x1 convolution of its channels.
#pragma once
#include "fastseg/depthwise.h"

namespace fastseg {

struct SeparableConvForward {
  DepthwiseShape shape;
  View x;
  const void* weight;  // of the depthwise convolution, as DepthwiseConvForward has it
  Vector bias;
  int64_t outputs;
  const void* pointwise_weight;  // [outputs, channels * multiplier], dense, of x's element type
  Vector pointwise_bias;         // [outputs], optional
  View y;                        // written
};

namespace cpu {
// Whether the kernel takes a call: channels-last, without a multiplier, and all channels in one block of the depthwise
// kernel (64 of float32, fewer where the window is large).
bool separable_conv_fits(const SeparableConvForward& args);
void separable_conv_forward(const SeparableConvForward& args, int threads);
}  // namespace cpu

}  // namespace fastseg
