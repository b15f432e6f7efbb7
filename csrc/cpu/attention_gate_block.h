// The attention of a block of pixels, whose features never leave the cache.
//
// Floor: x and gating once, y once; features * (inputs + 1) multiply-adds a pixel. A block's x is read to the cache,
// multiplied there in tiles that stay in registers up to the dot product with psi, and scaled.
//
// Where gating lies on a coarser grid, Wg g is a product on that grid (interpolation and the product commute), done
// before, and what tiles begin with is interpolated from it.
#pragma once
#include "attention_gate_interpolation.h"
#include "attention_gate_panels.h"
#include "fastseg/attention_gate.h"
#include "fastseg/cpu/vec_math.h"

namespace fastseg::FASTSEG_ISA {

// relu(sums) of tile_outputs features of Vectors vectors of pixels, times psi, added to logits; kept where Keep.
// panel: [inputs][pitch]. begin: [features][pitch], what the sums begin with, or nullptr for bias.
template <int Vectors, bool Keep, class A>
inline void gate_tile(const A* weights, const A* panel, int64_t inputs, int64_t pitch, const A* bias, const A* begin,
                      const A* psi, A* logits, A* hidden) {
  constexpr int L = lanes<A>;
  Vec<A> sum[tile_outputs][Vectors];
#pragma GCC unroll 8
  for (int o = 0; o < tile_outputs; ++o)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v) {
      sum[o][v] = broadcast<Vec<A>>(bias[o]);
      if (begin) sum[o][v] += load(begin + o * pitch + v * L);
    }
  for (int64_t c = 0; c < inputs; ++c, weights += tile_outputs, panel += pitch) {
    Vec<A> x[Vectors];
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v) x[v] = load(panel + v * L);
#pragma GCC unroll 8
    for (int o = 0; o < tile_outputs; ++o) {
      const Vec<A> w = broadcast<Vec<A>>(weights[o]);
#pragma GCC unroll 3
      for (int v = 0; v < Vectors; ++v) sum[o][v] += x[v] * w;
    }
  }
#pragma GCC unroll 3
  for (int v = 0; v < Vectors; ++v) {
    Vec<A> logit{};
#pragma GCC unroll 8
    for (int o = 0; o < tile_outputs; ++o) {
      const Vec<A> h = sum[o][v] <= 0 ? Vec<A>{} : sum[o][v];  // NaN passes through
      if constexpr (Keep) store(hidden + o * pitch + v * L, h);
      logit += h * psi[o];
    }
    store(logits + v * L, load(logits + v * L) + logit);
  }
}

// What all blocks share.
template <class T>
struct Gate {
  using A = compute_t<T>;
  const AttentionGate& args;
  const int64_t inputs, features, pixels;  // features: filled up to whole tiles
  const PackedWeights<A> weights;
  Scratch<A> bias, psi;  // zeros beyond the last feature
  const A psi_bias;
  const Interpolation<A> interpolation;
  int64_t panel_pixels, blocks;  // blocks of a sample

  // panel_bytes: of a block's panels together.
  Gate(const AttentionGate& gate, int64_t panel_bytes)
      : args(gate),
        inputs(gate.channels + gate.gating_channels),
        features(rounded_up(gate.features, tile_outputs)),
        pixels(gate.size[0] * gate.size[1] * gate.size[2]),
        weights(gate.weight, inputs, gate.features, inputs, 1),
        bias(features),
        psi(features),
        psi_bias(static_cast<const A*>(gate.vectors)[2 * gate.features]),
        interpolation(gate.size, gate.coarse_size, gate.features) {
    const A* vectors = static_cast<const A*>(gate.vectors);
    for (int64_t f = 0; f < features; ++f) {
      bias[f] = f < gate.features ? vectors[f] : A(0);
      psi[f] = f < gate.features ? vectors[gate.features + f] : A(0);
    }
    const int64_t tiles = panel_bytes / int64_t(sizeof(A)) / ((inputs + features) * tile_pixels<A>);
    panel_pixels = tile_pixels<A> * (tiles < 1 ? 1 : tiles > 8 ? 8 : tiles);
    blocks = (pixels + panel_pixels - 1) / panel_pixels;
  }

  int64_t first_pixel(int64_t block) const { return block * panel_pixels; }
  int64_t pixels_in(int64_t block) const {
    const int64_t left = pixels - first_pixel(block);
    return left < panel_pixels ? left : panel_pixels;
  }
};

// One thread's memory for a block. Keep: the features stay in `hidden`.
template <class T, bool Keep>
struct GateBlock {
  using A = compute_t<T>;
  static constexpr int L = lanes<A>;
  const Gate<T>& gate;
  const int64_t pitch;
  Scratch<A> panel;                  // [inputs][pitch]: x, then gating
  Scratch<A> hidden;                 // [features][pitch], after run() where Keep
  Scratch<A> interpolated, row;      // [pitch][features in vectors]; a row of the coarse grid
  Scratch<A> attention, derivative;  // [pitch]: the sigmoid and its derivative
  int64_t filled = 0;                // pixels, with those that fill up the last vector

  explicit GateBlock(const Gate<T>& shared)
      : gate(shared),
        pitch(shared.panel_pixels),
        panel((shared.inputs + correlated_edge) * pitch),
        hidden(Keep || shared.args.coarse ? (shared.features + correlated_edge) * pitch : 0),
        interpolated(shared.args.coarse ? pitch * shared.interpolation.pitch() : 0),
        row(shared.args.coarse ? shared.interpolation.row_size() : 0),
        attention(pitch),
        derivative(pitch) {}

  void run(int64_t n, int64_t block) {
    const AttentionGate& args = gate.args;
    const int64_t first = gate.first_pixel(block), count = gate.pixels_in(block);
    filled = rounded_up(count, L);
    load_panel<T>(args.x, n, first, args.channels, count, panel.get(), pitch);
    if (args.gating)
      load_panel<T>(args.gating, n, first, args.gating_channels, count, panel.get() + args.channels * pitch, pitch);
    if (args.coarse) interpolate(n, first, count);
    for (int64_t p = 0; p < filled; ++p) attention[p] = gate.psi_bias;
    for (int64_t p = 0; p < filled; p += tile_pixels<A>)
      for (int64_t f = 0; f < gate.features; f += tile_outputs) {
        if (filled - p > 2 * L)
          tile<3>(p, f);
        else if (filled - p > L)
          tile<2>(p, f);
        else
          tile<1>(p, f);
      }
    for (int64_t p = 0; p < filled; p += L) {
      const Sigmoid<Vec<A>> s = sigmoid(load(attention.get() + p));
      store(attention.get() + p, s.value);
      if constexpr (Keep) store(derivative.get() + p, s.derivative);
    }
  }

 private:
  template <int Vectors>
  void tile(int64_t p, int64_t f) {
    A* at = hidden.get() + f * pitch + p;
    gate_tile<Vectors, Keep>(gate.weights.block(f), panel.get() + p, gate.inputs, pitch, gate.bias.get() + f,
                             gate.args.coarse ? at : nullptr, gate.psi.get() + f, attention.get() + p, at);
  }

  // What the sums begin with, into `hidden`, where a tile reads it before it writes its features.
  void interpolate(int64_t n, int64_t first, int64_t count) {
    const View& coarse = gate.args.coarse;
    const int64_t width = gate.interpolation.pitch();
    gate.interpolation.interpolate(static_cast<const A*>(coarse.data) + n * coarse.batch_stride, coarse.spatial_stride,
                                   first, count, row.get(), interpolated.get());
    View view;
    view.data = interpolated.get();
    view.spatial_stride = width;
    view.channel_stride = 1;
    load_panel<A>(view, 0, 0, gate.args.features, count, hidden.get(), pitch);
    for (int64_t i = gate.args.features * pitch; i < gate.features * pitch; ++i) hidden[i] = 0;
  }
};

}  // namespace fastseg::FASTSEG_ISA
