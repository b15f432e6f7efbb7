// The guided filter (He et al. 2013): windowed linear regressions of images on a guide, averaged.
#pragma once
#include "fastseg/images.h"

namespace fastseg {

// What windows see beyond an image: nothing, or the image mirrored with its edge pixels twice or once.
enum class Border : int { truncate = 0, reflect = 1, reflect_101 = 2 };

struct GuidedFilter {
  int64_t batch, channels, height, width;
  Images guide;            // [batch, guide_channels, height, width], any type
  int64_t guide_channels;  // 1 or 3
  Images src;              // [batch, channels, height, width]
  Images dst;              // written: as src, of its type; or the coefficients
  int64_t radius;
  double eps;
  Border border;
  // dst is [batch, channels * (guide_channels + 1), height, width] of the type computed in: the slopes mean(a) for each
  // channel of the guide, and the offset mean(b), of every pixel.
  bool coefficients;
  // Where they are given, dst is not written but, for each pixel, the channel whose result is smallest and that result.
  int64_t* index = nullptr;  // [batch, height, width]
  void* value = nullptr;     // the same, of the type computed in
};

// dst = slopes . guide + offset, with coefficients of every `subsample`-th pixel interpolated linearly.
struct GuidedFilterInterpolate {
  int64_t batch, channels, height, width;
  Images guide;  // [batch, guide_channels, height, width], any type
  int64_t guide_channels;
  Images coefficients;  // [batch, channels * (guide_channels + 1), coarse height, coarse width], computed in dst's way
  Images dst;           // [batch, channels, height, width], written
  int64_t subsample;
};

namespace cpu {
void guided_filter(const GuidedFilter& args, int threads);
void guided_filter_interpolate(const GuidedFilterInterpolate& args, int threads);
}  // namespace cpu

// What the CUDA kernel is given. `colours` and `statistics` are dense and of the type computed in.
struct GuidedFilterPlanes {
  int64_t batch, channels, height, width, guide_channels;
  Images src;           // [batch, channels, height, width]
  Images dst;           // written: as src, of its type; or, without statistics, see below
  const void* colours;  // [batch, guide_channels, height, width], less their mean
  // [batch, guide_channels + factors, height, width]: means over windows, and L and D^-1 of the covariance and eps,
  // L D L^T: 1 / d of a grey guide; l10, l20, l21, 1 / d0, 1 / d1, 1 / d2 of a colour one. Where they are absent, dst
  // is [batch, channels * (guide_channels + 1), height, width] of the type computed in: means over windows of src and
  // of src times each colour.
  const void* statistics;
  int64_t radius;
  Border border;
};

namespace cuda {
// Where windows are cut at the image's ends, only what is inside counts: radius or width - 1, which is smaller.
constexpr int64_t guided_filter_largest_radius = 96;
void guided_filter(const GuidedFilterPlanes& args, void* stream);
}  // namespace cuda

}  // namespace fastseg
