// What the CUDA kernels of the depthwise family compute: one convolution, forward or as the gradient of the input.
#pragma once
#include <algorithm>
#include <cstdint>

#include "fastseg/depthwise.h"

namespace fastseg::cuda {

constexpr int depthwise_threads = 128;  // of a CTA, in every kernel of the family
constexpr int64_t enough_ctas = 1056;   // eight for each multiprocessor of an H100; more would shorten marches
constexpr int64_t largest_offset = 2147483647;

constexpr int64_t ceil_div(int64_t value, int64_t by) { return (value + by - 1) / by; }
constexpr int log2_up(int64_t value) {
  int log = 0;
  while ((int64_t{1} << log) < value) ++log;
  return log;
}

// A convolution of `source` that gives `target`: forward x and y. The gradient of the input is one too when no stride
// stands in the way: grad and dx, with the weights turned round.
struct Convolution {
  View source, target;
  const void* weight = nullptr;  // dense [channels, taps]
  Vector bias;
  int64_t batch = 0, channels = 0, multiplier = 1;  // channels of target
  int64_t in[3], out[3], kernel[3], stride[3], padding[3], dilation[3];
  bool turned = false;
  int64_t taps = 0;

  int64_t rows() const { return batch * channels; }
};

inline Convolution convolution_of(const DepthwiseShape& shape) {
  Convolution conv;
  conv.batch = shape.batch;
  conv.channels = shape.channels * shape.multiplier;
  conv.multiplier = shape.multiplier;
  conv.taps = shape.taps();
  for (int axis = 0; axis < 3; ++axis) {
    conv.in[axis] = shape.input[axis];
    conv.out[axis] = shape.output[axis];
    conv.kernel[axis] = shape.kernel[axis];
    conv.stride[axis] = shape.stride[axis];
    conv.padding[axis] = shape.padding[axis];
    conv.dilation[axis] = shape.dilation[axis];
  }
  return conv;
}

inline bool has_stride(const DepthwiseShape& shape) {
  return shape.stride[0] != 1 || shape.stride[1] != 1 || shape.stride[2] != 1;
}

// The gradient of the input of a convolution without strides and with multiplier 1.
inline Convolution turned_convolution_of(const DepthwiseShape& shape) {
  Convolution conv = convolution_of(shape);
  for (int axis = 0; axis < 3; ++axis) {
    std::swap(conv.in[axis], conv.out[axis]);
    conv.padding[axis] = shape.dilation[axis] * (shape.kernel[axis] - 1) - shape.padding[axis];
  }
  conv.turned = true;
  return conv;
}

}  // namespace fastseg::cuda
