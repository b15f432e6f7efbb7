// The window of a depthwise convolution over rows: source rows in the compute type, padded with zeros, each element at
// the distance 1 from what the next target reads. What reads the window needs no bounds, no conversion and no stride.
#pragma once
#include "depthwise_ring.h"

namespace fastseg::FASTSEG_ISA {

// How a source row lies in the window. A convolution with stride s has s phases, each with every s-th element. A
// transposed one has a single phase, with s - 1 zeros after each element.
template <class A>
struct RowLayout {
  Axis axis;
  int64_t phases, phase_length, length;

  explicit RowLayout(const Axis& x) : axis(x) {
    const int64_t width = round_up(x.targets, lanes<A>), reach = (x.kernel - 1) * x.dilation;
    phases = x.transposed ? 1 : x.stride;
    phase_length = round_up(width + (x.transposed ? reach : reach / x.stride) + 1, lanes<A>);
    length = phases * phase_length;
  }

  // Where a row's target 0 finds its tap k; target i finds it i further on.
  int64_t offset(int64_t k) const {
    const int64_t at = k * axis.dilation;
    return axis.transposed ? at : at % axis.stride * phase_length + at / axis.stride;
  }

  // A row of the window; nothing of it stays as it was.
  template <class T>
  void fill(const T* from, A* to) const {
    if (!axis.transposed && axis.stride == 1) return fill_dense(from, to, -axis.padding);
    const int64_t before = (axis.kernel - 1) * axis.dilation - axis.padding;
    if (axis.transposed && axis.stride == 1) return fill_dense(from, to, -before);
    if (axis.transposed) {
      for (int64_t i = 0; i < length; ++i) to[i] = 0;
      const int64_t begin = before >= 0 ? 0 : ceil_div(-before, axis.stride);
      for (int64_t u = begin; u < axis.sources && u * axis.stride + before < length; ++u)
        to[u * axis.stride + before] = load_one(from + u);
      return;
    }
    for (int64_t phase = 0; phase < phases; ++phase, to += phase_length) {
      // Element q is source q * stride + first.
      const int64_t first = phase - axis.padding;
      const int64_t begin = least(first >= 0 ? 0 : ceil_div(-first, axis.stride), phase_length);
      const int64_t end =
          first < axis.sources ? most(begin, least((axis.sources - 1 - first) / axis.stride + 1, phase_length)) : begin;
      for (int64_t q = 0; q < begin; ++q) to[q] = 0;
      for (int64_t q = begin; q < end; ++q) to[q] = load_one(from + q * axis.stride + first);
      for (int64_t q = end; q < phase_length; ++q) to[q] = 0;
    }
  }

 private:
  // Element q is source q + first.
  template <class T>
  void fill_dense(const T* from, A* to, int64_t first) const {
    constexpr int L = lanes<A>;
    const int64_t begin = least(most(-first, 0), length);
    const int64_t end = most(begin, least(axis.sources - first, length));
    for (int64_t q = 0; q < begin; ++q) to[q] = 0;
    int64_t q = begin;
    for (; q + L <= end; q += L) store(to + q, load(from + q + first));
    for (; q < end; ++q) to[q] = load_one(from + q + first);
    for (; q < length; ++q) to[q] = 0;
  }
};

}  // namespace fastseg::FASTSEG_ISA
