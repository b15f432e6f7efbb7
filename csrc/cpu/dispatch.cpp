// Sends each CPU entry point to the build for this processor. One line per entry point at the end of this file.
#include <chrono>
#include <cstdlib>
#include <cstring>

#include "fastseg/attention_gate.h"
#include "fastseg/cbam.h"
#include "fastseg/context.h"
#include "fastseg/cpu/capability.h"
#include "fastseg/cross_scale.h"
#include "fastseg/depthwise.h"
#include "fastseg/fast_global_smoother.h"
#include "fastseg/guided_filter.h"
#include "fastseg/loss.h"
#include "fastseg/matching_cost.h"
#include "fastseg/norm.h"
#include "fastseg/pointwise.h"
#include "fastseg/separable.h"
#include "fastseg/soft_mask_attention.h"
#include "fastseg/up_conv.h"
#include "fastseg/weighted_median.h"
#include "fastseg/winner_takes_all.h"
#include "fastseg/wls.h"

namespace fastseg {

#define FASTSEG_DECLARE_BUILD(isa)                                                    \
  namespace isa {                                                                     \
  void instance_norm_act_forward(const InstanceNormActForward&, int threads, bool);   \
  void instance_norm_act_backward(const InstanceNormActBackward&, int threads, bool); \
  void depthwise_conv_forward(const DepthwiseConvForward&, int threads, bool);        \
  void depthwise_conv_backward(const DepthwiseConvBackward&, int threads, bool);      \
  double multiply_add_rounds(int64_t rounds, int threads);                            \
  void cbam_forward(const CbamForward&, int threads, bool);                           \
  void cbam_backward(const CbamBackward&, int threads, bool);                         \
  void pointwise_conv(const PointwiseConv&, int threads, bool);                       \
  void pointwise_conv_gradient(const PointwiseConvGradient&, int threads, bool);      \
  void up_conv(const UpConv&, int threads, bool);                                     \
  void up_conv_gradient(const UpConv&, int threads, bool);                            \
  void up_conv_parameter_gradient(const UpConvParameterGradient&, int threads, bool); \
  void separable_conv_forward(const SeparableConvForward&, int threads, bool);        \
  bool separable_conv_fits(const SeparableConvForward&);                              \
  int64_t context_conv_workspace(const ContextConv&, bool backward, int threads);     \
  void context_conv_forward(const ContextConv&, int threads, bool);                   \
  void context_conv_backward(const ContextConv&, int threads, bool);                  \
  void wls_setup(const WlsSetup&, int threads);                                       \
  void wls_solve(const WlsSolve&, int threads);                                       \
  void fast_global_smoother(const FastGlobalSmoother&, int threads, bool);            \
  void guided_filter(const GuidedFilter&, int threads, bool);                         \
  void guided_filter_interpolate(const GuidedFilterInterpolate&, int threads, bool);  \
  void cross_scale_aggregate(const CrossScale&, int threads, bool);                   \
  void cross_scale_aggregate_backward(const CrossScale&, int threads, bool);          \
  void census_transform(const CensusTransform&, int threads);                         \
  void matching_cost(const MatchingCost&, int threads, bool);                         \
  void weighted_median(const WeightedMedian&, int threads);                           \
  void winner_takes_all(const WinnerTakesAll&, int threads);                          \
  void attention_gate_forward(const AttentionGateForward&, int threads, bool);        \
  void attention_gate_backward(const AttentionGateBackward&, int threads, bool);      \
  void soft_mask_attention_forward(const SoftMaskAttentionForward&, int, bool);       \
  void soft_mask_attention_backward(const SoftMaskAttentionBackward&, int, bool);     \
  void soft_mask_attention_conv(const SoftMaskAttentionConv&, int threads, bool);     \
  void loss_sums_of(const LossSums&, int threads);                                    \
  void loss_gradient(const LossGradient&, int threads, bool);                         \
  }
FASTSEG_DECLARE_BUILD(baseline)
#ifdef FASTSEG_X86
FASTSEG_DECLARE_BUILD(avx2)
FASTSEG_DECLARE_BUILD(avx512)
#endif

namespace cpu {
namespace {

Capability detect() {
  Capability best = Capability::baseline;
#ifdef FASTSEG_X86
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"))
    best = Capability::avx2;
  if (best == Capability::avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl"))
    best = Capability::avx512;
#endif
  if (const char* wanted = std::getenv("FASTSEG_CPU_CAPABILITY")) {
    if (!std::strcmp(wanted, "baseline")) return Capability::baseline;
    if (!std::strcmp(wanted, "avx2") && best > Capability::avx2) return Capability::avx2;
  }
  return best;
}

// Below this many elements starting threads costs more than it gains.
constexpr int64_t serial_elements = 32768;

// Larger outputs go past the caches, which could not keep them for their reader. A fixed size: the cache that the
// system reports is that of the whole chip, of which a virtual machine or a core complex has a part.
constexpr int64_t stream_bytes = int64_t(16) << 20;

struct Launch {
  int threads;
  bool stream;
};

Launch launch_for(int64_t elements, Element type, int threads) {
  return {elements < serial_elements || threads < 1 ? 1 : threads, elements * element_size(type) >= stream_bytes};
}

}  // namespace

Capability capability() {
  static const Capability value = detect();
  return value;
}

const char* capability_name() {
  static const char* const names[] = {"baseline", "avx2", "avx512"};
  return names[int(capability())];
}

#ifdef FASTSEG_X86
#define FASTSEG_CALL_BUILD(function, ...)              \
  switch (capability()) {                              \
    case Capability::avx512:                           \
      return fastseg::avx512::function(__VA_ARGS__);   \
    case Capability::avx2:                             \
      return fastseg::avx2::function(__VA_ARGS__);     \
    case Capability::baseline:                         \
      return fastseg::baseline::function(__VA_ARGS__); \
  }
#else
#define FASTSEG_CALL_BUILD(function, ...) return fastseg::baseline::function(__VA_ARGS__)
#endif

namespace {

double multiply_add_rounds(int64_t rounds, int threads) {
  FASTSEG_CALL_BUILD(multiply_add_rounds, rounds, threads);
  return 0;
}

}  // namespace

double measure_peak(int threads) {
  double best = 0;
  for (int attempt = 0; attempt < 7; ++attempt) {  // the first ones wake the threads and the clock
    const auto start = std::chrono::steady_clock::now();
    const double operations = multiply_add_rounds(int64_t(1) << 22, threads);
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
    if (operations / seconds.count() > best) best = operations / seconds.count();
  }
  return best;
}

void instance_norm_act_forward(const InstanceNormActForward& args, int threads) {
  const int64_t elements = args.batch * args.channels * args.spatial;
  const Launch launch = launch_for(elements, args.x.type, threads);
  FASTSEG_CALL_BUILD(instance_norm_act_forward, args, launch.threads, launch.stream);
}

void instance_norm_act_backward(const InstanceNormActBackward& args, int threads) {
  const int64_t elements = args.batch * args.channels * args.spatial;
  const Launch launch = launch_for(elements, args.x.type, threads);
  FASTSEG_CALL_BUILD(instance_norm_act_backward, args, launch.threads, launch.stream);
}

namespace {

// Work counts in taps here: a convolution does so much more for an element than a norm.
Launch launch_for(const DepthwiseShape& shape, const int64_t (&size)[3], Element type, int threads) {
  const int64_t elements = shape.batch * shape.channels * size[0] * size[1] * size[2];
  const Launch launch = launch_for(elements, type, threads);
  return {elements * (shape.taps() + 8) / 16 < serial_elements || threads < 1 ? 1 : threads, launch.stream};
}

}  // namespace

void depthwise_conv_forward(const DepthwiseConvForward& args, int threads) {
  const Launch launch = launch_for(args.shape, args.shape.output, args.x.type, threads);
  FASTSEG_CALL_BUILD(depthwise_conv_forward, args, launch.threads, launch.stream);
}

void depthwise_conv_backward(const DepthwiseConvBackward& args, int threads) {
  const Launch launch = launch_for(args.shape, args.shape.input, args.grad.type, threads);
  FASTSEG_CALL_BUILD(depthwise_conv_backward, args, launch.threads, launch.stream);
}

bool separable_conv_fits(const SeparableConvForward& args) {
  FASTSEG_CALL_BUILD(separable_conv_fits, args);
  return false;
}

void separable_conv_forward(const SeparableConvForward& args, int threads) {
  const DepthwiseShape& s = args.shape;
  const int64_t pixels = s.batch * s.output[0] * s.output[1] * s.output[2];
  const Launch launch = launch_for(pixels * args.outputs, args.y.type, threads);
  FASTSEG_CALL_BUILD(separable_conv_forward, args, threads < 1 ? 1 : threads, launch.stream);
}

namespace {

Launch launch_for(const PointwiseConv& args, int threads) {
  const Launch launch = launch_for(args.batch * args.pixels * args.outputs, args.y.type, threads);
  const int64_t work = args.batch * args.pixels * args.inputs * args.outputs / 16;
  return {work < serial_elements || threads < 1 ? 1 : threads, launch.stream};
}

}  // namespace

void pointwise_conv(const PointwiseConv& args, int threads) {
  const Launch launch = launch_for(args, threads);
  FASTSEG_CALL_BUILD(pointwise_conv, args, launch.threads, launch.stream);
}

void pointwise_conv_gradient(const PointwiseConvGradient& args, int threads) {
  const int64_t work = args.batch * args.pixels * args.inputs * args.outputs / 16;
  FASTSEG_CALL_BUILD(pointwise_conv_gradient, args, work < serial_elements || threads < 1 ? 1 : threads, false);
}

namespace {

Launch launch_for(const UpConvShape& shape, int64_t written, Element type, int threads) {
  const int64_t pixels = shape.batch * shape.pixels();
  const Launch launch = launch_for(pixels * written, type, threads);
  const int64_t work = pixels * shape.channels * shape.columns() / 16;
  return {work < serial_elements || threads < 1 ? 1 : threads, launch.stream};
}

}  // namespace

void up_conv(const UpConv& args, int threads) {
  const Launch launch = launch_for(args.shape, args.shape.columns(), args.fine.type, threads);
  FASTSEG_CALL_BUILD(up_conv, args, launch.threads, launch.stream);
}

void up_conv_gradient(const UpConv& args, int threads) {
  const Launch launch = launch_for(args.shape, args.shape.channels, args.coarse.type, threads);
  FASTSEG_CALL_BUILD(up_conv_gradient, args, launch.threads, launch.stream);
}

void up_conv_parameter_gradient(const UpConvParameterGradient& args, int threads) {
  const Launch launch = launch_for(args.shape, 0, args.fine.type, threads);
  FASTSEG_CALL_BUILD(up_conv_parameter_gradient, args, launch.threads, false);
}

namespace {

int context_threads(const ContextConv& args, int threads) {
  int64_t work = 0;
  for (int64_t b = 0; b < args.branches.count; ++b)
    work += args.batch * args.output_pixels() * args.inputs * args.branches.branch[b].outputs *
            args.branches.branch[b].taps();
  return work / 16 < serial_elements || threads < 1 ? 1 : threads;
}

}  // namespace

int64_t context_conv_workspace(const ContextConv& args, bool backward, int threads) {
  FASTSEG_CALL_BUILD(context_conv_workspace, args, backward, context_threads(args, threads));
  return 0;
}

void context_conv_forward(const ContextConv& args, int threads) {
  const Launch launch = launch_for(args.batch * args.output_pixels() * args.branches.outputs(), args.y.type, threads);
  FASTSEG_CALL_BUILD(context_conv_forward, args, context_threads(args, threads), launch.stream);
}

void context_conv_backward(const ContextConv& args, int threads) {
  const Launch launch = launch_for(args.batch * args.pixels() * args.inputs, args.y.type, threads);
  FASTSEG_CALL_BUILD(context_conv_backward, args, context_threads(args, threads), launch.stream);
}

void cbam_forward(const CbamForward& args, int threads) {
  const CbamShape& s = args.shape;
  const Launch launch = launch_for(s.batch * s.channels * s.pixels(), args.x.type, threads);
  FASTSEG_CALL_BUILD(cbam_forward, args, launch.threads, launch.stream);
}

void cbam_backward(const CbamBackward& args, int threads) {
  const CbamShape& s = args.shape;
  const Launch launch = launch_for(s.batch * s.channels * s.pixels(), args.x.type, threads);
  FASTSEG_CALL_BUILD(cbam_backward, args, launch.threads, launch.stream);
}

void wls_setup(const WlsSetup& args, int threads) { FASTSEG_CALL_BUILD(wls_setup, args, threads < 1 ? 1 : threads); }

void wls_solve(const WlsSolve& args, int threads) { FASTSEG_CALL_BUILD(wls_solve, args, threads < 1 ? 1 : threads); }

void fast_global_smoother(const FastGlobalSmoother& args, int threads) {
  const int64_t pixels = args.batch * args.channels * args.height * args.width;
  FASTSEG_CALL_BUILD(fast_global_smoother, args, pixels < serial_elements || threads < 1 ? 1 : threads, false);
}

void guided_filter(const GuidedFilter& args, int threads) {
  const int64_t pixels = args.batch * args.channels * args.height * args.width;
  FASTSEG_CALL_BUILD(guided_filter, args, pixels < serial_elements || threads < 1 ? 1 : threads, false);
}

void guided_filter_interpolate(const GuidedFilterInterpolate& args, int threads) {
  const int64_t pixels = args.batch * args.channels * args.height * args.width;
  FASTSEG_CALL_BUILD(guided_filter_interpolate, args, pixels < serial_elements || threads < 1 ? 1 : threads, false);
}

namespace {

Launch launch_for(const CrossScale& args, int threads) {
  return launch_for(args.batch * args.levels.level[0].disparities * args.height * args.width, args.type, threads);
}

}  // namespace

void cross_scale_aggregate(const CrossScale& args, int threads) {
  const Launch launch = launch_for(args, threads);
  FASTSEG_CALL_BUILD(cross_scale_aggregate, args, launch.threads, launch.stream);
}

void cross_scale_aggregate_backward(const CrossScale& args, int threads) {
  const Launch launch = launch_for(args, threads);
  FASTSEG_CALL_BUILD(cross_scale_aggregate_backward, args, launch.threads, launch.stream);
}

void census_transform(const CensusTransform& args, int threads) {
  const int64_t comparisons = args.batch * args.height * args.width * args.window_rows * args.window_columns;
  FASTSEG_CALL_BUILD(census_transform, args, comparisons < 16 * serial_elements || threads < 1 ? 1 : threads);
}

void matching_cost(const MatchingCost& args, int threads) {
  const int64_t costs = args.batch * args.disparities * args.height * args.width;
  const Launch launch = launch_for(costs, args.type, threads);
  FASTSEG_CALL_BUILD(matching_cost, args, launch.threads, launch.stream);
}

void weighted_median(const WeightedMedian& args, int threads) {
  const int64_t pixels = args.batch * args.channels * args.height * args.width;
  const int64_t work = pixels * (2 * args.radius + 1);  // unless the mask is nearly empty
  FASTSEG_CALL_BUILD(weighted_median, args, work < serial_elements || threads < 1 ? 1 : threads);
}

void winner_takes_all(const WinnerTakesAll& args, int threads) {
  const int64_t costs = args.batch * args.slices * args.pixels;
  FASTSEG_CALL_BUILD(winner_takes_all, args, costs < serial_elements || threads < 1 ? 1 : threads);
}

void soft_mask_attention_forward(const SoftMaskAttentionForward& args, int threads) {
  const Launch launch = launch_for(args.batch * args.channels * args.spatial, args.trunk.type, threads);
  FASTSEG_CALL_BUILD(soft_mask_attention_forward, args, launch.threads, launch.stream);
}

void soft_mask_attention_backward(const SoftMaskAttentionBackward& args, int threads) {
  const Launch launch = launch_for(args.batch * args.channels * args.spatial, args.trunk.type, threads);
  FASTSEG_CALL_BUILD(soft_mask_attention_backward, args, launch.threads, launch.stream);
}

void soft_mask_attention_conv(const SoftMaskAttentionConv& args, int threads) {
  const Launch launch = launch_for(args.conv, threads);
  FASTSEG_CALL_BUILD(soft_mask_attention_conv, args, launch.threads, launch.stream);
}

void loss_sums_of(const LossSums& args, int threads) {
  FASTSEG_CALL_BUILD(loss_sums_of, args,
                     launch_for(args.batch * args.classes * args.spatial, args.logits.type, threads).threads);
}

void loss_gradient(const LossGradient& args, int threads) {
  const Launch launch = launch_for(args.batch * args.classes * args.spatial, args.logits.type, threads);
  FASTSEG_CALL_BUILD(loss_gradient, args, launch.threads, launch.stream);
}

namespace {

Launch launch_for(const AttentionGate& args, int threads) {
  const int64_t pixels = args.batch * args.size[0] * args.size[1] * args.size[2];
  const Launch launch = launch_for(pixels * args.channels, args.x.type, threads);
  const int64_t work = pixels * (args.channels + args.gating_channels) * (args.features + 4) / 16;
  return {work < serial_elements || threads < 1 ? 1 : threads, launch.stream};
}

}  // namespace

void attention_gate_forward(const AttentionGateForward& args, int threads) {
  const Launch launch = launch_for(args.gate, threads);
  FASTSEG_CALL_BUILD(attention_gate_forward, args, launch.threads, launch.stream);
}

void attention_gate_backward(const AttentionGateBackward& args, int threads) {
  const Launch launch = launch_for(args.gate, threads);
  FASTSEG_CALL_BUILD(attention_gate_backward, args, launch.threads, launch.stream);
}

}  // namespace cpu
}  // namespace fastseg
