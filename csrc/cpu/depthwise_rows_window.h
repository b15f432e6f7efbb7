// The window of a depthwise convolution over rows: source rows in the compute type, padded with zeros, each element at
// the distance 1 from what the next target reads. What reads the window needs no bounds, no conversion and no stride.
#pragma once
#include "depthwise_ring.h"

namespace fastseg::FASTSEG_ISA {

// How a source row lies in the window. A convolution with stride s has s phases, each with every s-th element. A
// transposed one has a single phase, with s - 1 zeros after each element. Without stride the row begins at a vector's
// boundary, so that it is copied without crossing cache lines, and the zeros behind it are those before the next row.
template <class A>
struct RowLayout {
  Axis axis;
  int64_t phases, phase_length, length;

  explicit RowLayout(const Axis& x) : axis(x) {
    const int64_t width = round_up(x.targets, lanes<A>), reach = (x.kernel - 1) * x.dilation;
    phases = x.transposed ? 1 : x.stride;
    phase_length = round_up(width + (x.transposed ? reach : reach / x.stride) + 1, lanes<A>);
    if (x.stride == 1) {
      zeros_ = x.transposed ? reach - x.padding : x.padding;
      shift_ = zeros_ > 0 ? round_up(zeros_, lanes<A>) - zeros_ : 0;
      const int64_t lead = most(shift_ + zeros_, 0), read = shift_ + width + reach;
      end_ = least(shift_ + zeros_ + x.sources, read);
      phase_length = round_up(most(end_, read - lead), lanes<A>);
    }
    length = phases * phase_length;
  }

  // Where a row's target 0 finds its tap k; target i finds it i further on, at most a row's length behind its end.
  int64_t offset(int64_t k) const {
    const int64_t at = k * axis.dilation;
    return axis.transposed ? shift_ + at : at % axis.stride * phase_length + at / axis.stride + shift_;
  }

  // The elements of a row; what lies between them is zero already.
  template <class T>
  void fill(const T* from, A* to) const {
    if (axis.stride == 1) return fill_dense(from, to);
    const int64_t before = (axis.kernel - 1) * axis.dilation - axis.padding;
    if (axis.transposed) {
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
      for (int64_t q = begin; q < end; ++q) to[q] = load_one(from + q * axis.stride + first);
    }
  }

 private:
  template <class T>
  void fill_dense(const T* from, A* to) const {
    constexpr int L = lanes<A>;
    const int64_t before = shift_ + zeros_;
    int64_t q = most(before, 0);
    for (; q + L <= end_; q += L) store(to + q, load(from + (q - before)));
    for (; q < end_; ++q) to[q] = load_one(from + (q - before));
  }

  // Without stride: zeros that target 0 reads before source 0, if not negative; what stands before those; and where the
  // row's elements end.
  int64_t zeros_ = 0, shift_ = 0, end_ = 0;
};

}  // namespace fastseg::FASTSEG_ISA
