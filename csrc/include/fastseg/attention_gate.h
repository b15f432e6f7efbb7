// The attention_gate family: y = x * sigmoid(psi . relu(Wx x + Wg g + bias) + psi_bias), pixel by pixel.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// x, gating, grad and what is written like them have one element type; each of them is rows or channels-last. All else
// has the compute type of x: float32, or float64 when x is float64.
struct AttentionGate {
  int64_t batch, channels, features;
  int64_t gating_channels;  // 0 where `coarse` is given instead of gating
  int64_t size[3];          // of x: depth, height, width
  int64_t coarse_size[3];
  View x;
  View gating;          // of x's size, optional
  View coarse;          // [batch, features, *coarse_size], channels-last: Wg g on the grid of g, without bias; optional
  const void* weight;   // [features, channels + gating_channels], dense: Wx, then Wg
  const void* vectors;  // [2 * features + 1], dense: bias, psi, psi_bias
};

struct AttentionGateForward {
  AttentionGate gate;
  View y;  // written
};

struct AttentionGateBackward {
  AttentionGate gate;
  View grad;       // of y
  View dx;         // written
  View dgating;    // written, where gating is given
  View dcoarse;    // written, where coarse is given; dense, channels-last
  void* dweight;   // [features, channels + gating_channels], written
  void* dvectors;  // [2 * features + 1], written
};

namespace cpu {
void attention_gate_forward(const AttentionGateForward& args, int threads);
void attention_gate_backward(const AttentionGateBackward& args, int threads);
}  // namespace cpu

}  // namespace fastseg
