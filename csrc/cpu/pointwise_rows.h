// 1x1 convolutions of rows: a panel of pixels of all inputs is copied to the cache, in the compute type, for rows of an
// image lie a power of two apart, where they would push each other out. Then a product in registers, tile by tile.
#pragma once
#include <algorithm>

#include "pointwise_tile.h"

namespace fastseg::FASTSEG_ISA {
// Pixels [first, first + count) of every channel to [channels][pitch], zeros behind them to a multiple of a vector.
template <class T, class A>
inline void copy_panel(const T* from, int64_t channel_stride, int64_t channels, int64_t count, A* to, int64_t pitch) {
  constexpr int L = lanes<A>;
  for (int64_t c = 0; c < channels; ++c, from += channel_stride, to += pitch) {
    int64_t i = 0;
    for (; i + L <= count; i += L) store(to + i, load(from + i));
    for (; i % L != 0 || i < count; ++i) to[i] = i < count ? A(load_one(from + i)) : A(0);
  }
}

template <class A>
constexpr int64_t most_panel_pixels = 8 * tile_pixels<A>;

template <class T, bool Stream, class Finish = EachAsItIs>
inline void pointwise_rows(const PointwiseConv& args, int threads, const Finish& finish_of = {}) {
  using A = compute_t<T>;
  constexpr int64_t panel_bytes = 96 * 1024, most_tiles = most_panel_pixels<A> / tile_pixels<A>;
  const int64_t tiles = panel_bytes / int64_t(sizeof(A)) / (args.inputs * tile_pixels<A>);
  const int64_t fitting = tile_pixels<A> * std::clamp<int64_t>(tiles, 1, most_tiles);
  const int64_t panel_pixels = rounded_up(ceil_div(args.pixels, ceil_div(args.pixels, fitting)), lanes<A>);
  const int64_t panels = ceil_div(args.pixels, panel_pixels), blocks = ceil_div(args.outputs, tile_outputs);
  // Outputs are cut too where there are few panels.
  const int64_t groups = std::clamp<int64_t>(ceil_div(4 * threads, args.batch * panels), 1, blocks);
  const PackedWeights<T> weights(args.weight, args.inputs, args.outputs, args.output_stride, args.input_stride,
                                 threads);
  Scratch<A> bias(args.outputs + tile_outputs);
  for (int64_t o = 0; o < args.outputs + tile_outputs; ++o)
    bias[o] = o < args.outputs ? load_parameter(args.bias, o, A(0)) : A(0);
  parallel_spans(threads, args.batch * panels * groups, [&](int64_t begin, int64_t end) {
    Scratch<A> panel(args.inputs * panel_pixels);
    for (int64_t task = begin; task < end; ++task) {
      const int64_t i = task / groups, group = task % groups, n = i / panels, first = i % panels * panel_pixels;
      const int64_t count = std::min(args.pixels - first, panel_pixels);
      const int64_t first_output = blocks * group / groups * tile_outputs;
      const int64_t last_output = std::min(args.outputs, blocks * (group + 1) / groups * tile_outputs);
      const T* x = static_cast<const T*>(args.x.data) + n * args.x.batch_stride + first;
      T* y = static_cast<T*>(args.y.data) + n * args.y.batch_stride + first;
      if (task == begin || group == 0)
        copy_panel(x, args.x.channel_stride, args.inputs, count, panel.get(), panel_pixels);
      multiply_panel<Stream>(weights, bias.get(), args.inputs, first_output, last_output, panel.get(), panel_pixels,
                             count, y, args.y.channel_stride, finish_of(n, first, count));
    }
    if constexpr (Stream) stream_fence();
  });
}

// Sums over pixels of Rows * Columns products, added to `to`, which has `pitch` columns a row.
template <int Rows, int Columns, class A>
inline void correlate_tile(const A* grad, const A* x, int64_t panel_pitch, int64_t pixels, double* to, int64_t pitch) {
  constexpr int L = lanes<A>;
  Vec<A> sum[Rows][Columns] = {};
  for (int64_t p = 0; p < pixels; p += L) {
    Vec<A> g[Rows];
#pragma GCC unroll 5
    for (int r = 0; r < Rows; ++r) g[r] = load(grad + r * panel_pitch + p);
#pragma GCC unroll 5
    for (int c = 0; c < Columns; ++c) {
      const Vec<A> v = load(x + c * panel_pitch + p);
#pragma GCC unroll 5
      for (int r = 0; r < Rows; ++r) sum[r][c] += g[r] * v;
    }
  }
  for (int r = 0; r < Rows; ++r)
    for (int c = 0; c < Columns; ++c) to[r * pitch + c] += double(add_lanes(sum[r][c]));
}

// Rows and columns that correlate_tile takes together.
constexpr int correlated_edge = vector_bytes == 64 ? 5 : 3;

// All sums over pixels of products of two panels, added to `to` [outputs][inputs].
template <class A>
inline void correlate_panels(const A* grad, int64_t outputs, const A* x, int64_t inputs, int64_t pitch, int64_t pixels,
                             double* to) {
  constexpr int edge = correlated_edge;
  for (int64_t o = 0; o < outputs; o += o + edge <= outputs ? edge : 1) {
    const A* g = grad + o * pitch;
    for (int64_t c = 0; c < inputs; c += c + edge <= inputs ? edge : 1) {
      const A* v = x + c * pitch;
      double* at = to + o * inputs + c;
      if (o + edge <= outputs && c + edge <= inputs)
        correlate_tile<edge, edge>(g, v, pitch, pixels, at, inputs);
      else if (o + edge <= outputs)
        correlate_tile<edge, 1>(g, v, pitch, pixels, at, inputs);
      else if (c + edge <= inputs)
        correlate_tile<1, edge>(g, v, pitch, pixels, at, inputs);
      else
        correlate_tile<1, 1>(g, v, pitch, pixels, at, inputs);
    }
  }
}

template <class T>
inline void pointwise_gradient_rows(const PointwiseConvGradient& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>, edge = correlated_edge;
  constexpr int64_t panel_bytes = 640 * 1024, slot_bytes = int64_t(16) << 20;
  const int64_t inputs = args.inputs, outputs = args.outputs, slot_size = outputs * (inputs + 1);
  // Panels and slots depend on the shape only, so the sums do not depend on the number of threads.
  int64_t panel_pixels = panel_bytes / int64_t(sizeof(A)) / (inputs + outputs) / L * L;
  panel_pixels = panel_pixels < 4 * L ? 4 * L : panel_pixels > 512 ? 512 : panel_pixels;
  const int64_t panels = args.batch * ((args.pixels + panel_pixels - 1) / panel_pixels);
  const int64_t fitting = slot_bytes / (slot_size * int64_t(sizeof(double)));
  const int64_t wanted = fitting < 16 ? 16 : fitting > 64 ? 64 : fitting;
  const int64_t slots = panels < wanted ? panels : wanted;
  Scratch<double> sums(slots * slot_size);
  parallel_spans(threads, slots, [&](int64_t begin, int64_t end) {
    Scratch<A> x_panel((inputs + edge) * panel_pixels), grad_panel((outputs + edge) * panel_pixels);
    for (int64_t slot = begin; slot < end; ++slot) {
      double* to = sums.get() + slot * slot_size;
      for (int64_t i = 0; i < slot_size; ++i) to[i] = 0;
      for (int64_t i = panels * slot / slots; i < panels * (slot + 1) / slots; ++i) {
        const int64_t each = panels / args.batch, n = i / each, first = i % each * panel_pixels;
        const int64_t count = args.pixels - first < panel_pixels ? args.pixels - first : panel_pixels;
        const int64_t filled = (count + L - 1) / L * L;
        copy_panel(static_cast<const T*>(args.x.data) + n * args.x.batch_stride + first, args.x.channel_stride, inputs,
                   count, x_panel.get(), panel_pixels);
        copy_panel(static_cast<const T*>(args.grad.data) + n * args.grad.batch_stride + first, args.grad.channel_stride,
                   outputs, count, grad_panel.get(), panel_pixels);
        correlate_panels(grad_panel.get(), outputs, x_panel.get(), inputs, panel_pixels, filled, to);
        if (args.dbias)
          for (int64_t o = 0; o < outputs; ++o) {
            WideSum<A> wide;
            for (int64_t p = 0; p < filled; p += L) wide.add(load(grad_panel.get() + o * panel_pixels + p));
            to[outputs * inputs + o] += wide.total();
          }
      }
    }
  });
  add_slots(sums.get(), slots, slot_size, threads);
  for (int64_t i = 0; i < outputs * inputs; ++i) static_cast<A*>(args.dweight)[i] = A(sums[i]);
  for (int64_t o = 0; args.dbias && o < outputs; ++o) static_cast<A*>(args.dbias)[o] = A(sums[outputs * inputs + o]);
}

}  // namespace fastseg::FASTSEG_ISA
