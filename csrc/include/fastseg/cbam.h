// Channel and spatial attention: y = x * channel_gate * spatial_gate (CBAM and its halves), or
// y = x * (channel_gate + spatial_gate) (scSE).
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// The numbers are those of fastseg/backends/cbam_call.py.
enum class SpatialGate : int64_t {
  none = 0,
  pooled = 1,     // sigmoid(conv([mean over channels, max over channels])) of x * channel_gate
  projected = 2,  // sigmoid(sum over channels of weight * x + bias); the gates are added then
};

// int64_t only: Python passes them as one tuple.
struct CbamShape {
  int64_t batch, channels;
  int64_t size[3];    // two spatial axes have a depth of 1
  int64_t hidden;     // channels between the two layers; 0: no channel gate
  int64_t kernel[3];  // of the spatial convolution, odd
  SpatialGate spatial;
  int64_t max_pool;   // whether the channel gate sees the maximum beside the mean
  int64_t max_first;  // the order of the two maps in the convolution's weight
  int64_t normalize;  // batch norm after the convolution, with the batch's own statistics

  int64_t pixels() const { return size[0] * size[1] * size[2]; }
  int64_t taps() const { return kernel[0] * kernel[1] * kernel[2]; }
  int64_t pools() const { return max_pool ? 2 : 1; }
};

// Addresses only: Python passes them as one tuple. Dense, in the type that kernels compute in, where nothing else is
// said: float, or double for float64 x. What the call does not need is null.
struct CbamWeights {
  const void* fc1_weight;      // [hidden, channels]
  const void* fc1_bias;        // [hidden], optional
  const void* fc2_weight;      // [channels, hidden]
  const void* fc2_bias;        // [channels], optional
  const void* spatial_weight;  // pooled: [2, kernel]; projected: [channels]
  const void* spatial_bias;    // [1], optional
  const void* norm_weight;     // [1], optional
  const void* norm_bias;       // [1], optional
};

// What forward writes and backward reads.
struct CbamSaved {
  void* pooled;           // [batch, pools, channels]: mean, and with max_pool the maximum, over space
  int64_t* peak;          // max_pool only, [batch, channels]: the first pixel that has the maximum
  void* channel_gate;     // [batch, channels]
  void* maps;             // pooled only, [batch, 2, pixels]: mean and maximum over channels of x * channel_gate
  int32_t* peak_channel;  // pooled only, [batch, pixels]: the first channel that has the maximum
  void* logits;           // normalize only, [batch, pixels]: the convolution's output
  double* statistics;     // normalize only, [2]: mean and biased variance of the logits
  void* spatial_gate;     // [batch, pixels]
};

// Written by backward; those of absent parameters may be null.
struct CbamGradients {
  void *fc1_weight, *fc1_bias, *fc2_weight, *fc2_bias, *spatial_weight, *spatial_bias, *norm_weight, *norm_bias;
};

struct CbamForward {
  CbamShape shape;
  View x, y;  // both rows or both channels-last
  CbamWeights weights;
  CbamSaved saved;
  double eps;  // of the batch norm
};

struct CbamBackward {
  CbamShape shape;
  View grad, x, dx;  // all rows or all channels-last
  CbamWeights weights;
  CbamSaved saved;
  CbamGradients gradients;
  double eps;
};

namespace cpu {
void cbam_forward(const CbamForward& args, int threads);
void cbam_backward(const CbamBackward& args, int threads);
}  // namespace cpu

}  // namespace fastseg
