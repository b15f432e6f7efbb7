// Gradients of weight and bias of a depthwise convolution, channels-last.
//
// Floor as in depthwise_rows_gradient.h: 2u. A vector holds channels, so the sums of G * KX taps stay in registers
// while pixels are walked: one load of the gradient and one of the window for each of them. Sums run in the compute
// type over at most `most_pixels` pixels, then in float64.
#pragma once
#include "depthwise_channels_last.h"
#include "depthwise_rows_gradient.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t most_pixels = 128;

// What `pixels` pixels of one row of the gradient contribute to G rows of KX taps, added to sums [G][KX][block].
template <int G, int KX, class A>
inline void correlate_pixels(const A* grad, int64_t grad_pitch, const A* const* rows, int64_t at, int64_t pixels,
                             int64_t kx, int64_t in_step, int64_t in_pitch, int64_t block, double* to) {
  if constexpr (KX > 0) {
    Vec<A> sum[G][KX] = {};
    for (int64_t i = 0; i < pixels; ++i) {
      const Vec<A> g = load(grad + i * grad_pitch);
#pragma GCC unroll 8
      for (int t = 0; t < G; ++t) {
        const A* row = rows[t] + at + i * in_step;
#pragma GCC unroll 8
        for (int k = 0; k < KX; ++k) sum[t][k] += g * load(row + k * in_pitch);
      }
    }
    for (int t = 0; t < G; ++t)
      for (int k = 0; k < KX; ++k) add_to_sums<A>(sum[t][k], to + (t * KX + k) * block);
  } else {
    for (int64_t k = 0; k < kx; ++k) {
      Vec<A> sum[2] = {};
      const A* row = rows[0] + at + k * in_pitch;
      int64_t i = 0;
      for (; i + 2 <= pixels; i += 2)
        for (int u = 0; u < 2; ++u) sum[u] += load(grad + (i + u) * grad_pitch) * load(row + (i + u) * in_step);
      for (; i < pixels; ++i) sum[0] += load(grad + i * grad_pitch) * load(row + i * in_step);
      add_to_sums<A>(sum[0] + sum[1], to + k * block);
    }
  }
}

// How the taps of a kernel are cut: `group` rows of them at a time.
template <class A>
struct PixelCorrelation {
  int64_t group;
  void (*run)(const A* grad, int64_t grad_pitch, const A* const* rows, int64_t at, int64_t pixels, int64_t kx,
              int64_t in_step, int64_t in_pitch, int64_t block, double* to);
};

// `left`: rows of taps that are still to do. Sums that fit into 32 or 16 registers.
template <class A>
inline PixelCorrelation<A> pixel_correlation(int64_t left, int64_t kx) {
  constexpr bool many = vector_bytes == 64;
  if (kx == 3) {
    if (left >= 3) return {3, correlate_pixels<3, 3, A>};
    return {1, correlate_pixels<1, 3, A>};
  }
  if (kx == 5) {
    if (many && left >= 5) return {5, correlate_pixels<5, 5, A>};
    if (left >= 2) return {2, correlate_pixels<2, 5, A>};
    return {1, correlate_pixels<1, 5, A>};
  }
  if (kx == 7) {
    if (many && (left == 3 || left > 4)) return {3, correlate_pixels<3, 7, A>};
    if (many && left >= 2) return {2, correlate_pixels<2, 7, A>};
    return {1, correlate_pixels<1, 7, A>};
  }
  return {1, correlate_pixels<1, 0, A>};
}

template <class T>
struct PixelGradient {
  using A = compute_t<T>;
  const DepthwiseConvBackward& args;
  DepthwiseShape shape;
  Axis z, y, x;
  int64_t block, blocks;
  PixelLayout<T> row;
  Bands bands;

  explicit PixelGradient(const DepthwiseConvBackward& a)
      : args(a),
        shape(marching_along_height(a.shape)),
        z(axis_of(shape, Z, false)),
        y(axis_of(shape, Y, false)),
        x(axis_of(shape, X, false)),
        block(channels_together<T>(shape.channels, z, y, x)),
        blocks(ceil_div(shape.channels, block)),
        row(x, block, args.x.spatial_stride, pixel_block),
        bands(z, y, shape.batch * blocks, row.length * int64_t(sizeof(A))) {}

  int64_t tasks() const { return shape.batch * bands.count() * blocks; }
  int64_t slot_size() const { return (shape.taps() + 1) * block; }  // the last ones are the bias
};

template <class T>
class PixelCorrelator {
  using A = compute_t<T>;

 public:
  explicit PixelCorrelator(const PixelGradient<T>& gradient)
      : g_(gradient),
        row_(g_.row),
        ring_(g_.z, g_.y, g_.x.sources, g_.args.x.spatial_stride, 1, 0, window_rows(g_.y, g_.bands.most_rows()),
              g_.row.length),
        grad_(g_.bands.most_rows() * g_.x.targets * g_.block),
        zeros_(g_.row.length) {
    for (int64_t i = 0; i < g_.row.length; ++i) zeros_[i] = 0;
  }

  // Writes the sums of one band and block of channels: [taps][block], then the bias [block].
  void run(int64_t task, double* to) {
    for (int64_t i = 0; i < g_.slot_size(); ++i) to[i] = 0;
    const int64_t first = task % g_.blocks * g_.block, image = task / g_.blocks;
    const int64_t n = image / g_.bands.count(), width = g_.x.targets;
    const Band band = g_.bands.at(image % g_.bands.count());
    channels_ = row_.channels = least(g_.block, g_.shape.channels - first);
    in_vectors_ = round_up(channels_, lanes<A>);
    const View &grad = g_.args.grad, &x = g_.args.x;
    const T* from = static_cast<const T*>(grad.data) + n * grad.batch_stride + first;
    const T* source = static_cast<const T*>(x.data) + n * x.batch_stride + first;
    for (int64_t r = 0; r < g_.z.classes(); ++r) {
      const AxisClass depth = g_.z.at(r);
      const int64_t begin = most(ceil_div(band.z_begin - depth.first, depth.spacing), 0);
      if (g_.args.dweight) ring_.start(source, row_, band.y_begin, band.y_end, depth, begin);
      for (int64_t j = begin; j < depth.count; ++j) {
        const int64_t oz = depth.first + depth.spacing * j;
        if (oz >= band.z_end) break;
        load_grad(from + (oz * g_.y.targets + band.y_begin) * width * grad.spatial_stride,
                  (band.y_end - band.y_begin) * width, to + g_.shape.taps() * g_.block);
        if (!g_.args.dweight) continue;
        ring_.advance(j);
        for (int64_t t = 0; t < depth.taps; ++t)
          if (ring_.exists(depth.step() * j + t))
            correlate_plane(ring_.plane(depth.step() * j + t, 0), band,
                            to + t * g_.shape.kernel[Y] * g_.shape.kernel[X] * g_.block);
      }
    }
  }

 private:
  // Converts the band's pixels of the gradient, zeros beyond the last channel, and adds them to the bias' sums.
  void load_grad(const T* from, int64_t count, double* bias) {
    constexpr int L = lanes<A>;
    const int64_t block = g_.block, pitch = g_.args.grad.spatial_stride;
    for (int64_t i = 0; i < count; ++i) {
      A* to = grad_.get() + i * block;
      const T* pixel = from + i * pitch;
      int64_t c = 0;
      for (; c + L <= channels_; c += L) store(to + c, load(pixel + c));
      for (; c < in_vectors_; ++c) to[c] = c < channels_ ? load_one(pixel + c) : A(0);
    }
    for (int64_t c = 0; c < in_vectors_; c += L)
      for (int64_t i = 0; i < count; i += most_pixels) {
        const int64_t end = least(i + most_pixels, count);
        Vec<A> sum{};
        for (int64_t k = i; k < end; ++k) sum += load(grad_.get() + k * block + c);
        add_to_sums<A>(sum, bias + c);
      }
  }

  void correlate_plane(const A* plane, const Band& band, double* to) {
    for (int64_t oy = band.y_begin; oy < band.y_end; ++oy) {
      const AxisClass height = g_.y.at(oy % g_.y.classes());
      const int64_t j = oy / g_.y.classes(), kx = g_.shape.kernel[X];
      const A* grad = grad_.get() + (oy - band.y_begin) * g_.x.targets * g_.block;
      for (int64_t tap = 0; tap < height.taps;) {
        const PixelCorrelation<A> kernel = pixel_correlation<A>(height.taps - tap, kx);
        const A* rows[most_group];
        bool any = false;
        for (int64_t i = 0; i < kernel.group; ++i) {
          const A* row = ring_.row(plane, height.in_first + height.in_spacing * (height.step() * j + tap + i));
          any = any || row;
          rows[i] = row ? row : zeros_.get();
        }
        if (any)
          for (int64_t r = 0; r < g_.x.open_classes(); ++r)
            correlate_class(kernel, g_.x.open_at(r), grad, rows, to + tap * kx * g_.block);
        tap += kernel.group;
      }
    }
  }

  void correlate_class(const PixelCorrelation<A>& kernel, const AxisClass& across, const A* grad, const A* const* rows,
                       double* to) const {
    const int64_t block = g_.block;
    for (int64_t j = 0; j < across.count; j += most_pixels) {
      const int64_t pixels = least(most_pixels, across.count - j);
      const int64_t at = (across.in_first - row_.first + across.in_step * j) * block;
      for (int64_t c = 0; c < in_vectors_; c += lanes<A>)
        kernel.run(grad + (across.first + across.spacing * j) * block + c, across.spacing * block, rows, at + c, pixels,
                   across.taps, across.in_step * block, across.in_spacing * block, block, to + c);
    }
  }

  static constexpr int64_t most_group = 5;

  const PixelGradient<T>& g_;
  PixelLayout<T> row_;
  PlaneRing<T, PixelLayout<T>> ring_;
  Scratch<A> grad_, zeros_;
  int64_t channels_ = 0, in_vectors_ = 0;  // as in PixelConvolver
};

template <class T, bool Stream>
inline void depthwise_backward_channels_last(const DepthwiseConvBackward& args, int threads) {
  const PixelConvolution<T> conv(args.shape, true, args.grad, args.dx, args.weight, args.bias);
  const PixelGradient<T> gradient(args);
  const auto channel_slot = [&](int64_t n, int64_t channel, int64_t band) {
    const int64_t task = (n * gradient.bands.count() + band) * gradient.blocks + channel / gradient.block;
    return task * gradient.slot_size() + channel % gradient.block;
  };
  run_backward(
      args, threads, conv, gradient, [](const auto& c) { return PixelConvolver<T, Stream>(c); },
      [](auto& convolver, int64_t task) { convolver.run(task, nullptr, nullptr, nullptr); },
      [](const auto& g) { return PixelCorrelator<T>(g); }, channel_slot, gradient.block);
}

}  // namespace fastseg::FASTSEG_ISA
