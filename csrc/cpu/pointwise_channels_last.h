// 1x1 convolutions of channels-last images: pixels are rows of a matrix as they lie. 16-bit ones are converted chunk by
// chunk, in the cache.
#pragma once
#include <algorithm>

#include "fastseg/pointwise.h"
#include "pointwise_pixels.h"

namespace fastseg::FASTSEG_ISA {

// `count` pixels of `channels` to [count][width] in the compute type, zeros behind the last channel.
template <class T, class A>
inline void copy_pixels(const T* from, int64_t pitch, int64_t channels, int64_t count, A* to, int64_t width) {
  constexpr int L = lanes<A>;
  for (int64_t p = 0; p < count; ++p, from += pitch, to += width) {
    int64_t c = 0;
    for (; c + L <= channels; c += L) store(to + c, load(from + c));
    for (; c < width; ++c) to[c] = c < channels ? A(load_one(from + c)) : A(0);
  }
}

// Pixels that a thread takes at a time.
constexpr int64_t pixels_in_chunk = 16 * tile_pixels_together;

template <class T, bool Stream, class Finish = EachAsItIs>
inline void pointwise_channels_last(const PointwiseConv& args, int threads, const Finish& finish_of = {}) {
  using A = compute_t<T>;
  constexpr int64_t chunk = pixels_in_chunk;
  const PixelWeights<T> weights(args.weight, args.inputs, args.outputs, args.output_stride, args.input_stride,
                                args.bias);
  const int64_t chunks = (args.pixels + chunk - 1) / chunk;
  parallel_spans(threads, args.batch * chunks, [&](int64_t begin, int64_t end) {
    constexpr bool direct = std::is_same_v<T, A>;
    Scratch<A> converted(direct ? 0 : chunk * args.inputs);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / chunks, first = i % chunks * chunk, count = std::min(chunk, args.pixels - first);
      const T* x = static_cast<const T*>(args.x.data) + n * args.x.batch_stride + first * args.x.spatial_stride;
      T* y = static_cast<T*>(args.y.data) + n * args.y.batch_stride + first * args.y.spatial_stride;
      const auto finish = finish_of(n, first, count);
      if constexpr (direct) {
        multiply_row_of_pixels<Stream>(weights, x, args.x.spatial_stride, count, y, args.y.spatial_stride, finish);
      } else {
        copy_pixels(x, args.x.spatial_stride, args.inputs, count, converted.get(), args.inputs);
        multiply_row_of_pixels<Stream>(weights, converted.get(), args.inputs, count, y, args.y.spatial_stride, finish);
      }
    }
    if constexpr (Stream) stream_fence();
  });
}

// Sums over pixels of Inputs * tile_output_lanes products, added to `to` [Inputs][pitch].
template <int Inputs, class A>
inline void correlate_outputs(const A* x, int64_t x_pitch, const A* grad, int64_t grad_pitch, int64_t pixels,
                              double* to, int64_t pitch) {
  constexpr int L = lanes<A>;
  Vec<A> sum[Inputs][tile_output_vectors] = {};
  for (int64_t p = 0; p < pixels; ++p, x += x_pitch, grad += grad_pitch) {
    Vec<A> g[tile_output_vectors];
#pragma GCC unroll 4
    for (int v = 0; v < tile_output_vectors; ++v) g[v] = load(grad + v * L);
#pragma GCC unroll 6
    for (int c = 0; c < Inputs; ++c) {
      const Vec<A> value = broadcast<Vec<A>>(x[c]);
#pragma GCC unroll 4
      for (int v = 0; v < tile_output_vectors; ++v) sum[c][v] += value * g[v];
    }
  }
  for (int c = 0; c < Inputs; ++c)
    for (int v = 0; v < tile_output_vectors; ++v) add_to_sums<A>(sum[c][v], to + c * pitch + v * L);
}

template <class T>
inline void pointwise_gradient_channels_last(const PointwiseConvGradient& args, int threads) {
  using A = compute_t<T>;
  constexpr int together = tile_pixels_together;
  constexpr int64_t chunk = 128, width = tile_output_lanes<A>, enough_tasks = 64;
  const int64_t inputs = args.inputs, outputs = args.outputs, blocks = (outputs + width - 1) / width;
  const int64_t slot_size = (inputs + 1) * width;  // of one block of outputs: [inputs, then the bias][outputs]
  // Slots depend on the shape only, so the sums do not depend on the number of threads.
  const int64_t each = (args.pixels + chunk - 1) / chunk, chunks = args.batch * each;
  const int64_t slots = std::min(chunks, (enough_tasks + blocks - 1) / blocks);
  Scratch<double> sums(slots * blocks * slot_size);
  parallel_spans(threads, slots * blocks, [&](int64_t begin, int64_t end) {
    Scratch<A> x_pixels(chunk * inputs), grad_pixels(chunk * width);
    A one[chunk];
    std::fill(one, one + chunk, A(1));
    for (int64_t task = begin; task < end; ++task) {
      const int64_t slot = task / blocks, first_output = task % blocks * width;
      double* to = sums.get() + task * slot_size;
      std::fill(to, to + slot_size, 0.0);
      for (int64_t i = chunks * slot / slots; i < chunks * (slot + 1) / slots; ++i) {
        const int64_t n = i / each, first = i % each * chunk, count = std::min(chunk, args.pixels - first);
        const View &x = args.x, &grad = args.grad;
        copy_pixels(static_cast<const T*>(x.data) + n * x.batch_stride + first * x.spatial_stride, x.spatial_stride,
                    inputs, count, x_pixels.get(), inputs);
        copy_pixels(
            static_cast<const T*>(grad.data) + n * grad.batch_stride + first * grad.spatial_stride + first_output,
            grad.spatial_stride, std::min(width, outputs - first_output), count, grad_pixels.get(), width);
        int64_t c = 0;
        for (; c + together <= inputs; c += together)
          correlate_outputs<together>(x_pixels.get() + c, inputs, grad_pixels.get(), width, count, to + c * width,
                                      width);
        for (; c < inputs; ++c)
          correlate_outputs<1>(x_pixels.get() + c, inputs, grad_pixels.get(), width, count, to + c * width, width);
        if (args.dbias) correlate_outputs<1>(one, 1, grad_pixels.get(), width, count, to + inputs * width, width);
      }
    }
  });
  add_slots(sums.get(), slots, blocks * slot_size, threads);
  for (int64_t o = 0; o < outputs; ++o) {
    const double* from = sums.get() + o / width * slot_size + o % width;
    A* to = static_cast<A*>(args.dweight) + o * inputs;
    for (int64_t c = 0; c < inputs; ++c) to[c] = A(from[c * width]);
    if (args.dbias) static_cast<A*>(args.dbias)[o] = A(from[inputs * width]);
  }
}

}  // namespace fastseg::FASTSEG_ISA
