// Windows of the guided filter along one axis, and sums over them.
#pragma once
#include <utility>

#include "fastseg/cpu/vec.h"
#include "fastseg/guided_filter.h"

namespace fastseg::FASTSEG_ISA {

// One axis of an image, with the line that goes on beyond its ends.
struct Axis {
  int64_t size, radius;
  Border border;

  // The pixel that stands at place i, which may lie beyond the ends; -1 where there is none.
  int64_t pixel(int64_t i) const {
    if (i >= 0 && i < size) return i;
    if (border == Border::truncate) return -1;
    if (size == 1) return 0;
    const int64_t period = border == Border::reflect ? 2 * size : 2 * size - 2;
    const int64_t place = (i % period + period) % period;
    return place < size ? place : (border == Border::reflect ? period - 1 : period) - place;
  }

  int64_t largest_window() const { return border == Border::truncate && size < 2 * radius + 1 ? size : 2 * radius + 1; }

  // Pixels in the window of pixel i.
  int64_t count(int64_t i) const {
    if (border != Border::truncate) return 2 * radius + 1;
    const int64_t first = i > radius ? i - radius : 0, last = i + radius < size ? i + radius : size - 1;
    return last - first + 1;
  }
};

// Lane i gets the sum of lanes 0 to i.
template <int By = 1, class V, int... I>
inline V running_sum(V v, std::integer_sequence<int, I...> all) {
  constexpr int L = sizeof...(I);
  if constexpr (By < L) {
    const V zero = {};
#if defined(__clang__) || __GNUC__ >= 12
    v += __builtin_shufflevector(zero, v, (I + L - By)...);
#else
    v += V{(I >= By ? v[I >= By ? I - By : 0] : zero[0])...};
#endif
    return running_sum<2 * By>(v, all);
  } else {
    return v;
  }
}

// sums[x] = line[x - radius] + ... + line[x + radius] for x from 0 to width, which is padded to whole vectors: line is
// read from -radius - 1 to the padded width + radius.
inline void window_sums(const double* line, int64_t width, int64_t radius, double* sums) {
  constexpr int L = lanes<double>;
  using Lanes = std::make_integer_sequence<int, L>;
  double carry = 0;
  for (int64_t x = -radius - 1; x < radius; ++x) carry += line[x];
  for (int64_t x = 0; x < width; x += L) {
    const Vec<double> step = load(line + x + radius) - load(line + x - radius - 1);
    const Vec<double> sum = running_sum(step, Lanes{}) + carry;
    store(sums + x, sum);
    carry = sum[L - 1];
  }
}

}  // namespace fastseg::FASTSEG_ISA
