// Depthwise convolutions of any kernel, stride, dilation, multiplier, layout and dtype on CUDA, for what the kernels of
// rows and channels-last images do not take: float64, strides in a gradient, channel multipliers in the gradient of the
// input, kernels of even or large size. Sources come from the first-level cache, one load for each multiply-add.
//
// Floors, with u = one pass over the tensor: 2u of bytes, and a load and a multiply-add for each tap of an element. The
// loads decide.
#include "fastseg/cuda/depthwise_launch.h"
#include "fastseg/cuda/element.cuh"
#include "fastseg/cuda/reduce.cuh"
#include "fastseg/cuda/shared_memory.cuh"

namespace fastseg::cuda {
namespace {

constexpr int taps_at_once = 8;  // along x, of one thread in the gradient of the weights

struct Element3 {
  int64_t batch, channel, z, y, x;
};

// Element `index` of (batch, channels, *size), neighbours along the axis that is dense in memory.
__device__ Element3 element_of(int64_t index, int64_t channels, const int64_t (&size)[3], bool channels_last) {
  Element3 at;
  auto take = [&](int64_t count) {
    // 64-bit division takes several times as long.
    const bool small = (index | count) >> 32 == 0;
    const int64_t quotient = small ? static_cast<uint32_t>(index) / static_cast<uint32_t>(count) : index / count;
    const int64_t rest = index - quotient * count;
    index = quotient;
    return rest;
  };
  if (channels_last) at.channel = take(channels);
  at.x = take(size[2]);
  at.y = take(size[1]);
  at.z = take(size[0]);
  if (!channels_last) at.channel = take(channels);
  at.batch = index;
  return at;
}

__device__ int64_t pixel(const int64_t (&size)[3], int64_t z, int64_t y, int64_t x) {
  return (z * size[1] + y) * size[2] + x;
}

template <typename T>
__device__ const T* channel_of(const View& view, int64_t batch, int64_t channel) {
  return static_cast<const T*>(view.data) + batch * view.batch_stride + channel * view.channel_stride;
}

template <typename T>
__global__ void __launch_bounds__(depthwise_threads, 4)
    convolve_any(const __grid_constant__ Convolution conv, int64_t elements, bool channels_last) {
  using C = compute_t<T>;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < elements; index += stride) {
    const Element3 at = element_of(index, conv.channels, conv.out, channels_last);
    const T* source = channel_of<T>(conv.source, at.batch, at.channel / conv.multiplier);
    const T* weight = static_cast<const T*>(conv.weight) + at.channel * conv.taps;
    C sum = load_element(conv.bias, at.channel, C(0));
    for (int64_t kz = 0; kz < conv.kernel[0]; ++kz) {
      const int64_t z = at.z * conv.stride[0] - conv.padding[0] + kz * conv.dilation[0];
      if (z < 0 || z >= conv.in[0]) continue;
      for (int64_t ky = 0; ky < conv.kernel[1]; ++ky) {
        const int64_t y = at.y * conv.stride[1] - conv.padding[1] + ky * conv.dilation[1];
        if (y < 0 || y >= conv.in[1]) continue;
        const int64_t row = pixel(conv.in, z, y, 0);
        const int64_t first = at.x * conv.stride[2] - conv.padding[2];
        for (int64_t kx = 0; kx < conv.kernel[2]; ++kx) {
          const int64_t x = first + kx * conv.dilation[2];
          if (x < 0 || x >= conv.in[2]) continue;
          const C w = widen(weight[(kz * conv.kernel[1] + ky) * conv.kernel[2] + kx]);
          sum = fma(w, widen(source[(row + x) * conv.source.spatial_stride]), sum);
        }
      }
    }
    T* target = static_cast<T*>(conv.target.data) + at.batch * conv.target.batch_stride +
                at.channel * conv.target.channel_stride;
    target[pixel(conv.out, at.z, at.y, at.x) * conv.target.spatial_stride] = narrow<T>(sum);
  }
}

// The taps of one axis that a source pixel has been read with: `first`, `first` + `step`, ...
struct ReadBy {
  int64_t first, step;

  __device__ ReadBy(const Convolution& conv, int axis, int64_t source)
      : first(conv.dilation[axis] == 1 ? (source + conv.padding[axis]) % conv.stride[axis] : 0),
        step(conv.dilation[axis] == 1 ? conv.stride[axis] : 1) {}
  // The target that read it with tap k, or -1.
  static __device__ int64_t target(const Convolution& conv, int axis, int64_t source, int64_t k) {
    const int64_t scaled = source + conv.padding[axis] - k * conv.dilation[axis];
    if (scaled < 0) return -1;
    const int stride = static_cast<int>(conv.stride[axis]);
    const int64_t at = stride == 1 ? scaled : scaled / stride;
    return at * stride == scaled && at < conv.out[axis] ? at : -1;
  }
};

// The gradient with respect to source: into it, from target. One thread an element.
template <typename T>
__global__ void __launch_bounds__(depthwise_threads, 4)
    input_gradient_any(const __grid_constant__ Convolution conv, View dx, int64_t elements, bool channels_last) {
  using C = compute_t<T>;
  const int64_t channels = conv.channels / conv.multiplier;
  const int64_t stride = static_cast<int64_t>(gridDim.x) * blockDim.x;
  for (int64_t index = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; index < elements; index += stride) {
    const Element3 at = element_of(index, channels, conv.in, channels_last);
    C sum = load_element(conv.bias, at.channel, C(0));
    for (int64_t m = 0; m < conv.multiplier; ++m) {
      const int64_t channel = at.channel * conv.multiplier + m;
      const T* grad = channel_of<T>(conv.target, at.batch, channel);
      const T* weight = static_cast<const T*>(conv.weight) + channel * conv.taps;
      const ReadBy by_z(conv, 0, at.z), by_y(conv, 1, at.y), by_x(conv, 2, at.x);
      for (int64_t kz = by_z.first; kz < conv.kernel[0]; kz += by_z.step) {
        const int64_t z = ReadBy::target(conv, 0, at.z, kz);
        if (z < 0) continue;
        for (int64_t ky = by_y.first; ky < conv.kernel[1]; ky += by_y.step) {
          const int64_t y = ReadBy::target(conv, 1, at.y, ky);
          if (y < 0) continue;
          for (int64_t kx = by_x.first; kx < conv.kernel[2]; kx += by_x.step) {
            const int64_t x = ReadBy::target(conv, 2, at.x, kx);
            if (x < 0) continue;
            const C w = widen(weight[(kz * conv.kernel[1] + ky) * conv.kernel[2] + kx]);
            sum = fma(w, widen(grad[pixel(conv.out, z, y, x) * conv.target.spatial_stride]), sum);
          }
        }
      }
    }
    T* to = static_cast<T*>(dx.data) + at.batch * dx.batch_stride + at.channel * dx.channel_stride;
    to[pixel(conv.in, at.z, at.y, at.x) * dx.spatial_stride] = narrow<T>(sum);
  }
}

// One CTA for a channel, up to 8 taps of one row of taps, and a part of the rows of target; the row after the last one
// is the bias. Partial sums [part][channels][taps + 1].
template <typename T>
__global__ void __launch_bounds__(depthwise_threads, 4)
    parameter_gradients_any(const __grid_constant__ Convolution conv, GeneralParts parts, bool with_weights,
                            compute_t<T>* partials) {
  using C = compute_t<T>;
  int64_t rest = blockIdx.x;
  auto take = [&](int64_t count) {
    const int64_t index = rest % count;
    rest /= count;
    return index;
  };
  const int64_t tap_row = take(parts.tap_rows + 1), part = take(parts.parts), channel = rest;
  const bool is_bias = tap_row == parts.tap_rows;
  if (!is_bias && !with_weights) return;
  const int64_t first_x = tap_row % parts.groups_x * taps_at_once;
  const int64_t ky = tap_row / parts.groups_x % conv.kernel[1], kz = tap_row / parts.groups_x / conv.kernel[1];
  const int count = is_bias ? 1 : static_cast<int>(min(conv.kernel[2] - first_x, static_cast<int64_t>(taps_at_once)));

  C sums[taps_at_once] = {};
  const int64_t rows = conv.batch * conv.out[0] * conv.out[1];
  const int64_t end = min(rows, (part + 1) * parts.part_rows);
  const int64_t lines = depthwise_threads / warp_size;
  for (int64_t row = part * parts.part_rows + threadIdx.x / warp_size; row < end; row += lines) {
    const int64_t batch = row / (conv.out[0] * conv.out[1]), in_image = row % (conv.out[0] * conv.out[1]);
    const int64_t z = in_image / conv.out[1] * conv.stride[0] - conv.padding[0] + kz * conv.dilation[0];
    const int64_t y = in_image % conv.out[1] * conv.stride[1] - conv.padding[1] + ky * conv.dilation[1];
    if (!is_bias && (z < 0 || z >= conv.in[0] || y < 0 || y >= conv.in[1])) continue;
    const T* grad = channel_of<T>(conv.target, batch, channel) + in_image * conv.out[2] * conv.target.spatial_stride;
    const T* source = is_bias ? nullptr : channel_of<T>(conv.source, batch, channel / conv.multiplier);
    const int64_t source_row = is_bias ? 0 : pixel(conv.in, z, y, 0);
    for (int64_t x = threadIdx.x % warp_size; x < conv.out[2]; x += warp_size) {
      const C g = widen(grad[x * conv.target.spatial_stride]);
      if (is_bias) {
        sums[0] += g;
        continue;
      }
      const int64_t first = x * conv.stride[2] - conv.padding[2] + first_x * conv.dilation[2];
#pragma unroll
      for (int k = 0; k < taps_at_once; ++k) {
        const int64_t at = first + k * conv.dilation[2];
        if (k < count && at >= 0 && at < conv.in[2]) {
          sums[k] = fma(g, widen(source[(source_row + at) * conv.source.spatial_stride]), sums[k]);
        }
      }
    }
  }
  Scratch<C>& scratch = *reinterpret_cast<Scratch<C>*>(shared_memory());
  const int64_t first_tap = is_bias ? conv.taps : (kz * conv.kernel[1] + ky) * conv.kernel[2] + first_x;
  C* slot = partials + (part * conv.channels + channel) * (conv.taps + 1) + first_tap;
#pragma unroll
  for (int k = 0; k < taps_at_once; ++k) {
    if (k >= count) break;
    const C sum = block_sum(sums[k], scratch);
    if (threadIdx.x == 0) slot[k] = sum;
  }
}

// One CTA a row: its mean and rstd, the mean first and then the squares of differences from it.
template <typename T>
__global__ void __launch_bounds__(depthwise_threads, 4)
    moments_any(const __grid_constant__ Convolution conv, double eps, compute_t<T>* mean, compute_t<T>* rstd) {
  using C = compute_t<T>;
  Scratch<C>& scratch = *reinterpret_cast<Scratch<C>*>(shared_memory());
  const int64_t rows = conv.batch * conv.channels, pixels = conv.out[0] * conv.out[1] * conv.out[2];
  for (int64_t row = blockIdx.x; row < rows; row += gridDim.x) {
    const T* y = channel_of<T>(conv.target, row / conv.channels, row % conv.channels);
    const C first = widen(y[0]);
    C sum = 0;
    for (int64_t p = threadIdx.x; p < pixels; p += blockDim.x) sum += widen(y[p * conv.target.spatial_stride]) - first;
    const C shift = block_sum(sum, scratch) / static_cast<C>(pixels);
    C squares = 0;
    for (int64_t p = threadIdx.x; p < pixels; p += blockDim.x) {
      const C difference = (widen(y[p * conv.target.spatial_stride]) - first) - shift;
      squares = fma(difference, difference, squares);
    }
    squares = block_sum(squares, scratch);
    if (threadIdx.x != 0) continue;
    mean[row] = first + shift;
    rstd[row] = C(1) / sqrt(squares / static_cast<C>(pixels) + static_cast<C>(eps));
  }
}

LaunchShape one_thread_each(int64_t elements) {
  return {std::min<int64_t>(ceil_div(elements, depthwise_threads), max_grid), depthwise_threads};
}

}  // namespace

void convolve_general(const Convolution& conv, bool channels_last, void* stream, Site site) {
  site.kernel = "of any kind";
  const int64_t elements = conv.rows() * conv.out[0] * conv.out[1] * conv.out[2];
  for_any_element(conv.source.type, [&](auto element) {
    using T = typename decltype(element)::type;
    launch(convolve_any<T>, one_thread_each(elements), stream, site, conv, elements, channels_last);
  });
}

void input_gradient_general(const Convolution& conv, const View& dx, bool channels_last, void* stream, Site site) {
  site.kernel = "of any kind, gradient of the input";
  const int64_t elements = conv.rows() / conv.multiplier * conv.in[0] * conv.in[1] * conv.in[2];
  for_any_element(conv.target.type, [&](auto element) {
    using T = typename decltype(element)::type;
    launch(input_gradient_any<T>, one_thread_each(elements), stream, site, conv, dx, elements, channels_last);
  });
}

void moments_general(const Convolution& conv, double eps, void* mean, void* rstd, void* stream, Site site) {
  site.kernel = "of any kind, statistics";
  for_any_element(conv.target.type, [&](auto element) {
    using T = typename decltype(element)::type;
    using C = compute_t<T>;
    const LaunchShape shape = {std::min(conv.rows(), max_grid), depthwise_threads,
                               static_cast<int64_t>(sizeof(Scratch<C>))};
    launch(moments_any<T>, shape, stream, site, conv, eps, static_cast<C*>(mean), static_cast<C*>(rstd));
  });
}

GeneralParts general_parts(const Convolution& conv) {
  GeneralParts parts;
  parts.groups_x = ceil_div(conv.kernel[2], taps_at_once);
  parts.tap_rows = conv.kernel[0] * conv.kernel[1] * parts.groups_x;
  const int64_t rows = conv.batch * conv.out[0] * conv.out[1];
  const int64_t wanted = ceil_div(enough_ctas, conv.channels * (parts.tap_rows + 1));
  parts.part_rows = ceil_div(rows, std::min(wanted, ceil_div(rows, depthwise_threads / 32)));
  parts.parts = ceil_div(rows, parts.part_rows);
  return parts;
}

void parameter_gradients_general(const Convolution& conv, bool with_weights, void* partials, void* stream, Site site) {
  site.kernel = "of any kind, gradients of parameters";
  const GeneralParts parts = general_parts(conv);
  const int64_t ctas = conv.channels * parts.parts * (parts.tap_rows + 1);
  if (ctas > max_grid) throw std::runtime_error(std::string(site.op) + ": too many taps and channels for one launch");
  for_any_element(conv.target.type, [&](auto element) {
    using T = typename decltype(element)::type;
    using C = compute_t<T>;
    const LaunchShape shape = {ctas, depthwise_threads, static_cast<int64_t>(sizeof(Scratch<C>))};
    launch(parameter_gradients_any<T>, shape, stream, site, conv, parts, with_weights, static_cast<C*>(partials));
  });
}

}  // namespace fastseg::cuda
