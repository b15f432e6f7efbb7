// The arguments of the stereo side's kernels, from the fields that Python passes.
#pragma once
#include "fastseg/cross_scale.h"
#include "fastseg/fast_global_smoother.h"
#include "fastseg/guided_filter.h"
#include "fastseg/matching_cost.h"
#include "fastseg/weighted_median.h"
#include "fastseg/winner_takes_all.h"
#include "fastseg/wls.h"
#include "pointer.h"

namespace fastseg::arguments {

inline WlsSetup wls_setup_args(int64_t height, int64_t width, uint64_t guide, int type, double lambda, double alpha,
                               double eps, uint64_t system, uint64_t scratch) {
  return {height, width, pointer(guide),         static_cast<Element>(type), lambda,
          alpha,  eps,   pointer<float>(system), pointer<float>(scratch)};
}

inline WlsSolve wls_solve_args(int64_t sources, int64_t height, int64_t width, uint64_t system, uint64_t source,
                               uint64_t solution, int type, uint64_t work, double tolerance, int64_t max_iterations,
                               uint64_t iterations, uint64_t residual) {
  return {sources,
          height,
          width,
          pointer<const float>(system),
          pointer(source),
          pointer(solution),
          static_cast<Element>(type),
          pointer<float>(work),
          tolerance,
          max_iterations,
          pointer<int64_t>(iterations),
          pointer<double>(residual)};
}

inline FastGlobalSmoother smoother_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images src,
                                        Images guide, int64_t guide_channels, Images dst, double lambda, double sigma,
                                        double attenuation, int64_t iterations, bool adjoint) {
  return {batch, channels, height, width,       src,        guide,  guide_channels,
          dst,   lambda,   sigma,  attenuation, iterations, adjoint};
}

inline GuidedFilter guided_filter_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images guide,
                                       int64_t guide_channels, Images src, Images dst, int64_t radius, double eps,
                                       int border, bool coefficients) {
  return {
      batch,        channels, height, width, guide, guide_channels, src, dst, radius, eps, static_cast<Border>(border),
      coefficients, nullptr,  nullptr};
}

inline GuidedFilter guided_filter_argmin_args(int64_t batch, int64_t channels, int64_t height, int64_t width,
                                              Images guide, int64_t guide_channels, Images src, int64_t radius,
                                              double eps, int border, uint64_t index, uint64_t value) {
  GuidedFilter args =
      guided_filter_args(batch, channels, height, width, guide, guide_channels, src, {}, radius, eps, border, false);
  args.index = pointer<int64_t>(index);
  args.value = pointer(value);
  return args;
}

inline GuidedFilterInterpolate guided_filter_interpolate_args(int64_t batch, int64_t channels, int64_t height,
                                                              int64_t width, Images guide, int64_t guide_channels,
                                                              Images coefficients, Images dst, int64_t subsample) {
  return {batch, channels, height, width, guide, guide_channels, coefficients, dst, subsample};
}

#ifdef FASTSEG_WITH_CUDA
inline GuidedFilterPlanes guided_filter_planes(int64_t batch, int64_t channels, int64_t height, int64_t width,
                                               int64_t guide_channels, Images src, Images dst, uint64_t colours,
                                               uint64_t statistics, int64_t radius, int border) {
  return {batch,
          channels,
          height,
          width,
          guide_channels,
          src,
          dst,
          pointer(colours),
          pointer(statistics),
          radius,
          static_cast<Border>(border)};
}
#endif

inline CrossScale cross_scale_args(int64_t batch, int64_t height, int64_t width, int type, CrossScaleLevels levels,
                                   uint64_t result, uint64_t finite, double lambda, int64_t min_disparity,
                                   bool pyramid) {
  return {batch,  height,        width,  static_cast<Element>(type), levels, pointer(result), pointer<bool>(finite),
          lambda, min_disparity, pyramid};
}

inline CensusTransform census_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images image,
                                   int64_t window_rows, int64_t window_columns, uint64_t words) {
  return {batch, channels, height, width, image, window_rows, window_columns, pointer<uint64_t>(words)};
}

inline MatchingCost matching_cost_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images left,
                                       Images right, int64_t min_disparity, int64_t disparities, bool right_view,
                                       bool ad_census, double ad_weight, double gradient_weight, double census_weight,
                                       double ad_threshold, double gradient_threshold, int64_t window_rows,
                                       int64_t window_columns, double outside, double ad_scale, double census_scale,
                                       uint64_t cost, int type) {
  return {batch,
          channels,
          height,
          width,
          left,
          right,
          min_disparity,
          disparities,
          right_view,
          ad_census,
          ad_weight,
          gradient_weight,
          census_weight,
          ad_threshold,
          gradient_threshold,
          window_rows,
          window_columns,
          outside,
          ad_scale,
          census_scale,
          pointer(cost),
          static_cast<Element>(type)};
}

inline WeightedMedian weighted_median_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images src,
                                           Images guide, int64_t guide_channels, Images mask, Images weights,
                                           Images dst, int64_t radius, double sigma_color, double sigma_space) {
  return {batch, channels, height, width,  src,         guide,      guide_channels,
          mask,  weights,  dst,    radius, sigma_color, sigma_space};
}

inline WinnerTakesAll winner_args(int64_t batch, int64_t slices, int64_t pixels, Images costs, int64_t first,
                                  WinnerPlanes previous, uint64_t near, int64_t reach, WinnerPlanes result) {
  return {batch, slices, pixels, costs, first, previous, pointer<const int32_t>(near), reach, result};
}

}  // namespace fastseg::arguments
