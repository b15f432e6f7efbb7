// The pixels of all images of a View, counted through, as rows of a matrix of adjacent channels in the compute type.
#pragma once
#include "fastseg/cpu/vec.h"
#include "fastseg/tensor.h"
#include "pixel_copies.h"

namespace fastseg::FASTSEG_ISA {

// Whether the pixels of a channel lie beside each other. Of a single pixel, or channel, it does not matter.
inline bool in_rows(const View& v) { return v.channel_stride != 1 && v.spatial_stride == 1; }

template <class T>
struct ImagePixels {
  using A = compute_t<T>;

  View view;
  int64_t pixels;  // of an image

  // Whether products can read the channels of a pixel as they lie.
  bool as_they_lie() const { return std::is_same_v<T, A> && !in_rows(view); }
  T* at(int64_t n, int64_t pixel) const {
    return static_cast<T*>(view.data) + n * view.batch_stride + pixel * view.spatial_stride;
  }

  // Channels of pixels to [count][pitch].
  void copy(int64_t first, int64_t count, int64_t channel, int64_t channels, A* to, int64_t pitch) const {
    for (int64_t here; count > 0; first += here, count -= here, to += here * pitch) {
      const int64_t p = first % pixels;
      here = count < pixels - p ? count : pixels - p;
      const T* const from = at(first / pixels, p) + channel * view.channel_stride;
      if (in_rows(view))
        pixels_of_rows(from, view.channel_stride, channels, here, to, pitch);
      else
        copy_pixels(from, view.spatial_stride, channels, here, to, pitch);
    }
  }
};

}  // namespace fastseg::FASTSEG_ISA
