// The depthwise family: one small filter for each channel, with stride, padding and dilation.
//
//   y[n, o, p] = bias[o] + sum over taps k of weight[o, k] * x[n, o / multiplier, p * stride - padding + k * dilation]
//
// with zeros outside of x.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// Spatial axes are depth, height, width; 2-D images have depth 1. `padding` is what stands before the first element;
// what stands behind the last one follows from `output`. y has channels * multiplier channels.
struct DepthwiseShape {
  int64_t batch, channels, multiplier;
  int64_t input[3], output[3], kernel[3], stride[3], padding[3], dilation[3];

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

// All Views of one call have x's element type and all are rows or all are channels-last (with multiplier 1).
// Weights are dense [channels * multiplier, taps], in x's element type. Statistics and gradients of parameters are
// float32, or float64 when x is float64, and dense.
struct DepthwiseConvForward {
  DepthwiseShape shape;
  View x;
  const void* weight;
  Vector bias;  // [channels * multiplier], optional
  View y;       // written
  void* mean;   // [batch, channels * multiplier], written: of each channel of y; optional, both or none
  void* rstd;   // likewise: 1 / sqrt(variance + eps)
  double eps;
};

struct DepthwiseConvBackward {
  DepthwiseShape shape;  // of the forward pass
  View grad;             // of y
  View x;                // only with dweight
  const void* weight;
  Vector bias;    // [channels], optional, added to dx: a transposed convolution is the gradient of the input
  View dx;        // written, optional
  void* dweight;  // [channels * multiplier, taps], written, optional
  void* dbias;    // [channels * multiplier], written, optional
};

namespace cpu {
void depthwise_conv_forward(const DepthwiseConvForward& args, int threads);
void depthwise_conv_backward(const DepthwiseConvBackward& args, int threads);
}  // namespace cpu

#ifdef FASTSEG_WITH_CUDA
namespace cuda {
// Bytes of scratch on the device, aligned for doubles, that a call needs beside its tensors. It needs no zeroing.
// `reduces`: forward, that statistics are wanted; backward, that gradients of parameters are.
int64_t depthwise_conv_workspace(const DepthwiseShape& shape, Element type, bool channels_last, bool backward,
                                 bool reduces);
// Work is queued on `stream` (a cudaStream_t) of the current device. Throws std::runtime_error when a launch fails.
void depthwise_conv_forward(const DepthwiseConvForward& args, void* workspace, void* stream);
void depthwise_conv_backward(const DepthwiseConvBackward& args, void* workspace, void* stream);
}  // namespace cuda
#endif

}  // namespace fastseg
