// Cross-scale aggregation (Zhang et al. 2014): cost volumes of several scales, coupled at every pixel and disparity.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

struct CrossScaleLevels {
  static constexpr int64_t most = 16;
  struct Level {
    void* data;           // [batch, disparities, height, width], contiguous
    int64_t disparities;  // in a pyramid at least those that are looked up
  };
  int64_t count = 0;
  Level level[most];  // the finest first
};

struct CrossScale {
  int64_t batch, height, width;  // of the finest level
  Element type;                  // of all levels and of the result
  CrossScaleLevels levels;       // read forward, written backward: gradients, nullptr where none is wanted
  void* result;                  // as the finest level: written forward, the gradient that is read backward
  bool* finite;                  // forward: set to false where the result is infinite or NaN somewhere
  double lambda;
  int64_t min_disparity;  // of the finest level
  bool pyramid;           // each level has half the pixels and disparities of the one before; else all have one size
};

namespace cpu {
void cross_scale_aggregate(const CrossScale& args, int threads);
void cross_scale_aggregate_backward(const CrossScale& args, int threads);
}  // namespace cpu

}  // namespace fastseg
