// How a depthwise convolution is cut: along each axis into classes without dilation, the whole into bands for threads.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"
#include "fastseg/depthwise.h"

namespace fastseg::FASTSEG_ISA {

inline int64_t round_up(int64_t a, int64_t b) { return ceil_div(a, b) * b; }
inline int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }
inline int64_t common_divisor(int64_t a, int64_t b) { return b == 0 ? a : common_divisor(b, a % b); }

// Some of the targets of an axis: target first + spacing * j takes tap weight_first + weight_step * t from source
// in_first + in_step * j + in_spacing * t.
struct AxisClass {
  int64_t first, spacing, count;  // of targets
  int64_t in_first, in_step, in_spacing;
  int64_t weight_first, weight_step, taps;

  // In a folded class sources lie on one grid, m = step * j + t: neighbours share them however large the dilation is.
  int64_t step() const { return in_step / in_spacing; }
};

// One axis of a convolution from `sources` to `targets` elements. `transposed`: it is the gradient of the convolution
// with these numbers, and sources are then the convolution's outputs.
struct Axis {
  int64_t sources, targets, kernel, stride, padding, dilation;
  bool transposed;

  int64_t classes() const {
    const int64_t apart = dilation / common_divisor(stride, dilation);
    return transposed ? apart * stride : apart;
  }

  // Folded class number r.
  AxisClass at(int64_t r) const {
    const int64_t divisor = common_divisor(stride, dilation), spacing = classes();
    const int64_t count = r < targets ? ceil_div(targets - r, spacing) : 0;
    if (!transposed)
      return {r, spacing, count, r * stride - padding, dilation * (stride / divisor), dilation, 0, 1, kernel};
    // Target i takes tap k from source (i + padding - k * dilation) / stride, where that is whole. Taps are walked
    // from the last one down, so that sources are walked upwards; read_weights has turned them round.
    int64_t last = kernel - 1;
    while (last >= 0 && (r + padding - last * dilation) % stride != 0) --last;
    if (last < 0) return {r, spacing, count, 0, 1, 1, 0, 1, 0};
    const int64_t down = stride / divisor, apart = dilation / divisor;
    return {r,    spacing,        count, (r + padding - last * dilation) / stride, apart, apart, kernel - 1 - last,
            down, last / down + 1};
  }

  // Where neighbours need not share sources, one class does for all targets, unless a strided gradient gives them
  // different taps.
  int64_t open_classes() const { return takes_all_taps() ? 1 : classes(); }
  AxisClass open_at(int64_t r) const {
    if (!takes_all_taps()) return at(r);
    return {0, 1, targets, transposed ? padding - (kernel - 1) * dilation : -padding, transposed ? 1 : stride, dilation,
            0, 1, kernel};
  }

  int64_t most_taps() const {
    return transposed ? ceil_div(kernel, stride / common_divisor(stride, dilation)) : kernel;
  }
  // Every class takes all taps in order: weights need no selection.
  bool takes_all_taps() const { return !transposed || stride == 1; }

  // Sources that targets [begin, end) read, as far as they exist.
  int64_t first_source(int64_t begin) const {
    const int64_t at =
        transposed ? floor_div(begin + padding - (kernel - 1) * dilation, stride) : begin * stride - padding;
    return most(at, 0);
  }
  int64_t end_source(int64_t end) const {
    const int64_t at =
        transposed ? floor_div(end - 1 + padding, stride) : (end - 1) * stride - padding + (kernel - 1) * dilation;
    return least(at + 1, sources);
  }

 private:
  static int64_t floor_div(int64_t a, int64_t b) { return a >= 0 ? a / b : -ceil_div(-a, b); }
};

enum { Z = 0, Y = 1, X = 2 };

inline Axis axis_of(const DepthwiseShape& s, int axis, bool transposed) {
  return {transposed ? s.output[axis] : s.input[axis],
          transposed ? s.input[axis] : s.output[axis],
          s.kernel[axis],
          s.stride[axis],
          s.padding[axis],
          s.dilation[axis],
          transposed};
}

// What one thread takes at a time: a range of depth and of rows of the targets.
struct Band {
  int64_t z_begin, z_end, y_begin, y_end;
};

// Bands depend on the shape only, so results do not depend on the number of threads. As many rows together as let the
// window of source planes stay in the first-level cache, or in the second-level one where (without strides) more than
// one row in eight would be read twice; depth is cut only where there are few channels.
struct Bands {
  int64_t depth, rows;  // of the targets
  int64_t z_count, y_count;

  static constexpr int64_t window_bytes = 256 * 1024, near_bytes = 32 * 1024;
  static constexpr int64_t enough_tasks = 64, few_tasks = 8;

  // `images`: (batch, channel) pairs, or blocks of channels; `row_bytes`: a source row in the window.
  Bands(const Axis& z, const Axis& y, int64_t images, int64_t row_bytes) : depth(z.targets), rows(y.targets) {
    const int64_t planes = z.most_taps();
    const int64_t halo = y.transposed ? (y.kernel - 1) * y.dilation / y.stride : (y.kernel - 1) * y.dilation;
    const auto fit = [&](int64_t bytes) {
      const int64_t in_window = most(bytes / (planes * row_bytes), 1);
      return y.transposed ? (in_window - halo) * y.stride : (in_window - halo) / y.stride;
    };
    const int64_t well = most(fit(near_bytes), 8 * halo);
    const int64_t height = least(most(least(fit(window_bytes), well), most(8, halo)), rows);
    y_count = ceil_div(rows, height);
    z_count = 1;
    if (images * y_count < enough_tasks)
      z_count = most(1, least(ceil_div(enough_tasks, images * y_count), depth / (2 * planes + 4)));
    if (images * y_count * z_count < enough_tasks)
      y_count = most(y_count, least(ceil_div(enough_tasks, images * z_count), rows / (16 + halo)));
    // Small volumes of few channels: threads that wait cost more than halos.
    if (images * y_count * z_count < few_tasks)
      y_count = most(y_count, least(ceil_div(few_tasks, images * z_count), rows / (4 + halo)));
    if (images * y_count * z_count < few_tasks)
      z_count = most(z_count, least(ceil_div(few_tasks, images * y_count), depth / (planes + 2)));
  }

  int64_t count() const { return z_count * y_count; }
  Band at(int64_t i) const {
    const int64_t z = i / y_count, y = i % y_count;
    return {depth * z / z_count, depth * (z + 1) / z_count, rows * y / y_count, rows * (y + 1) / y_count};
  }
  int64_t most_rows() const { return ceil_div(rows, y_count); }
};

// Sources of one axis that any band of at most `targets` targets reads, and no more than there are.
inline int64_t window_rows(const Axis& y, int64_t targets) {
  const int64_t reach = (y.kernel - 1) * y.dilation;
  const int64_t rows = y.transposed ? (targets - 1 + reach) / y.stride + 2 : (targets - 1) * y.stride + reach + 1;
  return most(least(rows, y.sources), 1);
}

// The weights of one channel in the compute type; turned round when transposed.
template <class T, class A>
inline void read_weights(const DepthwiseShape& s, const void* weight, int64_t channel, bool transposed, A* to) {
  const int64_t taps = s.taps();
  const T* from = static_cast<const T*>(weight) + channel * taps;
  for (int64_t i = 0; i < taps; ++i) to[transposed ? taps - 1 - i : i] = load_one(from + i);
}

// A convolution from one tensor to another: the forward pass, or the gradient of the input.
struct Convolution {
  DepthwiseShape shape;
  bool transposed;
  View source, target;
  const void* weight;
  Vector bias;  // of the targets' channels
  Axis z, y, x;

  Convolution(const DepthwiseShape& shape_, bool transposed_, const View& source_, const View& target_,
              const void* weight_, const Vector& bias_)
      : shape(shape_),
        transposed(transposed_),
        source(source_),
        target(target_),
        weight(weight_),
        bias(bias_),
        z(axis_of(shape, Z, transposed)),
        y(axis_of(shape, Y, transposed)),
        x(axis_of(shape, X, transposed)) {}
};

// The [taps][block] weights and the bias of a block of channels in the compute type, zeros beyond the last channel;
// weights are turned round when transposed.
template <class T, class A>
inline void read_block(const Convolution& conv, int64_t first, int64_t channels, int64_t block, A* weights, A* bias) {
  const int64_t taps = conv.shape.taps();
  for (int64_t i = 0; i < taps; ++i) {
    const T* from = static_cast<const T*>(conv.weight) + first * taps + (conv.transposed ? taps - 1 - i : i);
    for (int64_t c = 0; c < block; ++c) weights[i * block + c] = c < channels ? A(load_one(from + c * taps)) : A(0);
  }
  for (int64_t c = 0; c < block; ++c) bias[c] = c < channels ? load_parameter(conv.bias, first + c, A(0)) : A(0);
}

}  // namespace fastseg::FASTSEG_ISA
