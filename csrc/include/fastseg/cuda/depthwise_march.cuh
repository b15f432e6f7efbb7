// What the rows kernels of the depthwise family share: a CTA's place, its threads' places in it, and how tiles of the
// source come into shared memory.
#pragma once
#include "fastseg/cuda/depthwise_plan.h"
#include "fastseg/cuda/element.cuh"
#include "fastseg/cuda/shared_memory.cuh"

namespace fastseg::cuda {

// The number itself. What depends on it is not computed ahead of a loop, where its results would hold registers that
// the sums need.
__device__ inline int opaque(int number) {
  asm volatile("" : "+r"(number));
  return number;
}
// Likewise of a pointer into device memory: offsets are added to it, and not to what it was made of.
template <typename T>
__device__ inline const T* opaque(const T* pointer) {
  asm volatile("" : "+l"(pointer));
#ifdef __CUDACC__
  __builtin_assume(__isGlobal(pointer));
#endif
  return pointer;
}

// The work of one CTA.
struct MarchPlace {
  int64_t first_row;  // of (batch, target channel), the first of the CTA's
  int64_t slot;       // among the CTAs of that group of channels
  int x_tile, y_class, y_tile, z_class;
  int begin, end;  // of the march: target planes of the class, or for flat kernels (plane, tile) pairs

  __device__ MarchPlace(const March& march, int64_t first_group, bool flat) {
    const int64_t cta = blockIdx.x;
    first_row = (first_group + cta / march.slots) << march.planes_log;
    slot = cta % march.slots;
    int rest = static_cast<int>(slot);
    auto take = [&](int count) {
      const int index = rest % count;
      rest /= count;
      return index;
    };
    x_tile = take(march.x_tiles);
    y_tile = flat ? 0 : take(march.y_tiles);
    y_class = take(march.y_classes);
    const int segment = take(march.segments);
    z_class = rest;
    const int64_t out = march.conv.out[0];
    const int steps = flat ? static_cast<int>(out * march.y_tiles)
                           : static_cast<int>((out - z_class + march.z_classes - 1) / march.z_classes);
    begin = min(segment * march.segment_length, steps);
    end = min(begin + march.segment_length, steps);
  }
};

// Where a row of (batch, target channel) begins, in elements.
__device__ inline int64_t source_offset(const March& march, int64_t row) {
  const Convolution& conv = march.conv;
  return row / conv.channels * conv.source.batch_stride +
         row % conv.channels / conv.multiplier * conv.source.channel_stride;
}
__device__ inline int64_t row_offset(const View& view, int64_t channels, int64_t row) {
  return row / channels * view.batch_stride + row % channels * view.channel_stride;
}

// A thread's column, group of rows and channel in its CTA.
struct MarchThread {
  int lane, group, channel;

  __device__ explicit MarchThread(const March& march)
      : lane(threadIdx.x & (march.columns - 1)),
        group(threadIdx.x >> march.lanes_log & ((1 << march.groups_log) - 1)),
        channel(threadIdx.x >> (march.lanes_log + march.groups_log)) {}
};

// Brings the tiles of a march from memory to buffers in shared memory, as floats. A thread's first kAhead elements wait
// in registers, on their way while the tile before is worked on.
template <typename T, int kAhead>
class TileLoader {
 public:
  // All threads construct theirs together; `channel_offsets` takes one for each channel of the CTA.
  __device__ TileLoader(const March& march, const MarchPlace& place, int* channel_offsets)
      : march_(march),
        source_(march.conv.source),
        first_(source_offset(march, place.first_row)),
        x_origin_(place.x_tile * march.columns * march.stride_x - static_cast<int>(march.conv.padding[2])),
        channels_(static_cast<int>(
            min(static_cast<int64_t>(march.channels), march.conv.batch * march.conv.channels - place.first_row))),
        of_channel_(march.source_rows * march.source_columns),
        channel_offsets_(channel_offsets) {
    if (threadIdx.x < static_cast<unsigned>(channels_)) {
      channel_offsets[threadIdx.x] = static_cast<int>(source_offset(march, place.first_row + threadIdx.x) - first_);
    }
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      locate(threadIdx.x + n * depthwise_threads, offset_[n], row_[n]);
    }
  }

  // Asks for the tile of source plane z whose first row is y; rows and columns outside of the image are zeros.
  __device__ void ask(int z, int y) {
    z_ = z;
    y_ = y;
    const T* data = opaque(this->data());
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      held_[n] = inside(row_[n]) ? data[offset_[n]] : narrow<T>(0);
    }
  }

  // A buffer has room for all that threads hold, also where the tile has less.
  __device__ void store(float* buffer) const {
#pragma unroll
    for (int n = 0; n < kAhead; ++n) buffer[threadIdx.x + n * depthwise_threads] = widen(held_[n]);
    const int count = of_channel_ << march_.planes_log;
    const T* data = this->data();
#pragma unroll 1
    for (int index = threadIdx.x + kAhead * depthwise_threads; index < count; index += depthwise_threads) {
      int offset, row;
      locate(index, offset, row);
      buffer[index] = inside(row) ? widen(data[offset]) : 0.0f;
    }
  }

 private:
  static constexpr int nowhere = -2147483647 - 1;  // a row that no image has, from wherever a tile begins

  // The offset of an element of the tile from its origin, and how many rows of the image lie between them.
  __device__ void locate(int index, int& offset, int& row) const {
    const int channel = index / of_channel_;
    const int rest = index - channel * of_channel_;
    const int line = rest / march_.source_columns;
    const int column = rest - line * march_.source_columns;
    const int width = static_cast<int>(march_.conv.in[2]);
    const bool there = channel < channels_ && x_origin_ + column >= 0 && x_origin_ + column < width;
    row = there ? line * march_.y_step : nowhere;
    offset = there ? channel_offsets_[channel] + row * width + column : 0;
  }
  __device__ bool inside(int row) const {
    return static_cast<unsigned>(y_) + static_cast<unsigned>(row) < static_cast<unsigned>(march_.conv.in[1]);
  }
  // Where the tile's first element is, or would be.
  __device__ const T* data() const {
    return static_cast<const T*>(source_.data) + first_ +
           (static_cast<int64_t>(z_) * march_.conv.in[1] + y_) * march_.conv.in[2] + x_origin_;
  }

  const March& march_;
  const View& source_;
  int64_t first_;
  int x_origin_, channels_, of_channel_;
  const int* channel_offsets_;
  int z_ = 0, y_ = 0;
  int offset_[kAhead], row_[kAhead];
  T held_[kAhead];
};

// Weights to shared memory, [channel][kx][kz][ky padded]; kernels that are turned round come turned round.
template <typename T, int KD, int KH>
__device__ inline void load_weights(const March& march, const MarchPlace& place, float* weights) {
  constexpr int kPadded = padded<KH>;
  const Convolution& conv = march.conv;
  const int of_channel = march.kernel_x * KD * kPadded;
  const int taps = KD * KH * march.kernel_x;
  for (int index = threadIdx.x; index < of_channel << march.planes_log; index += depthwise_threads) {
    const int channel = index / of_channel;
    const int ky = index % kPadded, kz = index / kPadded % KD, kx = index / (kPadded * KD) % march.kernel_x;
    const int64_t row = place.first_row + channel;
    float value = 0;
    if (ky < KH && row < conv.batch * conv.channels) {
      const int tap = (kz * KH + ky) * march.kernel_x + kx;
      const int64_t at = row % conv.channels * taps + (conv.turned ? taps - 1 - tap : tap);
      value = widen(static_cast<const T*>(conv.weight)[at]);
    }
    weights[index] = value;
  }
}

// The taps along y of one weight.
template <int KH>
__device__ inline void read_weights(const float* weights, float (&w)[padded<KH>]) {
  if constexpr (KH == 1) {
    w[0] = weights[0];
  } else {
#pragma unroll
    for (int k = 0; k < padded<KH>; k += 4) {
      const Pack<float, 4> four = *reinterpret_cast<const Pack<float, 4>*>(weights + k);
#pragma unroll
      for (int i = 0; i < 4; ++i) w[k + i] = four[i];
    }
  }
}

}  // namespace fastseg::cuda
