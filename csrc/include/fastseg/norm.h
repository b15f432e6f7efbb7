// The norm family: y = act((x - mean) * rstd * weight + bias + residual), statistics per (batch, channel), or for batch
// norm per channel.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// The numbers are those of fastseg/backends/views.py.
enum class Activation : int { none = 0, relu = 1, leaky_relu = 2 };

// Statistics (mean, rstd, dweight, dbias) are float32, or float64 when x is float64, and dense.
// All Views of one call have x's element type, and all are rows or all are channels-last. Below, "rows" counts those
// that share statistics: batch * channels, or channels where over_batch (rows layout only: channels-last batches are
// given as one sample of batch * spatial pixels).
struct InstanceNormActForward {
  int64_t batch, channels, spatial;
  View x;
  Vector weight, bias;  // [channels], any element type, optional
  View residual;        // optional
  View y;               // written
  void* mean;           // [rows], written
  void* rstd;           // [rows], written
  Activation activation;
  double negative_slope;  // >= 0
  double eps;
  bool statistics_given = false;  // mean and rstd are read instead
  bool over_batch = false;        // CPU only, as what follows
  void* variance = nullptr;       // [rows], written, optional: unbiased, for running statistics
};

struct InstanceNormActBackward {
  int64_t batch, channels, spatial;
  View grad;  // of y
  View x;
  Vector weight, bias;  // [channels], optional; bias only decides the activation's branch
  View y;               // only with residual and activation: its sign decides the branch then
  const void* mean;     // [rows]
  const void* rstd;     // [rows]
  View dx;              // written
  View dresidual;       // written, optional: grad through the activation
  void* dweight;        // [rows], written: per-row partial sums, the caller adds over batch
  void* dbias;          // [rows], written: likewise
  Activation activation;
  double negative_slope;
  bool over_batch = false;        // CPU only, as what follows
  bool statistics_fixed = false;  // mean and rstd did not depend on x
};

namespace cpu {
void instance_norm_act_forward(const InstanceNormActForward& args, int threads);
void instance_norm_act_backward(const InstanceNormActBackward& args, int threads);
}  // namespace cpu

#ifdef FASTSEG_WITH_CUDA
namespace cuda {
// What streamed rows need beside the tensors: bytes of scratch on the device, aligned for doubles. It needs no
// zeroing. 0 (nullptr will do) when rows are too small to be streamed.
int64_t instance_norm_act_workspace(int64_t batch, int64_t channels, int64_t spatial, Element type);
// Rows layout only (spatial_stride 1). Work is queued on `stream` (a cudaStream_t) of the current device.
// Throws std::runtime_error when a launch fails.
void instance_norm_act_forward(const InstanceNormActForward& args, void* workspace, void* stream);
void instance_norm_act_backward(const InstanceNormActBackward& args, void* workspace, void* stream);
}  // namespace cuda
#endif

}  // namespace fastseg
