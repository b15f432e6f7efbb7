// Gradients of weight and bias of a depthwise convolution of images, channels-last, without a window.
//
// Floor as in depthwise_rows_gradient.h: 2u. The sums of G rows of K taps stay in registers while the pixels of several
// rows are walked, U at a time: a source that is loaded serves up to K of them. Sums run in the compute type over at
// most `most_pixels` pixels, then in float64. For 32 registers and masks, which AVX-512 has.
#pragma once
#include "depthwise_channels_last_direct.h"
#include "depthwise_channels_last_gradient.h"

namespace fastseg::FASTSEG_ISA {

// Adds what U pixels of the gradient and their sources contribute to sum; S, `begin` and `end` as in convolve_tile.
template <int K, int S, int U, int G, bool Part, class T>
inline void correlate_image_pixels(const T* grad, int64_t grad_pixel, const T* const* rows, int64_t at, int64_t pixel,
                                   int64_t begin, int64_t end, int64_t channels, Vec<compute_t<T>> (&sum)[G][K]) {
  using A = compute_t<T>;
  Vec<A> g[U];
#pragma GCC unroll 8
  for (int u = 0; u < U; ++u) g[u] = load_part(grad + u * grad_pixel, channels);
#pragma GCC unroll 8
  for (int t = 0; t < G; ++t) {
    if (!rows[t]) continue;
    const T* from = rows[t] + at;
#pragma GCC unroll 32
    for (int c = 0; c < (U - 1) * S + K; ++c, from += pixel) {
      if (Part && (c < begin || c >= end)) continue;
      const Vec<A> source = load_part(from, channels);
#pragma GCC unroll 8
      for (int k = 0; k < K; ++k)
        if (c - k >= 0 && (c - k) % S == 0 && (c - k) / S < U) sum[t][k] += g[(c - k) / S] * source;
    }
  }
}

// How the gradient of an image's filters is computed: blocks of channels, and for each of them parts of all rows.
template <class T>
struct ImageGradient {
  using A = compute_t<T>;
  const DepthwiseConvBackward& args;
  ImageConvolution<T> conv;
  int64_t rows, parts;

  explicit ImageGradient(const DepthwiseConvBackward& a)
      : args(a), conv(a.shape, false, a.x, a.grad, a.weight, {}, false) {
    rows = a.shape.batch * a.shape.output[Y];
    parts = most(least(ceil_div(Bands::enough_tasks, conv.blocks), rows), 1);
  }

  int64_t taps() const { return args.shape.taps(); }
  int64_t slot_size() const { return (taps() + 1) * conv.block; }  // the last ones are the bias
};

template <class T, int K, int S, int U, int G>
class ImageCorrelator {
  using A = compute_t<T>;
  static constexpr int L = lanes<A>;

 public:
  explicit ImageCorrelator(const ImageGradient<T>& gradient) : g_(gradient) {}

  // Writes the sums of one block of channels and part of the rows: [taps][block], then the bias [block].
  void run(int64_t task, double* to) {
    const int64_t block = task / g_.parts, part = task % g_.parts;
    const DepthwiseShape& s = g_.args.shape;
    first_ = block * g_.conv.block;
    channels_ = least(g_.conv.block, s.channels - first_);
    for (int64_t i = 0; i < g_.slot_size(); ++i) to[i] = 0;
    const int64_t height = s.output[Y], together = most(most_pixels / s.output[X], 1);
    const int64_t end = g_.rows * (part + 1) / g_.parts;
    for (int64_t row = g_.rows * part / g_.parts; row < end;) {
      const int64_t n = row / height, oy = row % height;
      const int64_t count = least(least(together, height - oy), end - row);
      for (int64_t c = 0; c < channels_; c += L) {
        const int64_t channels = least(L, channels_ - c);
        if (g_.args.dweight)
          for (int64_t tap = 0; tap < K; tap += G)
            correlate_rows(n, oy, count, tap, c, channels, to + tap * K * g_.conv.block + c);
        if (g_.args.dbias) add_rows(n, oy, count, c, channels, to + g_.taps() * g_.conv.block + c);
      }
      row += count;
    }
  }

 private:
  const T* grad_row(int64_t n, int64_t oy) const {
    const View& grad = g_.args.grad;
    return static_cast<const T*>(grad.data) + n * grad.batch_stride +
           oy * g_.args.shape.output[X] * grad.spatial_stride + first_;
  }

  // What `count` rows of one sample's gradient contribute to G rows of taps from `tap` on, or to those that exist.
  void correlate_rows(int64_t n, int64_t oy, int64_t count, int64_t tap, int64_t channel, int64_t channels,
                      double* to) const {
    const DepthwiseShape& s = g_.args.shape;
    const View& x = g_.args.x;
    const int64_t width = s.input[X], pitch = x.spatial_stride, pixel = s.dilation[X] * pitch;
    const T* source = static_cast<const T*>(x.data) + n * x.batch_stride + first_ + channel;
    const int64_t grad_pitch = g_.args.grad.spatial_stride;
    for (int64_t begin = 0; begin < s.output[X]; begin += most_pixels) {
      const int64_t end = least(begin + most_pixels, s.output[X]);
      Vec<A> sum[G][K] = {};
      for (int64_t i = 0; i < count; ++i) {
        const T* rows[G];
        bool any = false;
        for (int t = 0; t < G; ++t) {
          const int64_t at = (oy + i) * s.stride[Y] - s.padding[Y] + (tap + t) * s.dilation[Y];
          const bool exists = tap + t < K && at >= 0 && at < s.input[Y];
          rows[t] = exists ? source + at * width * pitch : nullptr;
          any = any || exists;
        }
        if (!any) continue;
        const T* grad = grad_row(n, oy + i) + channel;
        for (int64_t r = 0; r < g_.conv.x.classes(); ++r)
          walk(g_.conv.x.at(r), begin, end, grad, grad_pitch, rows, pitch, pixel, channels, sum);
      }
      for (int t = 0; t < G && tap + t < K; ++t)
        for (int k = 0; k < K; ++k) add_to_sums<A>(sum[t][k], to + (t * K + k) * g_.conv.block);
    }
  }

  // The pixels [begin, end) of a row that are of one class.
  void walk(const AxisClass& across, int64_t begin, int64_t end, const T* grad, int64_t grad_pitch,
            const T* const* rows, int64_t pitch, int64_t pixel, int64_t channels, Vec<A> (&sum)[G][K]) const {
    const int64_t sources = g_.conv.x.sources, apart = across.in_spacing;
    int64_t j = most(ceil_div(begin - across.first, across.spacing), 0);
    const int64_t last = least(ceil_div(end - across.first, across.spacing), across.count);
    while (j < last) {
      const int64_t x = across.in_first + across.in_step * j;
      const T* from = grad + (across.first + across.spacing * j) * grad_pitch;
      if (x >= 0 && j + U <= last && x + ((U - 1) * S + K - 1) * apart < sources) {
        correlate_image_pixels<K, S, U, G, false>(from, across.spacing * grad_pitch, rows, x * pitch, pixel, 0, 0,
                                                  channels, sum);
        j += U;
      } else {
        const int64_t first = x < 0 ? ceil_div(-x, apart) : 0;
        correlate_image_pixels<K, S, 1, G, true>(from, 0, rows, x * pitch, pixel, first, ceil_div(sources - x, apart),
                                                 channels, sum);
        ++j;
      }
    }
  }

  void add_rows(int64_t n, int64_t oy, int64_t count, int64_t channel, int64_t channels, double* to) const {
    const int64_t pitch = g_.args.grad.spatial_stride, pixels = count * g_.args.shape.output[X];
    const T* grad = grad_row(n, oy) + channel;
    for (int64_t i = 0; i < pixels; i += most_pixels) {
      Vec<A> sum{};
      for (int64_t p = i; p < least(i + most_pixels, pixels); ++p) sum += load_part(grad + p * pitch, channels);
      add_to_sums<A>(sum, to);
    }
  }

  const ImageGradient<T>& g_;
  int64_t first_ = 0, channels_ = 0;
};

template <int K, int S, int U, int G, class T>
inline void correlate_images(const ImageGradient<T>& gradient, int threads) {
  const int64_t tasks = gradient.conv.blocks * gradient.parts, size = gradient.slot_size();
  Scratch<double> slots(tasks * size);
  parallel_spans(threads, tasks, [&](int64_t begin, int64_t end) {
    ImageCorrelator<T, K, S, U, G> correlator(gradient);
    for (int64_t task = begin; task < end; ++task) correlator.run(task, slots.get() + task * size);
  });
  using A = compute_t<T>;
  const DepthwiseConvBackward& args = gradient.args;
  const int64_t block = gradient.conv.block, taps = gradient.taps();
  parallel_spans(tasks * size < 1 << 15 ? 1 : threads, gradient.conv.blocks, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      double* sums = slots.get() + b * gradient.parts * size;
      add_slots(sums, gradient.parts, size, 1);
      for (int64_t c = 0; c < least(block, args.shape.channels - b * block); ++c) {
        const int64_t channel = b * block + c;
        if (args.dweight)
          for (int64_t i = 0; i < taps; ++i) static_cast<A*>(args.dweight)[channel * taps + i] = A(sums[i * block + c]);
        if (args.dbias) static_cast<A*>(args.dbias)[channel] = A(sums[taps * block + c]);
      }
    }
  });
}

// As convolved_as_images, of the gradients of weight and bias.
template <class T>
inline bool correlated_as_images(const DepthwiseConvBackward& args, int threads) {
  if constexpr (vector_bytes == 64) {
    const ImageGradient<T> gradient(args);
    const int64_t k = args.shape.kernel[X], apart = taps_apart(gradient.conv);
    if (apart == 1) {
      if (k == 3) return correlate_images<3, 1, 8, 3>(gradient, threads), true;
      if (k == 5) return correlate_images<5, 1, 4, 5>(gradient, threads), true;
      if (k == 7) return correlate_images<7, 1, 8, 3>(gradient, threads), true;
    }
    if (apart == 2) {
      if (k == 3) return correlate_images<3, 2, 8, 3>(gradient, threads), true;
      if (k == 5) return correlate_images<5, 2, 4, 5>(gradient, threads), true;
      if (k == 7) return correlate_images<7, 2, 8, 3>(gradient, threads), true;
    }
  }
  return false;
}

}  // namespace fastseg::FASTSEG_ISA
