// The arguments of the kernels for segmentation networks, from the fields that Python passes.
#pragma once
#include "fastseg/attention_gate.h"
#include "fastseg/cbam.h"
#include "fastseg/context.h"
#include "fastseg/depthwise.h"
#include "fastseg/loss.h"
#include "fastseg/norm.h"
#include "fastseg/pointwise.h"
#include "fastseg/separable.h"
#include "fastseg/soft_mask_attention.h"
#include "fastseg/up_conv.h"
#include "pointer.h"

namespace fastseg::arguments {

inline InstanceNormActForward forward_args(int64_t batch, int64_t channels, int64_t spatial, View x, Vector weight,
                                           Vector bias, View residual, View y, uint64_t mean, uint64_t rstd,
                                           int activation, double negative_slope, double eps) {
  return {batch,
          channels,
          spatial,
          x,
          weight,
          bias,
          residual,
          y,
          pointer(mean),
          pointer(rstd),
          static_cast<Activation>(activation),
          negative_slope,
          eps};
}

// Statistics that another kernel gathered.
inline InstanceNormActForward apply_args(int64_t batch, int64_t channels, int64_t spatial, View x, Vector weight,
                                         Vector bias, View y, uint64_t mean, uint64_t rstd, int activation,
                                         double negative_slope) {
  InstanceNormActForward args =
      forward_args(batch, channels, spatial, x, weight, bias, {}, y, mean, rstd, activation, negative_slope, 0.0);
  args.statistics_given = true;
  return args;
}

// Statistics over the batch too, which are those given where variance is 0.
inline InstanceNormActForward batch_norm_args(int64_t batch, int64_t channels, int64_t spatial, View x, Vector weight,
                                              Vector bias, View residual, View y, uint64_t mean, uint64_t rstd,
                                              uint64_t variance, int activation, double negative_slope, double eps) {
  InstanceNormActForward args =
      forward_args(batch, channels, spatial, x, weight, bias, residual, y, mean, rstd, activation, negative_slope, eps);
  args.over_batch = true;
  args.statistics_given = variance == 0;
  args.variance = pointer(variance);
  return args;
}

inline InstanceNormActBackward backward_args(int64_t batch, int64_t channels, int64_t spatial, View grad, View x,
                                             Vector weight, Vector bias, View y, uint64_t mean, uint64_t rstd, View dx,
                                             View dresidual, uint64_t dweight, uint64_t dbias, int activation,
                                             double negative_slope) {
  return {batch,
          channels,
          spatial,
          grad,
          x,
          weight,
          bias,
          y,
          pointer(mean),
          pointer(rstd),
          dx,
          dresidual,
          pointer(dweight),
          pointer(dbias),
          static_cast<Activation>(activation),
          negative_slope};
}

inline InstanceNormActBackward batch_norm_backward_args(int64_t batch, int64_t channels, int64_t spatial, View grad,
                                                        View x, Vector weight, Vector bias, View y, uint64_t mean,
                                                        uint64_t rstd, View dx, View dresidual, uint64_t dweight,
                                                        uint64_t dbias, int activation, double negative_slope,
                                                        bool statistics_fixed) {
  InstanceNormActBackward args = backward_args(batch, channels, spatial, grad, x, weight, bias, y, mean, rstd, dx,
                                               dresidual, dweight, dbias, activation, negative_slope);
  args.over_batch = true;
  args.statistics_fixed = statistics_fixed;
  return args;
}

inline DepthwiseConvForward depthwise_forward_args(DepthwiseShape shape, View x, uint64_t weight, Vector bias, View y,
                                                   uint64_t mean, uint64_t rstd, double eps) {
  return {shape, x, pointer(weight), bias, y, pointer(mean), pointer(rstd), eps};
}

inline DepthwiseConvBackward depthwise_backward_args(DepthwiseShape shape, View grad, View x, uint64_t weight,
                                                     Vector bias, View dx, uint64_t dweight, uint64_t dbias) {
  return {shape, grad, x, pointer(weight), bias, dx, pointer(dweight), pointer(dbias)};
}

inline PointwiseConv pointwise_args(int64_t batch, int64_t inputs, int64_t outputs, int64_t pixels, View x,
                                    uint64_t weight, int64_t output_stride, int64_t input_stride, Vector bias, View y) {
  return {batch, inputs, outputs, pixels, x, pointer(weight), output_stride, input_stride, bias, y};
}

inline PointwiseConv pointwise_residual_args(int64_t batch, int64_t inputs, int64_t outputs, int64_t pixels, View x,
                                             uint64_t weight, int64_t output_stride, int64_t input_stride, Vector bias,
                                             View y, View residual, int64_t height, int64_t width, int64_t depth_scale,
                                             int64_t scale) {
  PointwiseConv args = pointwise_args(batch, inputs, outputs, pixels, x, weight, output_stride, input_stride, bias, y);
  args.residual = {residual, height, width, depth_scale, scale};
  return args;
}

inline PointwiseConvGradient pointwise_gradient_args(int64_t batch, int64_t inputs, int64_t outputs, int64_t pixels,
                                                     View grad, View x, uint64_t dweight, uint64_t dbias) {
  return {batch, inputs, outputs, pixels, grad, x, pointer(dweight), pointer(dbias)};
}

inline UpConv up_conv_args(UpConvShape shape, View coarse, View fine, uint64_t weight, Vector bias) {
  return {shape, coarse, fine, pointer(weight), bias};
}

inline UpConvParameterGradient up_conv_parameter_args(UpConvShape shape, View coarse, View fine, uint64_t dweight,
                                                      uint64_t dbias) {
  return {shape, coarse, fine, pointer(dweight), pointer(dbias)};
}

inline SeparableConvForward separable_args(DepthwiseShape shape, View x, uint64_t weight, Vector bias, int64_t outputs,
                                           uint64_t pointwise_weight, Vector pointwise_bias, View y) {
  return {shape, x, pointer(weight), bias, outputs, pointer(pointwise_weight), pointwise_bias, y};
}

inline CbamForward cbam_forward_args(CbamShape shape, View x, View y, CbamWeights weights, CbamSaved saved,
                                     double eps) {
  return {shape, x, y, weights, saved, eps};
}

inline CbamBackward cbam_backward_args(CbamShape shape, View grad, View x, View dx, CbamWeights weights,
                                       CbamSaved saved, CbamGradients gradients, double eps) {
  return {shape, grad, x, dx, weights, saved, gradients, eps};
}

inline AttentionGateForward gate_args(AttentionGate gate, View y) { return {gate, y}; }

inline AttentionGateBackward gate_backward_args(AttentionGate gate, View grad, View dx, View dgating, View dcoarse,
                                                uint64_t dweight, uint64_t dvectors) {
  return {gate, grad, dx, dgating, dcoarse, pointer(dweight), pointer(dvectors)};
}

inline SoftMaskAttentionForward soft_mask_args(int64_t batch, int64_t channels, int64_t spatial, int64_t mask_channels,
                                               View trunk, View mask, View y) {
  return {batch, channels, spatial, mask_channels, trunk, mask, y};
}

inline SoftMaskAttentionBackward soft_mask_backward_args(int64_t batch, int64_t channels, int64_t spatial,
                                                         int64_t mask_channels, View grad, View trunk, View mask,
                                                         View dtrunk, View dmask) {
  return {batch, channels, spatial, mask_channels, grad, trunk, mask, dtrunk, dmask};
}

inline SoftMaskAttentionConv soft_mask_conv_args(int64_t batch, int64_t inputs, int64_t channels, int64_t pixels,
                                                 View features, uint64_t weight, int64_t output_stride,
                                                 int64_t input_stride, Vector bias, View trunk, View y) {
  return {pointwise_args(batch, inputs, channels, pixels, features, weight, output_stride, input_stride, bias, y),
          trunk};
}

inline LossSums loss_sums_args(int64_t batch, int64_t classes, int64_t spatial, View logits, Truth truth, bool sigmoid,
                               int64_t ignored, uint64_t sums, uint64_t wrong) {
  return {batch, classes, spatial, logits, truth, sigmoid, ignored, pointer<double>(sums), pointer<double>(wrong)};
}

inline LossFormula loss_formula_args(int64_t batch, int64_t classes, int64_t spatial, bool sigmoid, uint64_t sums,
                                     uint64_t class_weights, bool balanced, bool generalized, double overlap_weight,
                                     double ce_weight, double fp_weight, double fn_weight, double smooth, double gamma,
                                     bool whole_batch, bool include_background, uint64_t loss, uint64_t slopes) {
  return {batch,
          classes,
          spatial,
          sigmoid,
          pointer<const double>(sums),
          pointer<const double>(class_weights),
          balanced,
          generalized,
          overlap_weight,
          ce_weight,
          fp_weight,
          fn_weight,
          smooth,
          gamma,
          whole_batch,
          include_background,
          pointer<double>(loss),
          pointer<double>(slopes)};
}

inline LossGradient loss_gradient_args(int64_t batch, int64_t classes, int64_t spatial, View logits, Truth truth,
                                       bool sigmoid, int64_t ignored, uint64_t slopes, double grad, View dlogits) {
  return {batch, classes, spatial, logits, truth, sigmoid, ignored, pointer<const double>(slopes), grad, dlogits};
}

inline ContextConv context_args(ContextShape shape, ContextBranches branches, View x, View y, View dx, Vector dx_bias,
                                uint64_t workspace) {
  return {shape, branches, x, y, dx, dx_bias, pointer(workspace)};
}

}  // namespace fastseg::arguments
