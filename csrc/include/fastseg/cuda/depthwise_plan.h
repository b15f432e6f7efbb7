// How the rows kernels of the depthwise family are spread over the device. Host code without a CUDA call and without
// asking for the device, so that the workspace of a call is known beforehand; the numbers to tune are all here.
#pragma once
#include <algorithm>
#include <cstdint>

#include "fastseg/cuda/depthwise_convolution.h"

namespace fastseg::cuda {

constexpr int march_rows = 8;                     // of targets for one thread of the rows kernels
constexpr int64_t most_shared_bytes = 96 * 1024;  // two CTAs on a multiprocessor

// Targets whose sources lie on one grid form a class, in which the convolution is not dilated. Within a class, target i
// and tap k take source i * stride + k. A CTA marches through a segment of one class of planes, with a tile of one
// class of rows; a kernel of depth 1 has no planes to keep, and marches through the tiles of all planes instead.
struct March {
  Convolution conv;
  int kernel_x, stride_x, dilation_x;
  int y_step, z_step;  // between neighbouring sources of a class
  int y_classes, z_classes, segments, segment_length;
  int x_tiles, y_tiles;                   // y_tiles of one class
  int lanes_log, groups_log, planes_log;  // how a CTA's threads lie: columns, groups of march_rows rows, channels
  int source_rows, source_columns;        // of a tile of one channel, halo included
  int tile_floats;                        // of a tile of all channels, and no less than threads hold ahead
  int64_t shared_floats;                  // of the weights, a number for each channel, and two tiles
  int64_t slots;                          // CTAs of one group of channels
  int64_t groups;                         // of channels
  int columns, rows, channels;            // of targets, of a CTA
};

// Taps along y of a weight in shared memory: filled up to what one or two 16-byte loads take.
constexpr int padded_taps(int taps) { return taps <= 1 ? 1 : taps <= 4 ? 4 : 8; }
template <int KH>
constexpr int padded = padded_taps(KH);

// Elements of the next tile that a thread holds: as many as give it 32 by 32 targets and their halo.
constexpr int held_elements(int taps) { return taps <= 3 ? 10 : taps <= 5 ? 11 : 12; }
template <int KH>
constexpr int held = held_elements(KH);

// Calls f(KD, KH, SZ, SY as integral constants) for the compiled kernel of a convolution; false where there is none.
template <int KD, int KH, int SZ, int SY>
struct MarchKernel {
  static constexpr int depth = KD, height = KH, z_stride = SZ, y_stride = SY;
};
template <typename F>
bool for_march_kernel(const Convolution& conv, F f) {
  const bool flat = conv.kernel[0] == 1;  // then planes are independent, whatever their stride
  if (conv.stride[1] > 1 && conv.dilation[1] > 1) return false;
  if (!flat && conv.stride[0] > 1 && conv.dilation[0] > 1) return false;
  const int64_t z_stride = flat ? 1 : conv.stride[0];
  auto is = [&](int64_t kd, int64_t kh, int64_t sz, int64_t sy) {
    return conv.kernel[0] == kd && conv.kernel[1] == kh && z_stride == sz && conv.stride[1] == sy;
  };
  if (is(1, 1, 1, 1)) return f(MarchKernel<1, 1, 1, 1>()), true;
  if (is(1, 3, 1, 1)) return f(MarchKernel<1, 3, 1, 1>()), true;
  if (is(1, 3, 1, 2)) return f(MarchKernel<1, 3, 1, 2>()), true;
  if (is(1, 5, 1, 1)) return f(MarchKernel<1, 5, 1, 1>()), true;
  if (is(1, 5, 1, 2)) return f(MarchKernel<1, 5, 1, 2>()), true;
  if (is(1, 7, 1, 1)) return f(MarchKernel<1, 7, 1, 1>()), true;
  if (is(1, 7, 1, 2)) return f(MarchKernel<1, 7, 1, 2>()), true;
  if (is(3, 1, 1, 1)) return f(MarchKernel<3, 1, 1, 1>()), true;
  if (is(3, 3, 1, 1)) return f(MarchKernel<3, 3, 1, 1>()), true;
  if (is(3, 3, 2, 2)) return f(MarchKernel<3, 3, 2, 2>()), true;
  if (is(5, 5, 1, 1)) return f(MarchKernel<5, 5, 1, 1>()), true;
  if (is(5, 5, 2, 2)) return f(MarchKernel<5, 5, 2, 2>()), true;
  if (is(7, 7, 1, 1)) return f(MarchKernel<7, 7, 1, 1>()), true;
  if (is(7, 7, 2, 2)) return f(MarchKernel<7, 7, 2, 2>()), true;
  return false;
}

// Whether the rows kernels can take a convolution, and how.
inline bool plan_march(const Convolution& conv, Element type, March& march) {
  if (type == Element::float64) return false;  // its users check gradients: the general kernel will do
  if (!for_march_kernel(conv, [](auto) {})) return false;
  march.conv = conv;
  const bool flat = conv.kernel[0] == 1;
  march.kernel_x = static_cast<int>(conv.kernel[2]);
  march.stride_x = static_cast<int>(conv.stride[2]);
  march.dilation_x = static_cast<int>(conv.dilation[2]);
  march.y_step = static_cast<int>(conv.dilation[1]);
  march.z_step = static_cast<int>(flat ? conv.stride[0] : conv.dilation[0]);
  march.y_classes = static_cast<int>(std::min(conv.dilation[1], conv.out[1]));
  march.z_classes = flat ? 1 : static_cast<int>(std::min(conv.dilation[0], conv.out[0]));

  // Columns: the widest tile, unless a narrower one leaves fewer lanes idle. Rows: as the image has.
  const int64_t width = conv.out[2], height = ceil_div(conv.out[1], march.y_classes);
  auto covered = [&](int log) { return ceil_div(width, 1 << log) << log; };
  march.lanes_log = 5;
  for (int log : {4, 3}) {
    if (covered(log) * 8 < covered(march.lanes_log) * 7) march.lanes_log = log;
  }
  const int threads_log = log2_up(depthwise_threads);
  const bool wide_source = conv.stride[1] > 1;
  march.groups_log =
      std::min({log2_up(ceil_div(height, march_rows)), threads_log - march.lanes_log, wide_source ? 1 : 7});
  march.planes_log = threads_log - march.lanes_log - march.groups_log;
  march.columns = 1 << march.lanes_log;
  march.rows = march_rows << march.groups_log;
  march.channels = 1 << march.planes_log;
  march.x_tiles = static_cast<int>(ceil_div(width, march.columns));
  march.y_tiles = static_cast<int>(ceil_div(height, march.rows));

  const int64_t source_rows = (march.rows - 1) * conv.stride[1] + conv.kernel[1];
  const int64_t source_columns = (march.columns - 1) * conv.stride[2] + (conv.kernel[2] - 1) * conv.dilation[2] + 1;
  const int64_t weights = conv.kernel[2] * conv.kernel[0] * padded_taps(static_cast<int>(conv.kernel[1]));
  const int64_t ahead = int64_t{held_elements(static_cast<int>(conv.kernel[1]))} * depthwise_threads;
  const int64_t tile_floats = std::max(march.channels * source_rows * source_columns, ahead);
  march.shared_floats = march.channels * (weights + 1) + 2 * tile_floats;
  if (march.shared_floats * 4 > most_shared_bytes) return false;
  march.tile_floats = static_cast<int>(tile_floats);
  march.source_rows = static_cast<int>(source_rows);
  march.source_columns = static_cast<int>(source_columns);

  // Offsets within the planes of a CTA are 32-bit.
  const int64_t plane = conv.in[1] * conv.in[2];
  const int64_t reach = (march.channels - 1) * (conv.source.channel_stride + conv.source.batch_stride);
  if (plane + reach > largest_offset || conv.out[1] * conv.out[2] > largest_offset) return false;
  for (int64_t size : {conv.in[1], conv.padding[0], conv.padding[1]}) {
    if (size > largest_offset / 2) return false;
  }

  march.groups = ceil_div(conv.rows(), march.channels);
  const int64_t tiles = int64_t{march.x_tiles} * march.y_classes;
  if (flat) {
    const int64_t steps = conv.out[0] * march.y_tiles;
    const int64_t wanted = ceil_div(enough_ctas, std::max<int64_t>(1, march.groups * tiles));
    march.segment_length = static_cast<int>(ceil_div(steps, std::min(wanted, steps)));
    march.segments = static_cast<int>(ceil_div(steps, march.segment_length));
    march.slots = tiles * march.segments;
  } else {
    // A segment reads the planes between it and the next one again, so it is kept long in comparison.
    const int64_t planes = ceil_div(conv.out[0], march.z_classes);
    const int64_t base = march.groups * tiles * march.y_tiles * march.z_classes;
    const int64_t most = std::max<int64_t>(1, planes / (4 * (conv.kernel[0] - 1)));
    const int64_t wanted = std::min(ceil_div(enough_ctas, base), most);
    march.segment_length = static_cast<int>(ceil_div(planes, wanted));
    march.segments = static_cast<int>(ceil_div(planes, march.segment_length));
    march.slots = tiles * march.y_tiles * march.z_classes * march.segments;
  }
  return march.slots <= largest_offset;
}

}  // namespace fastseg::cuda
