// Gradients of the parameters of 1x1 convolutions and of others that are products of matrices as these are.
//
// Floor: x and the gradient of y once each, inputs * outputs multiply-adds a pixel. A block of outputs and inputs is
// one task: a run of pixels of both is copied to the second-level cache, multiplied in registers, panel by panel of
// inputs, and added up in float64. Smaller blocks would read both from further away for most of the time.
#pragma once
#include <algorithm>

#include "image_pixels.h"
#include "pointwise_pixels.h"

namespace fastseg::FASTSEG_ISA {

// Where gradients of parameters go: float32, or float64 when the images are.
struct ParameterGradients {
  void* dweight;   // [outputs][inputs], or
  bool by_inputs;  // [inputs][outputs]
  void* dbias;     // [outputs], optional
};

// Grad and X, such as ImagePixels: the gradient of y and x, whose copy() brings some channels of some of all pixels to
// adjacent numbers.
template <class T, class Grad, class X>
class PointwiseGradient {
 public:
  using A = compute_t<T>;

  PointwiseGradient(const Grad& grad, const X& x, int64_t pixels, int64_t inputs, int64_t outputs,
                    const ParameterGradients& to)
      : PointwiseGradient(grad, x, pixels, inputs, outputs, to, Cut(pixels, inputs, outputs)) {}

  void run(int threads) const {
    parallel_spans(threads, slots_ * blocks(), [&](int64_t begin, int64_t end) {
      Thread thread(*this);
      for (int64_t task = begin; task < end; ++task) {
        double* const sums = slots_ == 1 ? thread.sums.get() : sums_.get() + task * sums_size();
        const Block block(*this, task % blocks());
        add_up(task / blocks(), block, thread, sums);
        if (slots_ == 1) write(block, sums);
      }
    });
    if (slots_ == 1) return;
    add_slots(sums_.get(), slots_, blocks() * sums_size(), threads);
    for (int64_t i = 0; i < blocks(); ++i) write(Block(*this, i), sums_.get() + i * sums_size());
  }

 private:
  static constexpr int64_t pixels_together = 128;

  // How the work is cut, which depends on the shape only, so the sums do not depend on the number of threads. Slots, of
  // some of the pixels each, give enough tasks while their sums are little beside what is read; else blocks are halved.
  struct Cut {
    int64_t width, panels, height, input_blocks, output_blocks, runs, slots;

    Cut(int64_t pixels, int64_t inputs, int64_t outputs)
        : width(PixelWeights<T>::width_of(inputs)), runs(ceil_div(pixels, pixels_together)) {
      constexpr int64_t most_panels = 4, most_outputs = 192, enough_tasks = 32, little = 2 << 20;
      const int64_t bytes = pixels * (inputs + outputs) * int64_t(sizeof(T));
      const int64_t sums = inputs * outputs * int64_t(sizeof(double));
      const int64_t most_slots = std::clamp<int64_t>(std::max(little, bytes / 8) / sums, 1, runs);
      for (int64_t panels_together = most_panels, outputs_together = most_outputs;;) {
        panels = std::min(panels_together, ceil_div(inputs, width));
        height = rounded_up(ceil_div(outputs, ceil_div(outputs, outputs_together)), lanes<A>);
        input_blocks = ceil_div(inputs, panels * width);
        output_blocks = ceil_div(outputs, height);
        const bool smallest = panels == 1 && outputs_together < most_outputs;
        if (input_blocks * output_blocks * most_slots >= enough_tasks || smallest) break;
        panels > 1 ? panels_together = panels / 2 : outputs_together /= 2;
      }
      slots = std::min(most_slots, ceil_div(enough_tasks, input_blocks * output_blocks));
    }
  };

  PointwiseGradient(const Grad& grad, const X& x, int64_t pixels, int64_t inputs, int64_t outputs,
                    const ParameterGradients& to, const Cut& cut)
      : grad_(grad),
        x_(x),
        pixels_(pixels),
        inputs_(inputs),
        outputs_(outputs),
        to_(to),
        width_(cut.width),
        height_(cut.height),
        panels_(cut.panels),
        input_blocks_(cut.input_blocks),
        output_blocks_(cut.output_blocks),
        runs_(cut.runs),
        slots_(cut.slots),
        sums_(slots_ == 1 ? 0 : slots_ * blocks() * sums_size()) {}

  // What a thread has of its own.
  struct Thread {
    Scratch<double> sums;
    Scratch<A> x, grad, products;

    explicit Thread(const PointwiseGradient& g)
        : sums(g.slots_ == 1 ? g.sums_size() : 0),
          x(pixels_together * g.width_),
          grad(pixels_together * g.height_),
          products(most_product_pixels * g.width_) {}
  };

  struct Block {
    int64_t first_input, inputs, first_output, outputs;

    // Neighbours differ in what there is less of, for it may stay in a cache.
    Block(const PointwiseGradient& g, int64_t i) {
      const bool inputs_first = g.inputs_ < g.outputs_;
      first_input = (inputs_first ? i % g.input_blocks_ : i / g.output_blocks_) * g.panels_ * g.width_;
      first_output = (inputs_first ? i / g.input_blocks_ : i % g.output_blocks_) * g.height_;
      inputs = std::min(g.panels_ * g.width_, g.inputs_ - first_input);
      outputs = std::min(g.height_, g.outputs_ - first_output);
    }
  };

  int64_t blocks() const { return input_blocks_ * output_blocks_; }
  // Of one block: [panels][outputs][width], then those of the bias.
  int64_t sums_size() const { return bias_sums() + height_; }
  int64_t bias_sums() const { return panels_ * height_ * width_; }
  bool has_bias(const Block& block) const { return to_.dbias && block.first_input == 0; }

  void add_up(int64_t slot, const Block& block, const Thread& thread, double* sums) const {
    constexpr int L = lanes<A>;
    std::fill(sums, sums + sums_size(), 0.0);
    for (int64_t run = runs_ * slot / slots_; run < runs_ * (slot + 1) / slots_; ++run) {
      const int64_t first = pixels_ * run / runs_, count = pixels_ * (run + 1) / runs_ - first;
      const A* const grad = thread.grad.get();
      grad_.copy(first, count, block.first_output, block.outputs, thread.grad.get(), height_);
      for (int64_t c = 0, panel = 0; c < block.inputs; c += width_, ++panel) {
        A* const x = thread.x.get();
        const int64_t inputs = std::min(width_, block.inputs - c);
        x_.copy(first, count, block.first_input + c, inputs, x, width_);
        add_panel(inputs, block.outputs, count, grad, x, thread.products.get(), sums + panel * height_ * width_);
      }
      for (int64_t o = 0; has_bias(block) && o < block.outputs; o += L) {
        Vec<A> sum{};
        for (int64_t p = 0; p < count; ++p) sum += load(grad + p * height_ + o);
        add_to_sums<A>(sum, sums + bias_sums() + o);
      }
    }
  }

  void add_panel(int64_t inputs, int64_t outputs, int64_t pixels, const A* grad, const A* x, A* products,
                 double* sums) const {
    alignas(64) static constexpr A zeros[tile_output_lanes<A>] = {};
    const Products<A> product(inputs);
    for (int64_t o = 0, now; o < outputs; o += now) {
      now = product.next(outputs - o);
      product(now, {grad + o, 1, height_, pixels, x, width_}, {zeros, 0}, {products, width_});
      for (int64_t i = 0; i < now * width_; i += lanes<A>) add_to_sums<A>(load(products + i), sums + o * width_ + i);
    }
  }

  void write(const Block& block, const double* sums) const {
    A* const dweight = static_cast<A*>(to_.dweight);
    for (int64_t c = 0; to_.by_inputs && c < block.inputs; ++c) {
      A* const to = dweight + (block.first_input + c) * outputs_ + block.first_output;
      const double* const from = sums + c / width_ * height_ * width_ + c % width_;
      for (int64_t o = 0; o < block.outputs; ++o) to[o] = A(from[o * width_]);
    }
    for (int64_t o = 0; !to_.by_inputs && o < block.outputs; ++o) {
      A* const to = dweight + (block.first_output + o) * inputs_ + block.first_input;
      for (int64_t c = 0; c < block.inputs; c += width_) {
        const double* const from = sums + (c / width_ * height_ + o) * width_;
        for (int64_t i = 0; i < std::min(width_, block.inputs - c); ++i) to[c + i] = A(from[i]);
      }
    }
    for (int64_t o = 0; has_bias(block) && o < block.outputs; ++o)
      static_cast<A*>(to_.dbias)[block.first_output + o] = A(sums[bias_sums() + o]);
  }

  Grad grad_;
  X x_;
  int64_t pixels_, inputs_, outputs_;
  ParameterGradients to_;
  int64_t width_, height_, panels_, input_blocks_, output_blocks_, runs_, slots_;
  Scratch<double> sums_;
};

}  // namespace fastseg::FASTSEG_ISA
