// The fast global smoother (Min et al. 2014): tridiagonal solves along rows and columns, held back by a guide's edges.
#pragma once
#include "fastseg/images.h"

namespace fastseg {

struct FastGlobalSmoother {
  int64_t batch, channels, height, width;
  Images src;              // [batch, channels, height, width]
  Images guide;            // [batch, guide_channels, height, width], any type
  int64_t guide_channels;  // 1 or 3
  Images dst;              // as src, of its type, written
  double lambda, sigma, attenuation;
  int64_t iterations;
  bool adjoint;  // the transposed map: columns before rows, the last lambda first
};

namespace cpu {
void fast_global_smoother(const FastGlobalSmoother& args, int threads);
}  // namespace cpu

}  // namespace fastseg
