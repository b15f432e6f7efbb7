// The window of a depthwise convolution, channels-last: source pixels of a block of channels in the compute type,
// padded with zeros.
#pragma once
#include "depthwise_ring.h"

namespace fastseg::FASTSEG_ISA {

// Images march along their height as volumes do along their depth: a window of a few rows, and no row is read twice.
inline DepthwiseShape marching_along_height(DepthwiseShape s) {
  if (s.input[Z] != 1 || s.output[Z] != 1 || s.kernel[Z] != 1 || s.padding[Z] != 0) return s;
  int64_t* const axes[] = {s.input, s.output, s.kernel, s.stride, s.padding, s.dilation};
  for (int64_t* axis : axes) {
    const int64_t depth = axis[Z];
    axis[Z] = axis[Y];
    axis[Y] = depth;
  }
  return s;
}

// Channels of a block: 256 bytes of the compute type, or less where a window for eight rows of targets, or of an image
// for one, would not fit the second-level cache. Not less for the planes that tiles of an image add: that was slower
// (1.2 times at 64x384x384). Several blocks are alike as far as whole lines of memory allow.
template <class T>
inline int64_t channels_together(int64_t channels, const Axis& z, const Axis& y, const Axis& x) {
  using A = compute_t<T>;
  constexpr int64_t most_window = 448 * 1024, most_channels = 256 / int64_t(sizeof(A));
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  const int64_t width = x.sources + (x.kernel - 1) * x.dilation;
  const int64_t pixels = z.most_taps() * window_rows(y, least(y.targets, 8)) * width;
  const int64_t fit = least(most_window / (pixels * int64_t(sizeof(A))), most_channels);
  const int64_t all = round_up(channels, lanes<A>);
  if (all <= fit) return all;
  const int64_t blocks = ceil_div(all, most(fit / line * line, lanes<A>));
  return least(round_up(ceil_div(all, blocks), fit < line ? lanes<A> : line), all);
}

// How a source row lies in the window: pixels of `block` channels from source pixel `first` on, zeros around.
template <class T>
struct PixelLayout {
  using A = compute_t<T>;
  int64_t sources, first, width, block, length;
  int64_t pixel_stride;
  int64_t channels = 0;  // of the block that exist

  // `pixels`: how many targets are computed together, past the end of a row too.
  PixelLayout(const Axis& x, int64_t block_, int64_t pixel_stride_, int64_t pixels)
      : sources(x.sources), first(0), width(1), block(block_), pixel_stride(pixel_stride_) {
    int64_t last = 0;
    for (int64_t r = 0; r < x.open_classes(); ++r) {
      const AxisClass at = x.open_at(r);
      if (at.count == 0 || at.taps == 0) continue;
      first = least(first, at.in_first);
      last = most(last, at.in_first + at.in_step * (round_up(at.count, pixels) - 1) + at.in_spacing * (at.taps - 1));
    }
    width = last - first + 1;
    length = width * block;
  }

  // The pixels of a row, whole vectors of them; those around are zero already.
  void fill(const T* from, A* to) const {
    constexpr int L = lanes<A>;
    const int64_t begin = -first, end = least(begin + sources, width);
    if (pixel_stride == block && channels == block) {
      A* pixels = to + begin * block;
      for (int64_t i = 0; i < (end - begin) * block; i += L) store(pixels + i, load(from + i));
      return;
    }
    for (int64_t q = begin; q < end; ++q, from += pixel_stride) {
      A* pixel = to + q * block;
      int64_t c = 0;
      for (; c + L <= channels; c += L) store(pixel + c, load(from + c));
      for (; c < channels; ++c) pixel[c] = load_one(from + c);
      for (; c % L != 0; ++c) pixel[c] = 0;
    }
  }
};

}  // namespace fastseg::FASTSEG_ISA
