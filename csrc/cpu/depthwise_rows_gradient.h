// Gradients of weight and bias of a depthwise convolution over rows.
//
// Floor, u = one pass over the tensor: 2u (read x and the gradient of y), taps multiply-adds an element. In a backward
// pass the gradient of y is still in cache from the gradient of the input, which runs on the same band just before.
//
// The window of the forward pass again (depthwise_rows_window.h). The sums of several taps stay in registers; each
// vector of the window serves up to R rows of the gradient. Sums run in the compute type over at most `most_terms`
// vectors, then in float64. Every band has its slot, and slots are added in a fixed order.
#pragma once
#include "depthwise_rows.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t most_terms = 128;

// What is read next of x and of the gradient of y: as many rows of each as a correlation walks over.
struct AheadOfBoth {
  Ahead x, grad;

  AheadOfBoth from(int64_t r) const { return {x.from(r), grad.from(r)}; }
};

// Adds to sum[G][KX] what `blocks` blocks of R rows of the gradient contribute to G rows of taps.
template <int G, int KX, int Step, int R, class A>
inline void correlate_rows(const A* const* grads, const A* const* rows, int64_t blocks, const int64_t* offsets,
                           int64_t width, const AheadOfBoth& next, double* to) {
  constexpr int L = lanes<A>, window = (R - 1) * Step + G;
  Vec<A> sum[G][KX] = {};
  for (int64_t b = 0; b < blocks; ++b, grads += R, rows += window)
    for (int64_t x = 0; x < width; x += L) {
      Vec<A> grad[R];
#pragma GCC unroll 4
      for (int r = 0; r < R; ++r) {
        next.x.template fetch<1>(b * R + r, x, 1);
        next.grad.template fetch<1>(b * R + r, x, 1);
        grad[r] = load(grads[r] + x);
      }
#pragma GCC unroll 16
      for (int i = 0; i < window; ++i) {
        if (!rows[i]) continue;
        const A* row = rows[i] + x;
#pragma GCC unroll 8
        for (int k = 0; k < KX; ++k) {
          const Vec<A> source = load(row + offsets[k]);
#pragma GCC unroll 4
          for (int r = 0; r < R; ++r) {
            const int tap = i - r * Step;
            if (tap >= 0 && tap < G) sum[tap][k] += grad[r] * source;
          }
        }
      }
    }
  for (int g = 0; g < G; ++g)
    for (int k = 0; k < KX; ++k) {
      WideSum<A> wide;
      wide.add(sum[g][k]);
      to[g * KX + k] += wide.total();
    }
}

// The same for one row of taps of any width and one row of the gradient at a time.
template <class A>
inline void correlate_row(const A* const* grads, const A* const* rows, int64_t blocks, const int64_t* offsets,
                          int64_t kx, int64_t width, double* to) {
  constexpr int L = lanes<A>;
  for (int64_t k = 0; k < kx; ++k) {
    Vec<A> sum[2] = {};
    for (int64_t b = 0; b < blocks; ++b) {
      if (!rows[b]) continue;
      const A* row = rows[b] + offsets[k];
      int64_t x = 0;
      for (; x + 2 * L <= width; x += 2 * L) {
        sum[0] += load(grads[b] + x) * load(row + x);
        sum[1] += load(grads[b] + x + L) * load(row + x + L);
      }
      for (; x < width; x += L) sum[0] += load(grads[b] + x) * load(row + x);
    }
    WideSum<A> wide;
    wide.add(sum[0]);
    wide.add(sum[1]);
    to[k] += wide.total();
  }
}

// How the taps of a kernel are cut: `group` rows of them at a time with `block` rows of the gradient.
template <class A>
struct RowCorrelation {
  int64_t group, block;  // 0: any kernel
  void (*run)(const A* const* grads, const A* const* rows, int64_t blocks, const int64_t* offsets, int64_t width,
              const AheadOfBoth& next, double* to);
};

template <int KX, int G, class A>
inline RowCorrelation<A> row_correlation_of_size(int64_t step) {
  if (step == 1) return {G, 4, correlate_rows<G, KX, 1, 4, A>};
  if (step == 2) return {G, 4, correlate_rows<G, KX, 2, 4, A>};
  return {0, 1, nullptr};
}

// `left`: rows of taps that are still to do. Sums that fit into 32 or 16 registers beside the rows of the gradient.
template <class A>
inline RowCorrelation<A> row_correlation(int64_t left, int64_t kx, int64_t step) {
  constexpr bool many = vector_bytes == 64;
  if (kx == 3 && left >= 3) return row_correlation_of_size<3, 3, A>(step);
  if (kx == 5) {
    if (many && left >= 5) return row_correlation_of_size<5, 5, A>(step);
    if (left >= 2) return row_correlation_of_size<5, 2, A>(step);
    return row_correlation_of_size<5, 1, A>(step);
  }
  if (kx == 7) {
    if (many && (left == 3 || left > 4)) return row_correlation_of_size<7, 3, A>(step);
    if (many && left >= 2) return row_correlation_of_size<7, 2, A>(step);
    return row_correlation_of_size<7, 1, A>(step);
  }
  return {0, 1, nullptr};
}

template <class T>
struct RowGradient {
  using A = compute_t<T>;
  const DepthwiseConvBackward& args;
  const DepthwiseShape& shape;
  Axis z, y, x;
  RowLayout<A> row;
  int64_t channels;  // of the gradient
  Bands bands;

  explicit RowGradient(const DepthwiseConvBackward& a)
      : args(a),
        shape(a.shape),
        z(axis_of(shape, Z, false)),
        y(axis_of(shape, Y, false)),
        x(axis_of(shape, X, false)),
        row(x),
        channels(shape.channels * shape.multiplier),
        bands(z, y, shape.batch * channels, row.length * int64_t(sizeof(A))) {}

  int64_t tasks() const { return shape.batch * channels * bands.count(); }
  int64_t slot_size() const { return shape.taps() + 1; }  // the last one is the bias
};

template <class T>
class RowCorrelator {
  using A = compute_t<T>;

 public:
  explicit RowCorrelator(const RowGradient<T>& gradient)
      : g_(gradient),
        ring_(g_.z, g_.y, g_.x.sources, 1, 1, 0, window_rows(g_.y, g_.bands.most_rows()), g_.row.length),
        width_(round_up(g_.x.targets, lanes<A>)),
        grad_((g_.bands.most_rows() + 1) * width_),
        offsets_(g_.shape.kernel[X]),
        grads_(g_.bands.most_rows() + most_block),
        rows_((g_.bands.most_rows() + most_block) * (2 * most_block + 7)) {
    for (int64_t k = 0; k < g_.shape.kernel[X]; ++k) offsets_[k] = g_.row.offset(k);
  }

  // Writes the sums of one band: [taps], then the bias.
  void run(int64_t task, double* to) {
    for (int64_t i = 0; i < g_.slot_size(); ++i) to[i] = 0;
    const int64_t image = task / g_.bands.count(), n = image / g_.channels, channel = image % g_.channels;
    const Band band = g_.bands.at(task % g_.bands.count());
    const View &grad = g_.args.grad, &x = g_.args.x;
    const T* from = static_cast<const T*>(grad.data) + n * grad.batch_stride + channel * grad.channel_stride;
    const T* source =
        static_cast<const T*>(x.data) + n * x.batch_stride + channel / g_.shape.multiplier * x.channel_stride;
    for (int64_t r = 0; r < g_.z.classes(); ++r) {
      const AxisClass depth = g_.z.at(r);
      const int64_t begin = most(ceil_div(band.z_begin - depth.first, depth.spacing), 0);
      if (g_.args.dweight) ring_.start(source, g_.row, band.y_begin, band.y_end, depth, begin);
      for (int64_t j = begin; j < depth.count; ++j) {
        const int64_t oz = depth.first + depth.spacing * j;
        if (oz >= band.z_end) break;
        to[g_.shape.taps()] += load_grad(from + oz * g_.y.targets * g_.x.targets, band);
        if (!g_.args.dweight) continue;
        ring_.advance(j);
        AheadOfBoth next = next_of_both(from, depth, oz, band);
        for (int64_t t = 0; t < depth.taps; ++t)
          if (ring_.exists(depth.step() * j + t)) {
            for (int64_t c = 0; c < g_.y.classes(); ++c)
              correlate_plane(ring_.plane(depth.step() * j + t, 0), g_.y.at(c), band, next,
                              to + t * g_.shape.kernel[Y] * g_.shape.kernel[X]);
            next = {};
          }
      }
    }
  }

 private:
  static constexpr int64_t most_block = 4;

  // Where both have rows alike.
  AheadOfBoth next_of_both(const T* grad, const AxisClass& depth, int64_t oz, const Band& band) const {
    if (g_.x.stride != 1 || g_.y.stride != 1 || g_.y.classes() > 1) return {};
    const int64_t width = g_.x.targets, next = oz + depth.spacing;
    const T* row = nullptr;
    if (next < band.z_end)
      row = grad + (next * g_.y.targets + band.y_begin) * width;
    else if (g_.z.targets == 1)
      row = grad + band.y_end * width;
    return {ring_.next_rows(band.y_begin, 1), ahead(row, width, 1)};
  }

  // Converts the band's rows of the gradient, zeros behind each and one row of zeros at the end. Returns their sum.
  double load_grad(const T* plane, const Band& band) {
    constexpr int L = lanes<A>;
    const int64_t n = g_.x.targets, rows = band.y_end - band.y_begin;
    WideSum<A> wide;
    for (int64_t y = 0; y < rows; ++y) {
      const T* from = plane + (band.y_begin + y) * n;
      A* to = grad_.get() + y * width_;
      int64_t i = 0;
      for (; i + L <= n; i += L) {
        const Vec<A> v = load(from + i);
        wide.add(v);
        store(to + i, v);
      }
      if (i == n) continue;
      for (; i < width_; ++i) to[i] = i < n ? load_one(from + i) : A(0);
      wide.add(load(to + width_ - L));
    }
    for (int64_t i = 0; i < width_; ++i) grad_[rows * width_ + i] = 0;
    return wide.total();
  }

  void correlate_plane(const A* plane, const AxisClass& height, const Band& band, const AheadOfBoth& next, double* to) {
    const int64_t begin = most(ceil_div(band.y_begin - height.first, height.spacing), 0);
    const int64_t end =
        least(height.count, band.y_end > height.first ? ceil_div(band.y_end - height.first, height.spacing) : 0);
    if (begin >= end) return;
    const int64_t kx = g_.shape.kernel[X];
    const auto grad_row = [&](int64_t b) {
      const int64_t y = b < end ? height.first + height.spacing * b - band.y_begin : band.y_end - band.y_begin;
      return grad_.get() + y * width_;
    };
    for (int64_t tap = 0; tap < height.taps;) {
      const RowCorrelation<A> kernel = row_correlation<A>(height.taps - tap, kx, height.step());
      const int64_t block = kernel.block, group = kernel.group ? kernel.group : 1;
      const int64_t window = (block - 1) * height.step() + group;
      const int64_t together = most(most_terms / (block * (width_ / lanes<A>)), 1);  // blocks
      for (int64_t b = begin; b < end;) {
        const AheadOfBoth later = tap == 0 ? next.from(b - begin) : AheadOfBoth{};
        int64_t blocks = 0;
        for (; blocks < together && b < end; ++blocks, b += block) {
          for (int64_t i = 0; i < block; ++i) grads_[blocks * block + i] = grad_row(b + i);
          for (int64_t i = 0; i < window; ++i)
            rows_[blocks * window + i] =
                ring_.row(plane, height.in_first + height.in_spacing * (height.step() * b + tap + i));
        }
        if (kernel.group)
          kernel.run(grads_.get(), rows_.get(), blocks, offsets_.get(), width_, later, to + tap * kx);
        else
          correlate_row(grads_.get(), rows_.get(), blocks, offsets_.get(), kx, width_, to + tap * kx);
      }
      tap += group;
    }
  }

  const RowGradient<T>& g_;
  PlaneRing<T, RowLayout<A>> ring_;
  int64_t width_;
  Scratch<A> grad_;
  Scratch<int64_t> offsets_;
  Scratch<const A*> grads_, rows_;
};

// A backward pass: the gradient of the input by tasks of `conv`, those of the parameters by tasks of `gradient`. Where
// both are cut alike they take turns, so that the second one finds the gradient of y in cache.
// slot(n, channel, band): where the sums of a channel begin, [taps + 1] with `pitch` between them.
template <class Conv, class Gradient, class MakeConvolver, class Convolve, class MakeCorrelator, class Slot>
inline void run_backward(const DepthwiseConvBackward& args, int threads, const Conv& conv, const Gradient& gradient,
                         const MakeConvolver& make_convolver, const Convolve& convolve,
                         const MakeCorrelator& make_correlator, const Slot& slot, int64_t pitch) {
  using A = typename Gradient::A;
  const bool parameters = args.dweight || args.dbias;
  const bool together = args.dx && parameters && conv.tasks() == gradient.tasks();
  const int64_t slot_size = gradient.slot_size();
  Scratch<double> slots(parameters ? gradient.tasks() * slot_size : 0);
  if (args.dx)
    parallel_spans(threads, conv.tasks(), [&](int64_t begin, int64_t end) {
      auto convolver = make_convolver(conv);
      if (together) {
        auto correlator = make_correlator(gradient);
        for (int64_t task = begin; task < end; ++task) {
          convolve(convolver, task);
          correlator.run(task, slots.get() + task * slot_size);
        }
      } else {
        for (int64_t task = begin; task < end; ++task) convolve(convolver, task);
      }
    });
  if (!parameters) return;
  if (!together)
    parallel_spans(threads, gradient.tasks(), [&](int64_t begin, int64_t end) {
      auto correlator = make_correlator(gradient);
      for (int64_t task = begin; task < end; ++task) correlator.run(task, slots.get() + task * slot_size);
    });
  const int64_t taps = args.shape.taps(), channels = args.shape.channels * args.shape.multiplier;
  for (int64_t channel = 0; channel < channels; ++channel)
    for (int64_t i = 0; i <= taps; ++i) {
      double sum = 0;
      for (int64_t n = 0; n < args.shape.batch; ++n)
        for (int64_t band = 0; band < gradient.bands.count(); ++band) sum += slots[slot(n, channel, band) + i * pitch];
      if (i == taps && args.dbias) static_cast<A*>(args.dbias)[channel] = A(sum);
      if (i < taps && args.dweight) static_cast<A*>(args.dweight)[channel * taps + i] = A(sum);
    }
}

template <class T, bool Stream>
inline void depthwise_backward_rows(const DepthwiseConvBackward& args, int threads) {
  const RowConvolution<T> conv(args.shape, true, args.grad, args.dx, args.weight, args.bias);
  const RowGradient<T> gradient(args);
  run_backward(
      args, threads, conv, gradient, [](const auto& c) { return RowConvolver<T, Stream>(c); },
      [](auto& convolver, int64_t task) { convolver.run(task, nullptr); },
      [](const auto& g) { return RowCorrelator<T>(g); },
      [&](int64_t n, int64_t channel, int64_t band) {
        return ((n * gradient.channels + channel) * gradient.bands.count() + band) * gradient.slot_size();
      },
      1);
}

}  // namespace fastseg::FASTSEG_ISA
