// The context family: dense convolutions of one image side by side, each with a dilation of its own (ASPP). One branch
// alone, with strides too, is dense_conv; that one's gradient of x is dense_conv_transpose.
//
//   y[n, first + o, p] = bias[o] + sum over inputs c and taps k of
//                        weight[o, c, k] * x[n, c, p * stride + k * dilation - before]
//
// with zeros outside of x, for every branch; `first` counts the outputs of the branches before it.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// Spatial axes are depth, height, width; 2-D images have depth 1. `before`: zeros before the image.
struct ContextBranch {
  int64_t outputs;
  int64_t kernel[3], dilation[3], before[3];
  const void* weight;  // [outputs, inputs, taps] of x's element type; outputs are inputs * taps apart
  int64_t input_stride, tap_stride;
  Vector bias;    // [outputs], optional; forward only
  void* dweight;  // as weight lies, optional, written by backward in float32, or float64 for float64
  void* dbias;    // [outputs], dense, likewise
  int64_t first;  // of its outputs, among those of all branches

  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
};

struct ContextBranches {
  static constexpr int64_t most = 32;
  int64_t count = 0;
  ContextBranch branch[most];

  int64_t outputs() const {
    int64_t sum = 0;
    for (int64_t b = 0; b < count; ++b) sum += branch[b].outputs;
    return sum;
  }
};

struct ContextShape {
  int64_t batch, inputs, size[3], output_size[3], stride[3];

  int64_t pixels() const { return size[0] * size[1] * size[2]; }
  int64_t output_pixels() const { return output_size[0] * output_size[1] * output_size[2]; }
};

// All Views have one element type, and each is rows or channels-last.
struct ContextConv : ContextShape {
  ContextBranches branches;
  View x;           // [batch, inputs]; backward: only for dweight
  View y;           // [batch, outputs], written; backward: the gradient of y
  View dx;          // [batch, inputs], written by backward, optional
  Vector dx_bias;   // [inputs], optional, added to dx: the bias of a transposed convolution
  void* workspace;  // as many bytes as the function below asks for, aligned to 64
};

namespace cpu {
int64_t context_conv_workspace(const ContextConv& args, bool backward, int threads);
void context_conv_forward(const ContextConv& args, int threads);
void context_conv_backward(const ContextConv& args, int threads);
}  // namespace cpu

}  // namespace fastseg
