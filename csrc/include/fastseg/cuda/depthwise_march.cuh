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

// Elements are loaded as bits, so that a load need not be waited for before its value is needed.
__device__ inline float widen_bits(uint32_t bits, Element type) {
  if (type == Element::float32) return __uint_as_float(bits);
  if (type == Element::bfloat16) return __uint_as_float(bits << 16);
  return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
}
__device__ inline uint32_t load_bits(const void* data, int64_t index, Element type) {
  if (type == Element::float32) return static_cast<const uint32_t*>(data)[index];
  return static_cast<const uint16_t*>(data)[index];
}
// The value as it is stored, rounded to 16 bits where the element has no more.
__device__ inline float store_rounded(void* data, int64_t index, float value, Element type) {
  if (type == Element::float32) {
    static_cast<float*>(data)[index] = value;
    return value;
  }
  if (type == Element::bfloat16) {
    const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
    static_cast<__nv_bfloat16*>(data)[index] = rounded;
    return widen(rounded);
  }
  const __half rounded = __float2half_rn(value);
  static_cast<__half*>(data)[index] = rounded;
  return widen(rounded);
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
template <int kAhead>
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
      int line;
      locate(threadIdx.x + n * depthwise_threads, offset_[n], line);
      if (n % 4 == 0) lines_[n / 4] = 0;
      lines_[n / 4] |= static_cast<unsigned>(line) << n % 4 * 8;
    }
  }

  __device__ int elements() const { return of_channel_ << march_.planes_log; }

  // Asks for the tile of source plane z whose first row is y; rows and columns outside of the image are zeros.
  __device__ void ask(int z, int y) {
    z_ = z;
    y_ = y;
    if (source_.type == Element::float32) {
      ask_for<uint32_t>();
    } else {
      ask_for<uint16_t>();
    }
  }

  __device__ void store(float* buffer) const {
    const int count = elements();
#pragma unroll
    for (int n = 0; n < kAhead; ++n) {
      const int index = threadIdx.x + n * depthwise_threads;
      if (index < count) buffer[index] = widen_bits(held_[n], source_.type);
    }
    const int64_t origin = this->origin();
    for (int index = threadIdx.x + kAhead * depthwise_threads; index < count; index += depthwise_threads) {
      int offset, line;
      locate(index, offset, line);
      buffer[index] =
          inside(line) ? widen_bits(load_bits(source_.data, origin + offset, source_.type), source_.type) : 0.0f;
    }
  }

 private:
  template <typename Bits>
  __device__ void ask_for() {
    const Bits* data = static_cast<const Bits*>(source_.data) + origin();
#pragma unroll
    for (int n = 0; n < kAhead; ++n) held_[n] = inside(lines_[n / 4] >> n % 4 * 8 & outside) ? data[offset_[n]] : 0;
  }
  static constexpr int outside = 255;  // in place of the line: an element that no image has

  // The offset of an element of the tile from its origin, and its line.
  __device__ void locate(int index, int& offset, int& line) const {
    const int channel = index / of_channel_;
    const int rest = index - channel * of_channel_;
    line = rest / march_.source_columns;
    const int column = rest - line * march_.source_columns;
    const int width = static_cast<int>(march_.conv.in[2]);
    const bool there = channel < channels_ && x_origin_ + column >= 0 && x_origin_ + column < width;
    offset = there ? channel_offsets_[channel] + line * march_.y_step * width + column : 0;
    if (!there) line = outside;
  }
  __device__ bool inside(int line) const {
    return line != outside &&
           static_cast<unsigned>(y_ + line * march_.y_step) < static_cast<unsigned>(march_.conv.in[1]);
  }
  __device__ int64_t origin() const {
    return first_ + (static_cast<int64_t>(z_) * march_.conv.in[1] + y_) * march_.conv.in[2] + x_origin_;
  }

  const March& march_;
  const View& source_;
  int64_t first_;
  int x_origin_, channels_, of_channel_;
  const int* channel_offsets_;
  int z_ = 0, y_ = 0;
  int offset_[kAhead];
  unsigned lines_[(kAhead + 3) / 4];  // a byte each
  uint32_t held_[kAhead];
};

// Weights to shared memory, [channel][kx][kz][ky padded]; kernels that are turned round come turned round.
template <int KD, int KH>
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
      value = widen_bits(load_bits(conv.weight, at, conv.source.type), conv.source.type);
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
