// A small matrix product in registers, for 1x1 convolutions over pixels with adjacent channels.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"
#include "pointwise_finish.h"

namespace fastseg::FASTSEG_ISA {

// Pixels by vectors of outputs that stay in registers, beside the vectors of weights.
constexpr int tile_pixels_together = 6;
constexpr int tile_output_vectors = vector_bytes == 64 ? 4 : 2;

template <class A>
constexpr int64_t tile_output_lanes = tile_output_vectors * lanes<A>;

// The weights as tiles read them: for each block of tile_output_lanes outputs, [inputs][tile_output_lanes], zeros
// beyond the last output; and the bias, filled up likewise.
template <class T>
class PixelWeights {
 public:
  using A = compute_t<T>;

  PixelWeights(const void* weight, int64_t inputs, int64_t outputs, int64_t output_stride, int64_t input_stride,
               const Vector& bias)
      : inputs_(inputs),
        outputs_(outputs),
        blocks_((outputs + tile_output_lanes<A> - 1) / tile_output_lanes<A>),
        packed_(blocks_ * tile_output_lanes<A> * inputs),
        bias_(blocks_ * tile_output_lanes<A>) {
    const T* from = static_cast<const T*>(weight);
    for (int64_t o = 0; o < blocks_ * tile_output_lanes<A>; ++o) {
      A* to = packed_.get() + o / tile_output_lanes<A> * tile_output_lanes<A> * inputs + o % tile_output_lanes<A>;
      for (int64_t c = 0; c < inputs; ++c, to += tile_output_lanes<A>)
        *to = o < outputs ? A(load_one(from + o * output_stride + c * input_stride)) : A(0);
      bias_[o] = o < outputs ? load_parameter(bias, o, A(0)) : A(0);
    }
  }

  int64_t inputs() const { return inputs_; }
  int64_t outputs() const { return outputs_; }
  int64_t blocks() const { return blocks_; }
  const A* block(int64_t i) const { return packed_.get() + i * tile_output_lanes<A> * inputs_; }
  const A* bias(int64_t i) const { return bias_.get() + i * tile_output_lanes<A>; }

 private:
  int64_t inputs_, outputs_, blocks_;
  Scratch<A> packed_, bias_;
};

// Vectors vectors of a block of outputs of Pixels pixels, to out [Pixels][tile_output_lanes]. x: pixels `pitch` apart.
template <int Pixels, int Vectors, class A>
inline void multiply_pixels(const A* x, int64_t pitch, int64_t inputs, const A* weights, const A* bias, A* out) {
  constexpr int L = lanes<A>;
  Vec<A> sum[Pixels][Vectors];
#pragma GCC unroll 12
  for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) sum[p][v] = load(bias + v * L);
  for (int64_t c = 0; c < inputs; ++c, weights += tile_output_lanes<A>) {
    Vec<A> w[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) w[v] = load(weights + v * L);
#pragma GCC unroll 12
    for (int p = 0; p < Pixels; ++p) {
      const Vec<A> value = broadcast<Vec<A>>(x[p * pitch + c]);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[p][v] += value * w[v];
    }
  }
#pragma GCC unroll 12
  for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(out + p * tile_output_lanes<A> + v * L, sum[p][v]);
}

// The tile for a block with outputs in `vectors` of its vectors; half of them where the others are beyond the last
// output.
template <class A>
using PixelTile = void (*)(const A* x, int64_t pitch, int64_t inputs, const A* weights, const A* bias, A* out);
template <int Pixels, class A>
inline PixelTile<A> pixel_tile(int64_t vectors) {
  constexpr int half = tile_output_vectors / 2;
  return vectors <= half ? multiply_pixels<Pixels, half, A> : multiply_pixels<Pixels, tile_output_vectors, A>;
}

// Writes all outputs of `pixels` pixels, to y, whose pixels are y_pitch apart.
template <bool Stream, class T, class Finish = AsItIs>
inline void multiply_row_of_pixels(const PixelWeights<T>& weights, const compute_t<T>* x, int64_t pitch, int64_t pixels,
                                   T* y, int64_t y_pitch, const Finish& finish = {}) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>, together = tile_pixels_together;
  alignas(64) A out[together * tile_output_lanes<A>];
  for (int64_t p = 0; p < pixels;) {
    const int64_t now = p + together <= pixels ? together : 1;
    for (int64_t b = 0; b < weights.blocks(); ++b) {
      const int64_t first = b * tile_output_lanes<A>, left = weights.outputs() - first;
      const int64_t count = left < tile_output_lanes<A> ? left : tile_output_lanes<A>, vectors = (count + L - 1) / L;
      const PixelTile<A> multiply = now == together ? pixel_tile<together, A>(vectors) : pixel_tile<1, A>(vectors);
      multiply(x + p * pitch, pitch, weights.inputs(), weights.block(b), weights.bias(b), out);
      for (int64_t i = 0; i < now; ++i) {
        T* to = y + (p + i) * y_pitch + first;
        const A* row = out + i * tile_output_lanes<A>;
        int64_t o = 0;
        for (; o + L <= count; o += L) store<Stream>(to + o, finish(load(row + o), first + o, p + i));
        if (o < count) store_part(to + o, finish(load(row + o), first + o, p + i), count - o);
      }
    }
    p += now;
  }
}

}  // namespace fastseg::FASTSEG_ISA
