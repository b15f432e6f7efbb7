// Mean and squared deviations, gathered while outputs are written and merged by Chan's formula.
#pragma once
#include "fastseg/cuda/reduce.cuh"

namespace fastseg::cuda {

// A slot of partial statistics in the workspace, and what a lane hands to its neighbour. The mean is in double: half a
// unit in the last place of a float near 1e4, once for each merge, would show in (y - mean).
struct Moments {
  double mean = 0;
  float count = 0, squares = 0;  // squares: of the deviations from mean

  __device__ void merge(const Moments& other) {
    if (other.count == 0) return;
    const float all = count + other.count;
    const double difference = other.mean - mean;
    const float share = other.count / all, between = static_cast<float>(difference);
    mean += difference * share;
    squares += other.squares + between * between * count * share;
    count = all;
  }
  // Of `lanes` neighbouring lanes (a power of two), in the lowest of them. All lanes of the warp take part.
  __device__ void merge_lanes(int lanes) {
    for (int offset = 1; offset < lanes; offset *= 2) {
      Moments other;
      other.count = __shfl_xor_sync(0xffffffffu, count, offset);
      other.mean = __shfl_xor_sync(0xffffffffu, mean, offset);
      other.squares = __shfl_xor_sync(0xffffffffu, squares, offset);
      merge(other);
    }
  }
};

// Of one thread's outputs, which counts them itself. Sums are of differences from the first of them, which is near
// enough to their mean that squares lose nothing.
struct RunningMoments {
  float first = 0, sum = 0, squares = 0;

  __device__ void add(float value, int count_before) {
    if (count_before == 0) first = value;
    const float difference = value - first;
    sum += difference;
    squares = fmaf(difference, difference, squares);
  }
  __device__ Moments of(int count) const {
    Moments moments;
    if (count == 0) return moments;
    const float mean = sum / static_cast<float>(count);
    moments.count = static_cast<float>(count);
    moments.mean = static_cast<double>(first) + mean;
    moments.squares = fmaxf(squares - sum * mean, 0.0f);
    return moments;
  }
};

}  // namespace fastseg::cuda
