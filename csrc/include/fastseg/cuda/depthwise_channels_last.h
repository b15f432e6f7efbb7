// How the channels-last kernels of the depthwise family are spread over the device. Host code without a CUDA call and
// without asking for the device; the numbers to tune are all here.
#pragma once
#include <initializer_list>

#include "fastseg/cuda/depthwise_convolution.h"

namespace fastseg::cuda {

constexpr int packed_elements(Element type) { return type == Element::float32 ? 4 : 8; }  // of 16 bytes

// Neighbouring targets of one thread, along x: 32 sums with the channels of a 16-byte vector.
template <int kVector>
constexpr int channels_last_columns = 32 / kVector;

// Columns whose sources lie on one grid form a class, in which the convolution is not dilated.
struct ChannelsLast {
  Convolution conv;
  int vectors_log;  // of 16 bytes, in a CTA's block of channels
  int channel_blocks;
  int x_classes, x_groups;  // groups of one thread's columns, of all classes
  // Convolution: threads beside each other have groups of columns, then rows; a CTA marches along a segment of planes.
  int columns_log, x_tiles, y_tiles;
  // Gradient of the weights: a thread has one row of taps along x, and walks rows of targets.
  int tap_rows, tap_groups, subparts;  // of a CTA; CTAs for all; threads that share a row of taps
  int segments, segment_length;        // of planes, or of rows of targets
  int64_t slots;                       // CTAs of one image and block of channels that leave partial sums of their own

  int64_t ctas() const { return conv.batch * channel_blocks * slots * tap_groups; }
};

template <int K, int S>
struct ColumnKernel {
  static constexpr int width = K, stride = S;
};
// Calls f(kernel width, stride) for the compiled kernel of a convolution; false where there is none.
template <typename F>
bool for_column_kernel(const Convolution& conv, F f) {
  const int64_t k = conv.kernel[2], s = conv.stride[2];
  if (s > 1 && conv.dilation[2] > 1) return false;
  if (k == 1 && s == 1) return f(ColumnKernel<1, 1>()), true;
  if (k == 3 && s == 1) return f(ColumnKernel<3, 1>()), true;
  if (k == 3 && s == 2) return f(ColumnKernel<3, 2>()), true;
  if (k == 5 && s == 1) return f(ColumnKernel<5, 1>()), true;
  if (k == 5 && s == 2) return f(ColumnKernel<5, 2>()), true;
  if (k == 7 && s == 1) return f(ColumnKernel<7, 1>()), true;
  if (k == 7 && s == 2) return f(ColumnKernel<7, 2>()), true;
  return false;
}

// Whether every pixel of every tensor is whole 16-byte vectors.
inline bool takes_vectors(const Convolution& conv, std::initializer_list<View> views) {
  for (const View& view : views) {
    if (!view) continue;
    const int64_t size = element_size(view.type);
    if ((reinterpret_cast<uintptr_t>(view.data) | view.spatial_stride * size | conv.channels * size |
         (conv.batch > 1 ? view.batch_stride * size : 0)) %
            16 !=
        0) {
      return false;
    }
  }
  return true;
}

// Whether the channels-last kernels can take a convolution, and how; `gradient`: of the weights.
inline bool plan_channels_last(const Convolution& conv, Element type, bool gradient, ChannelsLast& plan) {
  if (type == Element::float64 || conv.multiplier != 1) return false;
  if (!for_column_kernel(conv, [](auto) {})) return false;
  for (int axis = 0; axis < 3; ++axis) {
    if (conv.in[axis] + conv.padding[axis] > largest_offset / 4 || conv.out[axis] > largest_offset / 4) return false;
  }
  const int64_t vector = packed_elements(type);
  if (conv.channels % vector != 0) return false;
  plan.conv = conv;
  const int64_t vectors = conv.channels / vector;
  // 128 bytes of a pixel for the convolution; half of that leaves more threads for rows of taps.
  plan.vectors_log = std::min(log2_up(vectors), gradient ? 2 : 3);
  plan.channel_blocks = static_cast<int>(ceil_div(vectors, int64_t{1} << plan.vectors_log));
  const int threads_log = log2_up(depthwise_threads);
  const int64_t columns = 32 / vector;
  plan.x_classes = static_cast<int>(std::min(conv.dilation[2], conv.out[2]));
  plan.x_groups = static_cast<int>(ceil_div(ceil_div(conv.out[2], plan.x_classes), columns) * plan.x_classes);
  plan.columns_log = std::min(log2_up(plan.x_groups), threads_log - plan.vectors_log);
  plan.x_tiles = static_cast<int>(ceil_div(plan.x_groups, int64_t{1} << plan.columns_log));
  plan.y_tiles = static_cast<int>(ceil_div(conv.out[1], depthwise_threads >> (plan.vectors_log + plan.columns_log)));
  plan.tap_groups = 1;
  if (gradient) {
    const int64_t tap_rows = conv.kernel[0] * conv.kernel[1];
    const int64_t workers = depthwise_threads >> plan.vectors_log;
    plan.tap_groups = static_cast<int>(ceil_div(tap_rows, workers));
    plan.tap_rows = static_cast<int>(ceil_div(tap_rows, plan.tap_groups));
    plan.subparts = static_cast<int>(workers / plan.tap_rows);
    const int64_t rows = conv.out[0] * conv.out[1];
    if (rows > largest_offset) return false;
    const int64_t wanted = ceil_div(enough_ctas, conv.batch * plan.channel_blocks * plan.tap_groups);
    plan.segment_length = static_cast<int>(ceil_div(rows, std::min(wanted, ceil_div(rows, plan.subparts))));
    plan.segments = static_cast<int>(ceil_div(rows, plan.segment_length));
    plan.slots = plan.segments;
  } else {
    const int64_t tiles = int64_t{plan.x_tiles} * plan.y_tiles;
    const int64_t wanted = ceil_div(enough_ctas, conv.batch * plan.channel_blocks * tiles);
    plan.segment_length = static_cast<int>(ceil_div(conv.out[0], std::min(wanted, conv.out[0])));
    plan.segments = static_cast<int>(ceil_div(conv.out[0], plan.segment_length));
    plan.slots = tiles * plan.segments;
    if (conv.taps * vector * 4 << plan.vectors_log > 96 * 1024) return false;
  }
  return plan.ctas() <= largest_offset;
}

}  // namespace fastseg::cuda
