// A small matrix product in registers, for 1x1 convolutions over rows.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"
#include "fastseg/pointwise.h"
#include "pointwise_finish.h"

namespace fastseg::FASTSEG_ISA {

// Outputs by vectors of pixels that stay in registers, beside the vectors that are loaded.
constexpr int tile_outputs = vector_bytes == 64 ? 8 : 4;
constexpr int tile_vectors = 3;

template <class A>
constexpr int64_t tile_pixels = tile_vectors * lanes<A>;

// The weights as tiles read them: for each block of tile_outputs outputs, [inputs][tile_outputs], zeros beyond the
// last output.
template <class T>
class PackedWeights {
 public:
  using A = compute_t<T>;

  PackedWeights(const void* weight, int64_t inputs, int64_t outputs, int64_t output_stride, int64_t input_stride,
                int threads = 1)
      : inputs_(inputs), packed_(rounded_up(outputs, tile_outputs) * inputs) {
    const T* from = static_cast<const T*>(weight);
    constexpr int64_t few = 1 << 13;  // packed sooner than other threads begin
    parallel_spans(outputs * inputs < few ? 1 : threads, ceil_div(outputs, tile_outputs),
                   [&](int64_t begin, int64_t end) {
                     A* to = packed_.get() + begin * tile_outputs * inputs;
                     for (int64_t o = begin * tile_outputs; o < end * tile_outputs; o += tile_outputs)
                       for (int64_t c = 0; c < inputs; ++c)
                         for (int64_t i = o; i < o + tile_outputs; ++i)
                           *to++ = i < outputs ? A(load_one(from + i * output_stride + c * input_stride)) : A(0);
                   });
  }

  const A* block(int64_t first_output) const { return packed_.get() + first_output * inputs_; }

 private:
  int64_t inputs_;
  Scratch<A> packed_;
};

// tile_outputs outputs of Vectors vectors of pixels, to out [tile_outputs][pitch]. panel: [inputs][panel_pitch].
template <int Vectors, class A>
inline void multiply_tile(const A* weights, const A* panel, int64_t panel_pitch, int64_t inputs, const A* bias, A* out,
                          int64_t pitch) {
  constexpr int L = lanes<A>;
  Vec<A> sum[tile_outputs][Vectors];
#pragma GCC unroll 8
  for (int o = 0; o < tile_outputs; ++o)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v) sum[o][v] = broadcast<Vec<A>>(bias[o]);
  for (int64_t c = 0; c < inputs; ++c, weights += tile_outputs, panel += panel_pitch) {
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
#pragma GCC unroll 8
  for (int o = 0; o < tile_outputs; ++o)
#pragma GCC unroll 3
    for (int v = 0; v < Vectors; ++v) store(out + o * pitch + v * L, sum[o][v]);
}

// Writes `pixels` pixels of outputs [first_output, outputs) from a panel of the inputs [inputs][panel_pitch], whose
// pixels are filled up with zeros to a multiple of a vector; first_output is that of a tile. y: output 0's first pixel;
// outputs are channel_stride apart.
template <bool Stream, class W, class T, class Finish = AsItIs>
inline void multiply_panel(const PackedWeights<W>& weights, const compute_t<T>* bias, int64_t inputs,
                           int64_t first_output, int64_t outputs, const compute_t<T>* panel, int64_t panel_pitch,
                           int64_t pixels, T* y, int64_t channel_stride, const Finish& finish = {}) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  alignas(64) A out[tile_outputs * tile_pixels<A>];
  for (int64_t p = 0; p < pixels;) {
    const int64_t vectors = ceil_div(pixels - p, L), now = vectors == 4 ? 2 : vectors < 3 ? vectors : 3;
    const int64_t here = pixels - p < now * L ? pixels - p : now * L;
    for (int64_t o = first_output; o < outputs; o += tile_outputs) {
      const int64_t rows = outputs - o < tile_outputs ? outputs - o : tile_outputs;
      const auto multiply = now == 3 ? multiply_tile<3, A> : now == 2 ? multiply_tile<2, A> : multiply_tile<1, A>;
      multiply(weights.block(o), panel + p, panel_pitch, inputs, bias + o, out, tile_pixels<A>);
      for (int64_t i = 0; i < rows; ++i) {
        T* to = y + (o + i) * channel_stride + p;
        const A* from = out + i * tile_pixels<A>;
        int64_t k = 0;
        for (; k + L <= here; k += L) store<Stream>(to + k, finish(load(from + k), o + i, p + k));
        if (k < here) store_part(to + k, finish(load(from + k), o + i, p + k), here - k);
      }
    }
    p += now * L;
  }
}

}  // namespace fastseg::FASTSEG_ISA
