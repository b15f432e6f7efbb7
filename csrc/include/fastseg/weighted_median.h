// The bilateral weighted median (Hosni et al. 2013, equation 6): the middle of a window's values, by weights of colour
// and distance.
#pragma once
#include "fastseg/images.h"

namespace fastseg {

struct WeightedMedian {
  int64_t batch, channels, height, width;
  Images src;              // [batch, channels, height, width]
  Images guide;            // [batch, guide_channels, height, width], any type
  int64_t guide_channels;  // 1 or 3
  Images mask;             // as src, bytes: where 0, src is copied; optional, strides of 0 repeat an image
  Images weights;          // as src, of the type computed in, >= 0; optional, strides of 0 repeat an image
  Images dst;              // as src, of its type, written
  int64_t radius;
  double sigma_color, sigma_space;
};

namespace cpu {
void weighted_median(const WeightedMedian& args, int threads);
}  // namespace cpu

}  // namespace fastseg
