// Panels: some pixels of all channels as [channels][pitch] in the compute type, from tensors of either layout.
#pragma once
#include "fastseg/cpu/transpose.h"
#include "pointwise_rows.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
inline T* pixel_of_sample(const View& v, int64_t n, int64_t pixel) {
  return static_cast<T*>(v.data) + n * v.batch_stride + pixel * v.spatial_stride;
}

// Pixels [first, first + count) of sample n, zeros behind them to a multiple of a vector.
template <class T>
inline void load_panel(const View& v, int64_t n, int64_t first, int64_t channels, int64_t count, compute_t<T>* to,
                       int64_t pitch) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const T* from = pixel_of_sample<const T>(v, n, first);
  if (v.spatial_stride == 1) return copy_panel(from, v.channel_stride, channels, count, to, pitch);
  for (int64_t p = 0; p < count; p += L, from += L * v.spatial_stride)
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t width = channels - c < L ? channels - c : L;
      Vec<A> square[L] = {};
      for (int i = 0; i < L && p + i < count; ++i) square[i] = load_part(from + i * v.spatial_stride + c, width);
      transpose(square);
      for (int i = 0; i < width; ++i) store(to + (c + i) * pitch + p, square[i]);
    }
}

// The way back, to channels-last.
template <bool Stream, class T>
inline void store_pixels(const compute_t<T>* panel, int64_t pitch, int64_t channels, int64_t count, T* to,
                         int64_t pixel_stride) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  for (int64_t p = 0; p < count; p += L, to += L * pixel_stride)
    for (int64_t c = 0; c < channels; c += L) {
      const int64_t width = channels - c < L ? channels - c : L;
      Vec<A> square[L] = {};
      for (int i = 0; i < width; ++i) square[i] = load(panel + (c + i) * pitch + p);
      transpose(square);
      for (int i = 0; i < L && p + i < count; ++i) store_part<Stream>(to + i * pixel_stride + c, square[i], width);
    }
}

}  // namespace fastseg::FASTSEG_ISA
