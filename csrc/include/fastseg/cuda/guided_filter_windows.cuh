// Windows that slide on the device: lines that go on beyond an image, sums that keep what rounding takes, and sums over
// a CTA's threads. Lanes of the last sums lie in shared memory, a line of `blockDim.x` columns for each.
#pragma once
#include "fastseg/cuda/reduce.cuh"
#include "fastseg/guided_filter.h"

namespace fastseg::cuda {

__device__ inline float product(float a, float b) { return __fmul_rn(a, b); }  // never part of an fma
__device__ inline double product(double a, double b) { return __dmul_rn(a, b); }

// One axis of an image, with the line that goes on beyond its ends.
struct Line {
  int size, radius;
  Border border;

  // The pixel that stands at place i; -1 where there is none.
  __device__ int pixel(int i) const {
    if (i >= 0 && i < size) return i;
    if (border == Border::truncate) return -1;
    if (size == 1) return 0;
    const int period = border == Border::reflect ? 2 * size : 2 * size - 2;
    const int place = (i % period + period) % period;
    return place < size ? place : (border == Border::reflect ? period - 1 : period) - place;
  }

  // Pixels in the window of pixel i.
  __device__ int count(int i) const {
    if (border != Border::truncate) return 2 * radius + 1;
    return min(i + radius, size - 1) - max(i - radius, 0) + 1;
  }
};

// A running sum: what an addition rounds off is added the next time (Kahan).
template <typename C>
struct RunningSum {
  C sum = 0, excess = 0;

  __device__ void add(C value) {
    const C step = value - excess, after = sum + step;
    excess = (after - sum) - step;
    sum = after;
  }
};

// sums[n] = values[n] of this thread and of the `span` - 1 before it, or of as many as there are. lines[n][t] has
// values[n] of thread t, and all have been written before a barrier.
//
// What comes in less what goes is added up over a warp, by doubling, from the window before the warp's first column,
// which its lanes add up together: nothing is larger than two windows, as prefix sums of a whole line would be.
template <typename C, int N>
__device__ inline void window_sums(const C (&values)[N], const C* lines, int span, C (&sums)[N]) {
  const int t = threadIdx.x, lane = t % warp_size, first = t - lane;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const C* line = lines + n * blockDim.x;
    C step = values[n] - (t >= span ? line[t - span] : C(0));
    C before = 0;
    for (int i = max(first - span, 0) + lane; i < first; i += warp_size) before += line[i];
#pragma unroll
    for (int distance = 1; distance < warp_size; distance *= 2) {
      before += __shfl_xor_sync(0xffffffffu, before, distance);
      const C other = __shfl_up_sync(0xffffffffu, step, distance);
      if (lane >= distance) step += other;
    }
    sums[n] = before + step;
  }
}

}  // namespace fastseg::cuda
