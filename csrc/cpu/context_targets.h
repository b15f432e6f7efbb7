// Sums of a block of channels: how they begin, and how they are written, in both layouts, past the caches where that
// pays.
#pragma once
#include "context_packed.h"
#include "norm_channels_last.h"

namespace fastseg::FASTSEG_ISA {

// Begins `pixels` sums of a block of `targets` channels, from `first` on, with their bias, where there is one.
template <class A>
inline void start_sums(const Vector& bias, int64_t first, int64_t targets, int64_t width, int64_t pixels, A* sums) {
  for (int64_t i = 0; i < width; ++i) sums[i] = i < targets ? load_parameter(bias, first + i, A(0)) : A(0);
  for (int64_t p = 1; p < pixels; ++p)
    for (int64_t i = 0; i < width; i += lanes<A>) store(sums + p * width + i, load(sums + i));
}

// The same with what `count` pixels have already, of the type of the sums, from `pixel` on.
template <class A>
inline void read_sums(const View& from, int64_t channel, int64_t channels, int64_t n, int64_t pixel, int64_t count,
                      A* sums, int64_t width) {
  const A* const at = static_cast<const A*>(from.data) + n * from.batch_stride + channel * from.channel_stride +
                      pixel * from.spatial_stride;
  if (from.spatial_stride == 1)
    pixels_of_rows(at, from.channel_stride, channels, count, sums, width);
  else
    copy_pixels(at, from.spatial_stride, channels, count, sums, width);
}

template <bool Stream, class T, class A>
inline void write_sums(const View& to, int64_t channel, int64_t channels, int64_t n, int64_t pixel, int64_t count,
                       const A* sums, int64_t width) {
  constexpr int L = lanes<A>;
  T* at = static_cast<T*>(to.data) + n * to.batch_stride + channel * to.channel_stride + pixel * to.spatial_stride;
  if (to.spatial_stride == 1) {
    rows_of_pixels<Stream>(sums, width, channels, count, at, to.channel_stride);
  } else {
    for (int64_t p = 0; p < count; ++p, at += to.spatial_stride, sums += width) {
      int64_t c = 0;
      for (; c + L <= channels; c += L) store<Stream>(at + c, load(sums + c));
      for (; c < channels; ++c) store_one(at + c, sums[c]);
    }
  }
  if constexpr (Stream) stream_fence();
}

// `count` pixels, from `pixel` on, of `channels` channels, from `channel` on: past the caches where the whole of `to`
// is larger than these (`stream`) and its lines are aligned.
template <class T, class A>
inline void write_sums(const View& to, int64_t channel, int64_t channels, int64_t n, int64_t pixel, int64_t count,
                       const A* sums, int64_t width, bool stream) {
  const bool rows = to.spatial_stride == 1;
  if (stream && (rows ? pixel : channel) % lanes<A> == 0 &&
      lines_aligned<T>(to, rows ? to.channel_stride : to.spatial_stride))
    write_sums<true, T>(to, channel, channels, n, pixel, count, sums, width);
  else
    write_sums<false, T>(to, channel, channels, n, pixel, count, sums, width);
}

}  // namespace fastseg::FASTSEG_ISA
