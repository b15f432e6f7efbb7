// The small parts of channel and spatial attention: two dense layers, and a convolution of two maps to one.
#pragma once
#include "fastseg/cbam.h"
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/partial.h"
#include "fastseg/cpu/vec.h"
#include "fastseg/cpu/vec_math.h"

namespace fastseg::FASTSEG_ISA {

// Gates are few and whole images hang on each: they are computed in float64 and rounded once, so that their errors do
// not add up in the sums of backward.
template <class F>
inline Vec<double> in_float64(Vec<double> v, const F& f) {
  return f(v);
}
template <class F>
inline Vec<float> in_float64(Vec<float> v, const F& f) {
  typedef float Half __attribute__((vector_size(vector_bytes / 2)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof halves);
  for (Half& half : halves) half = __builtin_convertvector(f(__builtin_convertvector(half, Vec<double>)), Half);
  std::memcpy(&v, halves, sizeof halves);
  return v;
}

inline Vec<double> sigmoid(Vec<double> z) { return 1 / (1 + exp(-z)); }

// Rows whose products are computed together, one a lane.
constexpr int64_t dense_rows = lanes<double>;

// matrix[row + k] . vector for k below dense_rows and `rows`, in float64; anything behind them.
template <class A>
inline Vec<double> row_products(const A* matrix, int64_t row, int64_t rows, const A* vector, int64_t columns) {
  constexpr int at_once = dense_rows < 4 ? dense_rows : 4;  // sums that do not wait for each other
  Vec<double> products = {};
  for (int64_t k = 0; k < dense_rows && row + k < rows; k += at_once) {
    const A* from[at_once];
    for (int q = 0; q < at_once; ++q) from[q] = matrix + (row + k + q < rows ? row + k + q : rows - 1) * columns;
    WideProducts<A> sums[at_once];
    for (int64_t i = 0; i < columns; i += lanes<A>) {
      const WideFactor<A> factor(load_first(vector + i, columns - i));
      for (int q = 0; q < at_once; ++q) sums[q].add(load_first(from[q] + i, columns - i), factor);
    }
    for (int q = 0; q < at_once; ++q) products[k + q] = sums[q].total();
  }
  return products;
}

// ---- the dense layers: gate = sigmoid(sum over pools of fc2(relu(fc1(pool))))

// relu(fc1(pool)) of dense_rows units from h on.
template <class A>
inline void hidden_units(const CbamShape& shape, const CbamWeights& weights, const A* pool, int64_t h, A* hidden) {
  const A* bias = static_cast<const A*>(weights.fc1_bias);
  const Vec<double> sums =
      row_products(static_cast<const A*>(weights.fc1_weight), h, shape.hidden, pool, shape.channels);
  for (int64_t k = 0; k < dense_rows && h + k < shape.hidden; ++k) {
    const A z = A(sums[k] + (bias ? double(bias[h + k]) : 0.0));
    hidden[h + k] = z <= 0 ? A(0) : z;  // NaN passes
  }
}

// Calls take(channel, gate) with the gates of dense_rows channels from c on, in float64; `hidden` is [2, shape.hidden].
template <class A, class Take>
inline void channel_gates(const CbamShape& shape, const CbamWeights& weights, const A* hidden, int64_t c,
                          const Take& take) {
  const A* bias = static_cast<const A*>(weights.fc2_bias);
  Vec<double> z = {};
  for (int64_t p = 0; p < shape.pools(); ++p) {
    z += row_products(static_cast<const A*>(weights.fc2_weight), c, shape.channels, hidden + p * shape.hidden,
                      shape.hidden);
    for (int64_t k = 0; bias && k < dense_rows && c + k < shape.channels; ++k) z[k] += double(bias[c + k]);
  }
  const Vec<double> gates = sigmoid(z);
  for (int64_t k = 0; k < dense_rows && c + k < shape.channels; ++k) take(c + k, gates[k]);
}

// What the gradients of the dense layers need of one image.
template <class A>
struct DenseGradients {
  A* hidden;        // [2, hidden]: relu(fc1(pool))
  double* dhidden;  // [2, hidden]: gradient at fc1's output
  double* dlogit;   // [channels]: gradient at the gate's sigmoid
  double* dpooled;  // [2, channels]
};

// From the gradient of the gate, [channels].
template <class A>
inline void channel_gate_backward(const CbamShape& shape, const CbamWeights& weights, const A* pooled,
                                  const double* dgate, const DenseGradients<A>& to) {
  const A* fc1 = static_cast<const A*>(weights.fc1_weight);
  const A* fc2 = static_cast<const A*>(weights.fc2_weight);
  const int64_t channels = shape.channels, hidden = shape.hidden, pools = shape.pools();
  for (int64_t p = 0; p < pools; ++p)
    for (int64_t h = 0; h < hidden; h += dense_rows)
      hidden_units(shape, weights, pooled + p * channels, h, to.hidden + p * hidden);
  for (int64_t c = 0; c < channels; c += dense_rows)
    channel_gates(shape, weights, to.hidden, c,
                  [&](int64_t i, double gate) { to.dlogit[i] = dgate[i] * gate * (1 - gate); });
  for (int64_t p = 0; p < pools; ++p) {
    const A* h = to.hidden + p * hidden;
    double *dh = to.dhidden + p * hidden, *dpool = to.dpooled + p * channels;
    for (int64_t i = 0; i < hidden; ++i) dh[i] = 0;
    for (int64_t c = 0; c < channels; ++c)
      for (int64_t i = 0; i < hidden; ++i) dh[i] += to.dlogit[c] * double(fc2[c * hidden + i]);
    for (int64_t i = 0; i < hidden; ++i) dh[i] = h[i] <= 0 ? 0.0 : dh[i];
    for (int64_t c = 0; c < channels; ++c) dpool[c] = 0;
    for (int64_t i = 0; i < hidden; ++i)
      for (int64_t c = 0; c < channels; ++c) dpool[c] += dh[i] * double(fc1[i * channels + c]);
  }
}

// Gradients of the dense layers' parameters: sums over images, in order. image(n) gives n's DenseGradients.
template <class A, class Image>
inline void dense_gradients(const CbamShape& shape, const CbamSaved& saved, const CbamGradients& to, int threads,
                            const Image& image) {
  const int64_t channels = shape.channels, hidden = shape.hidden, pools = shape.pools();
  const int64_t work = shape.batch * channels * hidden;
  A *dfc1 = static_cast<A*>(to.fc1_weight), *dbias1 = static_cast<A*>(to.fc1_bias);
  A *dfc2 = static_cast<A*>(to.fc2_weight), *dbias2 = static_cast<A*>(to.fc2_bias);
  parallel_spans(work < 16384 ? 1 : threads, hidden, [&](int64_t begin, int64_t end) {
    Scratch<double> row(channels);
    for (int64_t i = begin; i < end; ++i) {
      double bias = 0;
      for (int64_t c = 0; c < channels; ++c) row[c] = 0;
      for (int64_t n = 0; n < shape.batch; ++n)
        for (int64_t p = 0; p < pools; ++p) {
          const double dh = image(n).dhidden[p * hidden + i];
          const A* pool = static_cast<const A*>(saved.pooled) + (shape.pools() * n + p) * channels;
          bias += dh;
          for (int64_t c = 0; c < channels; ++c) row[c] += dh * double(pool[c]);
        }
      for (int64_t c = 0; c < channels; ++c) dfc1[i * channels + c] = A(row[c]);
      if (dbias1) dbias1[i] = A(bias);
    }
  });
  parallel_spans(work < 16384 ? 1 : threads, channels, [&](int64_t begin, int64_t end) {
    Scratch<double> row(hidden);
    for (int64_t c = begin; c < end; ++c) {
      double bias = 0;
      for (int64_t i = 0; i < hidden; ++i) row[i] = 0;
      for (int64_t n = 0; n < shape.batch; ++n) {
        const DenseGradients<A> from = image(n);
        bias += double(pools) * from.dlogit[c];
        for (int64_t p = 0; p < pools; ++p)
          for (int64_t i = 0; i < hidden; ++i) row[i] += from.dlogit[c] * double(from.hidden[p * hidden + i]);
      }
      for (int64_t i = 0; i < hidden; ++i) dfc2[c * hidden + i] = A(row[i]);
      if (dbias2) dbias2[c] = A(bias);
    }
  });
}

// ---- the convolution, stride 1, zeros around: maps lie in frames with room for them

// A plane with zeros around it, and behind each row as many as a block of vectors may read.
template <class A>
struct Frame {
  static constexpr int64_t block = 4 * lanes<A>;
  int64_t size[3], reach[3];
  int64_t pitch, rows, elements;

  explicit Frame(const CbamShape& shape) {
    for (int axis = 0; axis < 3; ++axis) size[axis] = shape.size[axis], reach[axis] = shape.kernel[axis] / 2;
    pitch = rounded_up(size[2], block) + 2 * reach[2];
    rows = size[1] + 2 * reach[1];
    elements = rounded_up((size[0] + 2 * reach[0]) * rows * pitch, lanes<A>);
  }
  int64_t lines() const { return size[0] * size[1]; }
  // Where the tap (0, 0, 0) of a line's first pixel lies.
  int64_t corner(int64_t line) const { return (line / size[1] * rows + line % size[1]) * pitch; }
  int64_t inside(int64_t line) const { return corner(line) + (reach[0] * rows + reach[1]) * pitch + reach[2]; }

  void fill(const A* plane, A* frame) const {
    std::memset(frame, 0, size_t(elements) * sizeof(A));
    for (int64_t line = 0; line < lines(); ++line)
      std::memcpy(frame + inside(line), plane + line * size[2], size_t(size[2]) * sizeof(A));
  }
};

// One line of the convolution of `planes` frames; `out` has room for whole blocks.
template <class A>
inline void convolve_line(const CbamShape& shape, const Frame<A>& frame, const A* from, int64_t planes, const A* weight,
                          A bias, int64_t line, A* out) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  for (int64_t x = 0; x < frame.size[2]; x += Frame<A>::block) {
    V sum[4];
    for (V& s : sum) s = broadcast<V>(bias);
    const A* w = weight;
    for (int64_t p = 0; p < planes; ++p)
      for (int64_t i = 0; i < shape.kernel[0]; ++i)
        for (int64_t j = 0; j < shape.kernel[1]; ++j) {
          const A* at = from + p * frame.elements + frame.corner(line) + (i * frame.rows + j) * frame.pitch + x;
          for (int64_t k = 0; k < shape.kernel[2]; ++k, ++w, ++at)
            for (int q = 0; q < 4; ++q) sum[q] += *w * load(at + q * L);
        }
    for (int q = 0; q < 4; ++q) store(out + x + q * L, sum[q]);
  }
}

// Lines whose gradients of the weight are added in one slot.
constexpr int64_t gradient_lines = 8;

// Adds sums over a slot's lines of grad[s] * map[s + tap], one a tap of both maps, and of grad. grad's frame has the
// maps' geometry; zeros around it make the last vector of a line right.
template <class A>
inline void convolution_gradient(const CbamShape& shape, const Frame<A>& frame, const A* maps, const A* grad,
                                 int64_t slot, Vec<A>* scratch, double* to) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  const int64_t taps = 2 * shape.taps(), first = slot * gradient_lines;
  const int64_t last = first + gradient_lines < frame.lines() ? first + gradient_lines : frame.lines();
  for (int64_t t = 0; t < taps; ++t) scratch[t] = V{};
  WideSum<A> of_grad;
  for (int64_t line = first; line < last; ++line) {
    const A* g = grad + frame.inside(line);
    const int64_t width = frame.size[2];
    V* sum = scratch;
    for (int64_t p = 0; p < 2; ++p)
      for (int64_t i = 0; i < shape.kernel[0]; ++i)
        for (int64_t j = 0; j < shape.kernel[1]; ++j) {
          const A* at = maps + p * frame.elements + frame.corner(line) + (i * frame.rows + j) * frame.pitch;
          for (int64_t k = 0; k < shape.kernel[2]; ++k, ++sum, ++at) {
            V s[2] = {};
            int64_t x = 0;
            for (; x + 2 * L <= width; x += 2 * L)
              for (int q = 0; q < 2; ++q) s[q] += load(g + x + q * L) * load(at + x + q * L);
            // Behind the line lie zeros of grad's frame, or the kernel's margin of the next line, also zeros.
            for (; x < width; x += L) s[0] += load_first(g + x, width - x) * load(at + x);
            *sum += s[0] + s[1];
          }
        }
    for (int64_t x = 0; x < width; x += L) of_grad.add(load_first(g + x, width - x));
  }
  for (int64_t t = 0; t < taps; ++t) to[t] = double(add_lanes(scratch[t]));
  to[taps] = of_grad.total();
}

}  // namespace fastseg::FASTSEG_ISA
