// The pointwise family: 1x1 convolutions, y[n, o, p] = bias[o] + sum over c of weight[o, c] * x[n, c, p] + residual.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// What is added to y of [batch, outputs, depth, height, width]: up-sampled nearest, each axis by its scale, 1 or 2.
struct PointwiseResidual {
  View data;                   // [batch, outputs, depth / depth_scale, height / scale, width / scale], optional
  int64_t height, width;       // of y
  int64_t depth_scale, scale;  // of depth; of height and width
};

// All Views are rows or all channels-last; they have one element type, and so has weight. With inputs and outputs,
// and the strides of weight, exchanged it is the gradient of x.
struct PointwiseConv {
  int64_t batch, inputs, outputs, pixels;
  View x;
  const void* weight;
  int64_t output_stride, input_stride;  // of weight, in elements
  Vector bias;                          // [outputs], optional
  View y;                               // written
  PointwiseResidual residual;           // like y
};

// Gradients of the parameters: float32, or float64 when x is float64.
struct PointwiseConvGradient {
  int64_t batch, inputs, outputs, pixels;
  View grad;  // of y
  View x;
  void* dweight;  // [outputs, inputs], dense, written
  void* dbias;    // [outputs], written, optional
};

namespace cpu {
void pointwise_conv(const PointwiseConv& args, int threads);
void pointwise_conv_gradient(const PointwiseConvGradient& args, int threads);
}  // namespace cpu

}  // namespace fastseg
