// Pixels of images as rows of a matrix of adjacent channels in the compute type, and back.
#pragma once
#include "fastseg/cpu/transpose.h"
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// `count` pixels of `channels` to [count][width] in the compute type; zeros behind the last channel, up to `filled`.
template <class T, class A>
inline void copy_pixels(const T* from, int64_t pitch, int64_t channels, int64_t count, A* to, int64_t width,
                        int64_t filled) {
  constexpr int L = lanes<A>;
  // A few channels of pixels that lie far apart are not fetched unasked.
  const int64_t ahead = 8 * pitch;
  for (int64_t p = 0; p < count; ++p, from += pitch, to += width) {
    int64_t c = 0;
    for (; c + L <= channels; c += L) {
      __builtin_prefetch(from + ahead + c);
      store(to + c, load(from + c));
    }
    for (; c < filled; ++c) to[c] = c < channels ? A(load_one(from + c)) : A(0);
  }
}

template <class T, class A>
inline void copy_pixels(const T* from, int64_t pitch, int64_t channels, int64_t count, A* to, int64_t width) {
  copy_pixels(from, pitch, channels, count, to, width, width);
}

// `count` pixels of rows, `channel_stride` apart, to [count][pitch].
template <class T, class A>
inline void pixels_of_rows(const T* from, int64_t channel_stride, int64_t channels, int64_t count, A* to,
                           int64_t pitch) {
  constexpr int L = lanes<A>;
  for (int64_t p = 0; p < count; p += L)
    for (int64_t c = 0; c < channels; c += L) {
      const T* corner = from + c * channel_stride + p;
      if (p + L <= count && c + L <= channels) {
        Vec<A> v[L];
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) v[i] = load(corner + i * channel_stride);
        transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(to + (p + i) * pitch + c, v[i]);
      } else {
        for (int64_t j = c; j < (c + L < channels ? c + L : channels); ++j)
          for (int64_t i = p; i < (p + L < count ? p + L : count); ++i)
            to[i * pitch + j] = load_one(from + j * channel_stride + i);
      }
    }
}

// The inverse: [count][pitch] to rows.
template <bool Stream, class T, class A>
inline void rows_of_pixels(const A* from, int64_t pitch, int64_t channels, int64_t count, T* to,
                           int64_t channel_stride) {
  constexpr int L = lanes<A>;
  for (int64_t c = 0; c < channels; c += L)
    for (int64_t p = 0; p < count; p += L) {
      T* corner = to + c * channel_stride + p;
      if (p + L <= count && c + L <= channels) {
        Vec<A> v[L];
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) v[i] = load(from + (p + i) * pitch + c);
        transpose(v);
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store<Stream>(corner + i * channel_stride, v[i]);
      } else {
        for (int64_t j = c; j < (c + L < channels ? c + L : channels); ++j)
          for (int64_t i = p; i < (p + L < count ? p + L : count); ++i)
            store_one(to + j * channel_stride + i, from[i * pitch + j]);
      }
    }
}

}  // namespace fastseg::FASTSEG_ISA
