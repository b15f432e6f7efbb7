// 1x1 convolutions of pixels with adjacent channels: weights as products read them, and all outputs of a run of pixels.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"
#include "pixel_copies.h"
#include "pixel_product.h"
#include "pointwise_finish.h"
#include "weight_columns.h"

namespace fastseg::FASTSEG_ISA {

// A block of outputs as products read it: panel [1 + inputs][width], the bias and then the weights, zeros beyond the
// last output.
template <class A>
struct PixelBlock {
  const A* panel;
  int64_t inputs, width, first_output, outputs;
};

// The weights, cut into blocks of outputs of one width.
template <class T>
class PixelWeights {
 public:
  using A = compute_t<T>;

  PixelWeights(const void* weight, int64_t inputs, int64_t outputs, int64_t output_stride, int64_t input_stride,
               const Vector& bias, int threads = 1)
      : weight_(static_cast<const T*>(weight)),
        bias_(bias),
        inputs_(inputs),
        outputs_(outputs),
        output_stride_(output_stride),
        input_stride_(input_stride) {
    width_ = width_of(outputs, threads);
    blocks_ = ceil_div(outputs, width_);
  }

  // Blocks are of as few vectors as that many blocks need; smaller where all threads then have as many.
  static int64_t width_of(int64_t outputs, int threads = 1) {
    const int64_t vectors = ceil_div(outputs, lanes<A>), full = ceil_div(vectors, tile_output_vectors);
    const int64_t alike = rounded_up(full, threads);
    return ceil_div(vectors, vectors % alike == 0 ? alike : full) * lanes<A>;
  }

  int64_t blocks() const { return blocks_; }
  int64_t panel_size() const { return (1 + inputs_) * width_; }
  PixelBlock<A> block(int64_t i, const A* panel) const {
    const int64_t first = i * width_, left = outputs_ - first;
    return {panel, inputs_, width_, first, left < width_ ? left : width_};
  }

  // A block is packed in runs of inputs, with the first of them also the bias: some lines of each output at a time, for
  // all of them would lie in too many pages.
  int64_t runs() const { return ceil_div(inputs_, inputs_together); }
  void pack(int64_t block, int64_t run, A* panel) const {
    const int64_t target = block * width_, first_input = run * inputs_together, left_inputs = inputs_ - first_input;
    const int64_t count = left_inputs < inputs_together ? left_inputs : inputs_together;
    const T* const end = weight_ + (outputs_ - 1) * output_stride_ + (inputs_ - 1) * input_stride_ + 1;
    A* const to = panel + (1 + first_input) * width_;
    const T* const from = weight_ + target * output_stride_ + first_input * input_stride_;
    const int64_t outputs = outputs_ - target < width_ ? outputs_ - target : width_;
    if (output_stride_ == 1) copy_pixels(from, input_stride_, outputs, count, to, width_);
    for (int64_t i = 0; i < width_ && output_stride_ != 1; i += lanes<A>) {
      const T* const corner = from + i * output_stride_;
      const int64_t rows = outputs - i < lanes<A> ? outputs - i : lanes<A>;
      if (input_stride_ == 1)
        pack_columns(corner, end, output_stride_, rows, count, [&](int64_t c) { return to + c * width_ + i; });
      else
        for (int64_t c = 0; c < count; ++c)
          for (int64_t k = 0; k < lanes<A>; ++k)
            to[c * width_ + i + k] = k < rows ? A(load_one(corner + k * output_stride_ + c * input_stride_)) : A(0);
    }
    for (int64_t i = 0; i < width_ && run == 0; ++i)
      panel[i] = target + i < outputs_ ? load_parameter(bias_, target + i, A(0)) : A(0);
  }

 private:
  static constexpr int64_t inputs_together = 64;

  const T* weight_;
  Vector bias_;
  int64_t inputs_, outputs_, output_stride_, input_stride_, width_, blocks_;
};

// All blocks of weights, packed by all threads.
template <class T>
class PackedPixelWeights {
 public:
  using A = compute_t<T>;

  PackedPixelWeights(const PixelWeights<T>& weights, int threads)
      : weights_(weights), panels_(weights.blocks() * weights.panel_size()) {
    const int64_t runs = weights.runs(), tasks = weights.blocks() * runs;
    constexpr int64_t few = 8;  // packed sooner than other threads begin
    parallel_spans(tasks < few ? 1 : threads, tasks, [&](int64_t begin, int64_t end) {
      for (int64_t task = begin; task < end; ++task)
        weights.pack(task / runs, task % runs, panels_.get() + task / runs * weights.panel_size());
    });
  }

  int64_t blocks() const { return weights_.blocks(); }
  PixelBlock<A> block(int64_t i) const { return weights_.block(i, panels_.get() + i * weights_.panel_size()); }

 private:
  PixelWeights<T> weights_;
  Scratch<A> panels_;
};

// A block of outputs of `pixels` pixels: put(pixel, [outputs]) of each, some pixels at a time.
template <class A, class Put>
inline void multiply_block(const PixelBlock<A>& block, const A* x, int64_t pitch, int64_t pixels, const Put& put) {
  constexpr int64_t inputs_together = 512;  // few enough for sums in float32
  const int64_t width = block.width;
  alignas(64) A sums[most_product_pixels * tile_output_lanes<A>];
  const Products<A> product(block.outputs);
  for (int64_t p = 0, now; p < pixels; p += now) {
    now = product.next(pixels - p);
    const A* const from = x + p * pitch;
    for (int64_t c = 0; c < block.inputs; c += inputs_together) {
      const int64_t inputs = block.inputs - c < inputs_together ? block.inputs - c : inputs_together;
      const Factors<A> factors{from + c, pitch, 1, inputs, block.panel + (1 + c) * width, width};
      c == 0 ? product(now, factors, {block.panel, 0}, {sums, width})
             : product(now, factors, {sums, width}, {sums, width});
    }
    // Tile by tile: stores go on while the next products are computed.
    for (int64_t i = 0; i < now; ++i) put(p + i, sums + i * width);
  }
}

// Writes a block of outputs of `pixels` pixels to y, whose pixels are y_pitch apart.
template <bool Stream, class T, class Finish = AsItIs>
inline void multiply_pixels(const PixelBlock<compute_t<T>>& block, const compute_t<T>* x, int64_t pitch, int64_t pixels,
                            T* y, int64_t y_pitch, const Finish& finish = {}) {
  constexpr int L = lanes<compute_t<T>>;
  const int64_t first = block.first_output, outputs = block.outputs;
  multiply_block(block, x, pitch, pixels, [&](int64_t pixel, const compute_t<T>* row) {
    T* const to = y + pixel * y_pitch + first;
    int64_t o = 0;
    for (; o + L <= outputs; o += L) store<Stream>(to + o, finish(load(row + o), first + o, pixel));
    if (o < outputs) store_part(to + o, finish(load(row + o), first + o, pixel), outputs - o);
  });
}

}  // namespace fastseg::FASTSEG_ISA
