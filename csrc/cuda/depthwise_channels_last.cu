// Depthwise convolutions of channels-last images on CUDA: forward and the gradient of the input (without strides), and
// the gradient of the weights.
//
// Floors, with u = one pass over the tensor: 2u of bytes for each of the two, and as many multiply-adds an element as
// there are taps.
//
// A thread has a 16-byte vector of channels. In the convolution it has 32 sums, of 8 (16-bit: 4) neighbouring columns:
// each vector of a source row serves as many of them as the kernel is wide. A CTA has up to 128 bytes of channels by a
// tile of columns and rows, and marches along the depth, so that what its threads share, and its next planes read
// again, is in the first-level cache: (8 + KW - 1) vectors of sources and KW of weights for 8 * KW * 4 multiply-adds,
// for 3 columns of taps about as long as the bytes take. In the gradient of the weights a thread has one row of taps,
// whose sums stay in registers, and walks rows of targets in the same blocks.
#include "fastseg/cuda/depthwise_channels_last.h"
#include "fastseg/cuda/depthwise_launch.h"
#include "fastseg/cuda/depthwise_moments.cuh"
#include "fastseg/cuda/element.cuh"
#include "fastseg/cuda/shared_memory.cuh"

namespace fastseg::cuda {
namespace {

// The block of neighbouring targets along x that thread number `group` works on.
struct ColumnBlock {
  int first, step;  // targets first, first + step, ...
  int source;       // of the first target and tap

  __device__ ColumnBlock(const ChannelsLast& plan, int group, int columns)
      : first(group % plan.x_classes + group / plan.x_classes * columns * plan.x_classes),
        step(plan.x_classes),
        source(first * static_cast<int>(plan.conv.stride[2]) - static_cast<int>(plan.conv.padding[2])) {}
};

// The weights of a CTA's channels to shared memory, [tap][channel of the block].
template <typename T>
__device__ void load_weights(const ChannelsLast& plan, int64_t first_channel, int block, float* weights) {
  const Convolution& conv = plan.conv;
  const int taps = static_cast<int>(conv.taps);
  for (int index = threadIdx.x; index < taps * block; index += depthwise_threads) {
    const int tap = index / block;
    const int64_t channel = first_channel + index % block;
    const int64_t at = channel * taps + (conv.turned ? taps - 1 - tap : tap);
    weights[index] = channel < conv.channels ? widen(static_cast<const T*>(conv.weight)[at]) : 0.0f;
  }
}

template <int KW, int S, int V>
constexpr int ctas_at_once = S == 2 || (KW == 7 && V == 8) ? 2 : 3;

template <typename T, int KW, int S>
__global__ void __launch_bounds__(depthwise_threads, ctas_at_once<KW, S, pack_size<T>>)
    convolve_channels_last(const __grid_constant__ ChannelsLast plan, Moments* partials) {
  constexpr int V = pack_size<T>;
  constexpr int kColumns = channels_last_columns<V>;
  using P = Pack<T, V>;
  const Convolution& conv = plan.conv;
  int64_t rest = blockIdx.x;
  auto take = [&](int64_t count) {
    const int64_t index = rest % count;
    rest /= count;
    return static_cast<int>(index);
  };
  const int slot = static_cast<int>(rest % plan.slots);
  const int x_tile = take(plan.x_tiles), y_tile = take(plan.y_tiles), segment = take(plan.segments);
  const int block = V << plan.vectors_log;
  const int64_t first_channel = static_cast<int64_t>(take(plan.channel_blocks)) * block;
  const int64_t image = rest;

  float* weights = reinterpret_cast<float*>(shared_memory());
  load_weights<T>(plan, first_channel, block, weights);
  __syncthreads();

  const int vector = threadIdx.x & ((1 << plan.vectors_log) - 1);
  const int group = x_tile << plan.columns_log | (threadIdx.x >> plan.vectors_log & ((1 << plan.columns_log) - 1));
  const int y = y_tile * (depthwise_threads >> (plan.vectors_log + plan.columns_log)) +
                (threadIdx.x >> (plan.vectors_log + plan.columns_log));
  const int64_t channel = first_channel + vector * V;
  const ColumnBlock columns(plan, group, kColumns);
  const bool live = channel < conv.channels && group < plan.x_groups && y < conv.out[1];
  const T* source = static_cast<const T*>(conv.source.data) + image * conv.source.batch_stride + channel;
  T* target = static_cast<T*>(conv.target.data) + image * conv.target.batch_stride + channel;
  float bias[V];
#pragma unroll
  for (int v = 0; v < V; ++v) bias[v] = live ? load_element(conv.bias, channel + v, 0.0f) : 0.0f;
  RunningMoments running[V];
  int count = 0;

  const int begin = segment * plan.segment_length;
  const int end = min(begin + plan.segment_length, static_cast<int>(conv.out[0]));
  for (int z = begin; live && z < end; ++z) {
    float sums[kColumns][V] = {};
    for (int kz = 0; kz < conv.kernel[0]; ++kz) {
      const int source_z = static_cast<int>(z * conv.stride[0] - conv.padding[0] + kz * conv.dilation[0]);
      if (source_z < 0 || source_z >= conv.in[0]) continue;
      for (int ky = 0; ky < conv.kernel[1]; ++ky) {
        const int source_y = static_cast<int>(y * conv.stride[1] - conv.padding[1] + ky * conv.dilation[1]);
        if (source_y < 0 || source_y >= conv.in[1]) continue;
        const int tap_row = static_cast<int>(kz * conv.kernel[1]) + ky;
        float w[KW][V];
#pragma unroll
        for (int kx = 0; kx < KW; ++kx) {
#pragma unroll
          for (int v = 0; v < V; v += 4) {
            const Pack<float, 4> four =
                *reinterpret_cast<const Pack<float, 4>*>(weights + (tap_row * KW + kx) * block + vector * V + v);
#pragma unroll
            for (int i = 0; i < 4; ++i) w[kx][v + i] = four[i];
          }
        }
        const T* row = source + (source_z * conv.in[1] + source_y) * conv.in[2] * conv.source.spatial_stride;
#pragma unroll
        for (int j = 0; j < (kColumns - 1) * S + KW; ++j) {
          const int x = columns.source + j * static_cast<int>(conv.dilation[2]);
          if (x < 0 || x >= conv.in[2]) continue;
          const P values = *reinterpret_cast<const P*>(row + x * conv.source.spatial_stride);
#pragma unroll
          for (int t = 0; t < kColumns; ++t) {
            const int kx = j - t * S;
            if (kx < 0 || kx >= KW) continue;
#pragma unroll
            for (int v = 0; v < V; ++v) sums[t][v] = fmaf(w[kx][v], values[v], sums[t][v]);
          }
        }
      }
    }
    T* row = target + (z * conv.out[1] + y) * conv.out[2] * conv.target.spatial_stride;
#pragma unroll
    for (int t = 0; t < kColumns; ++t) {
      const int x = columns.first + t * columns.step;
      if (x >= conv.out[2]) continue;
      float values[V];
#pragma unroll
      for (int v = 0; v < V; ++v) values[v] = sums[t][v] + bias[v];
      const P stored = P::of(values);
      *reinterpret_cast<P*>(row + x * conv.target.spatial_stride) = stored;
      if (partials == nullptr) continue;
#pragma unroll
      for (int v = 0; v < V; ++v) running[v].add(stored[v], count);
      ++count;
    }
  }

  if (partials == nullptr) return;
  __syncthreads();  // the weights' place is needed
  Moments* moments = reinterpret_cast<Moments*>(shared_memory());
  const int workers = depthwise_threads >> plan.vectors_log;
#pragma unroll
  for (int v = 0; v < V; ++v)
    moments[(threadIdx.x >> plan.vectors_log) * block + vector * V + v] = running[v].of(count);
  __syncthreads();
  for (int c = threadIdx.x; c < block; c += depthwise_threads) {
    if (first_channel + c >= conv.channels) continue;
    Moments all;
    for (int worker = 0; worker < workers; ++worker) all.merge(moments[worker * block + c]);
    partials[(image * conv.channels + first_channel + c) * plan.slots + slot] = all;
  }
}

// Partial sums for [batch * slots][channels][taps + 1].
template <typename T, int KW, int S>
__global__ void __launch_bounds__(depthwise_threads, 4)
    correlate_channels_last(const __grid_constant__ ChannelsLast plan, bool with_bias, float* partials) {
  constexpr int V = pack_size<T>;
  constexpr int kColumns = channels_last_columns<V>;
  using P = Pack<T, V>;
  const Convolution& conv = plan.conv;
  int64_t rest = blockIdx.x;
  auto take = [&](int64_t count) {
    const int64_t index = rest % count;
    rest /= count;
    return static_cast<int>(index);
  };
  // CTAs that read the same rows are neighbours.
  const int tap_group = take(plan.tap_groups), segment = take(plan.segments);
  const int block = V << plan.vectors_log;
  const int64_t first_channel = static_cast<int64_t>(take(plan.channel_blocks)) * block;
  const int64_t image = rest;

  const int vector = threadIdx.x & ((1 << plan.vectors_log) - 1);
  const int worker = threadIdx.x >> plan.vectors_log;
  const int tap_row = tap_group * plan.tap_rows + worker % plan.tap_rows;
  const int subpart = worker / plan.tap_rows;
  const int kz = tap_row / static_cast<int>(conv.kernel[1]), ky = tap_row % static_cast<int>(conv.kernel[1]);
  const int64_t channel = first_channel + vector * V;
  const bool live = channel < conv.channels && subpart < plan.subparts && kz < conv.kernel[0];
  const bool counts_bias = with_bias && tap_row == 0;
  // The convolution's source is x and its target grad.
  const T* source = static_cast<const T*>(conv.source.data) + image * conv.source.batch_stride + channel;
  const T* grad = static_cast<const T*>(conv.target.data) + image * conv.target.batch_stride + channel;

  float sums[KW][V] = {}, bias[V] = {};
  const int begin = segment * plan.segment_length;
  const int end = min(begin + plan.segment_length, static_cast<int>(conv.out[0] * conv.out[1]));
  for (int line = begin + subpart; live && line < end; line += plan.subparts) {
    const int z = line / static_cast<int>(conv.out[1]), y = line % static_cast<int>(conv.out[1]);
    const int source_z = static_cast<int>(z * conv.stride[0] - conv.padding[0] + kz * conv.dilation[0]);
    const int source_y = static_cast<int>(y * conv.stride[1] - conv.padding[1] + ky * conv.dilation[1]);
    const bool inside = source_z >= 0 && source_z < conv.in[0] && source_y >= 0 && source_y < conv.in[1];
    if (!inside && !counts_bias) continue;
    const T* grad_row = grad + line * conv.out[2] * conv.target.spatial_stride;
    const T* source_row = source + (source_z * conv.in[1] + source_y) * conv.in[2] * conv.source.spatial_stride;
    for (int group = 0; group < plan.x_groups; ++group) {
      const ColumnBlock columns(plan, group, kColumns);
      P g[kColumns];
#pragma unroll
      for (int t = 0; t < kColumns; ++t) {
        const int x = columns.first + t * columns.step;
        if (x < conv.out[2]) {
          g[t] = *reinterpret_cast<const P*>(grad_row + x * conv.target.spatial_stride);
        } else {
          const float zeros[V] = {};
          g[t] = P::of(zeros);
        }
      }
      if (counts_bias) {
#pragma unroll
        for (int t = 0; t < kColumns; ++t) {
#pragma unroll
          for (int v = 0; v < V; ++v) bias[v] += g[t][v];
        }
      }
      if (!inside) continue;
#pragma unroll
      for (int j = 0; j < (kColumns - 1) * S + KW; ++j) {
        const int x = columns.source + j * static_cast<int>(conv.dilation[2]);
        if (x < 0 || x >= conv.in[2]) continue;
        const P values = *reinterpret_cast<const P*>(source_row + x * conv.source.spatial_stride);
#pragma unroll
        for (int t = 0; t < kColumns; ++t) {
          const int kx = j - t * S;
          if (kx < 0 || kx >= KW) continue;
#pragma unroll
          for (int v = 0; v < V; ++v) sums[kx][v] = fmaf(values[v], g[t][v], sums[kx][v]);
        }
      }
    }
  }

  // [worker][kx, then bias][channel of the block]
  float* shared = reinterpret_cast<float*>(shared_memory());
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int kx = 0; kx < KW; ++kx) shared[(worker * (KW + 1) + kx) * block + vector * V + v] = sums[kx][v];
    shared[(worker * (KW + 1) + KW) * block + vector * V + v] = bias[v];
  }
  __syncthreads();
  const int taps = static_cast<int>(conv.taps);
  for (int index = threadIdx.x; index < plan.tap_rows * (KW + 1) * block; index += depthwise_threads) {
    const int c = index % block, kx = index / block % (KW + 1), row = index / block / (KW + 1);
    const int of = tap_group * plan.tap_rows + row;
    const bool is_bias = kx == KW;
    if (first_channel + c >= conv.channels || of * KW >= taps || (is_bias && of != 0)) continue;
    float sum = 0;
    for (int part = 0; part < plan.subparts; ++part) {
      sum += shared[((part * plan.tap_rows + row) * (KW + 1) + kx) * block + c];
    }
    const int64_t slot = image * plan.slots + segment;
    partials[(slot * conv.channels + first_channel + c) * (taps + 1) + (is_bias ? taps : of * KW + kx)] = sum;
  }
}

}  // namespace

void convolve_channels_last(const ChannelsLast& plan, void* partials, void* stream, Site site) {
  site.kernel = "of channels-last images";
  const int64_t block = packed_elements(plan.conv.source.type) << plan.vectors_log;
  const int64_t workers = depthwise_threads >> plan.vectors_log;
  const int64_t moments = partials != nullptr ? workers * block * static_cast<int64_t>(sizeof(Moments)) : 0;
  const LaunchShape shape = {plan.ctas(), depthwise_threads, std::max(plan.conv.taps * block * 4, moments)};
  for_float_element(plan.conv.source.type, [&](auto element) {
    using T = typename decltype(element)::type;
    for_column_kernel(plan.conv, [&](auto kernel) {
      using K = decltype(kernel);
      const auto run = convolve_channels_last<T, K::width, K::stride>;
      kernel_limits(reinterpret_cast<const void*>(run), depthwise_threads, site);
      launch(run, shape, stream, site, plan, static_cast<Moments*>(partials));
    });
  });
}

void correlate_channels_last(const ChannelsLast& plan, bool with_bias, void* partials, void* stream, Site site) {
  site.kernel = "of channels-last images, gradient of the weights";
  const int64_t vector = packed_elements(plan.conv.source.type);
  const LaunchShape shape = {plan.ctas(), depthwise_threads,
                             depthwise_threads * vector * (plan.conv.kernel[2] + 1) * 4};
  for_float_element(plan.conv.source.type, [&](auto element) {
    using T = typename decltype(element)::type;
    for_column_kernel(plan.conv, [&](auto kernel) {
      using K = decltype(kernel);
      const auto run = correlate_channels_last<T, K::width, K::stride>;
      kernel_limits(reinterpret_cast<const void*>(run), depthwise_threads, site);
      launch(run, shape, stream, site, plan, with_bias, static_cast<float*>(partials));
    });
  });
}

}  // namespace fastseg::cuda
