// What products read of images: pixels of adjacent channels in the compute type, or groups of a few channels.
#pragma once
#include "depthwise_plan.h"
#include "fastseg/context.h"
#include "pixel_copies.h"
#include "pixel_product.h"

namespace fastseg::FASTSEG_ISA {

// Targets of a block; and their pitch in packed weights and sums, whole vectors, where there are less.
template <class A>
constexpr int64_t context_block = tile_output_lanes<A>;
template <class A>
inline int64_t block_width(int64_t targets) {
  return least(round_up(targets, lanes<A>), context_block<A>);
}

// Hands out pieces of one workspace; without memory it counts what they need.
class Workspace {
 public:
  explicit Workspace(void* data) : data_(static_cast<char*>(data)) {}

  template <class A>
  A* take(int64_t count) {
    constexpr int64_t line = 64;
    A* const piece = data_ ? reinterpret_cast<A*>(data_ + used_) : nullptr;
    used_ += round_up(count * int64_t(sizeof(A)), line);
    return piece;
  }
  int64_t used() const { return used_; }
  // Calls make(i) for i from 0 to count - 1: what one of these takes lies where that of the others does.
  template <class Make>
  void share(int64_t count, const Make& make) {
    const int64_t begin = used_;
    int64_t end = begin;
    for (int64_t i = 0; i < count; ++i) {
      used_ = begin;
      make(i);
      end = most(end, used_);
    }
    used_ = end;
  }

 private:
  char* data_;
  int64_t used_ = 0;
};

// An image as pixels of adjacent channels: as it lies where it is such already, else a copy.
template <class T>
class Pixels {
 public:
  using A = compute_t<T>;

  Pixels(const View& view, int64_t batch, int64_t channels, int64_t pixels, Workspace& workspace)
      : view_(view), channels_(channels), pixels_(pixels) {
    const bool as_it_lies = std::is_same_v<T, A> && (view.channel_stride == 1 || channels == 1);
    if (!view || as_it_lies) {
      data_ = static_cast<const A*>(view.data);
      batch_stride_ = view.batch_stride;
      pitch_ = view.spatial_stride;
      return;
    }
    pitch_ = channels;
    batch_stride_ = pixels * pitch_;
    data_ = copy_ = workspace.take<A>(batch * batch_stride_);
    copies_ = ceil_div(pixels, together);
    tasks_ = batch * copies_;
  }

  // Copying is cut into this many tasks.
  int64_t tasks() const { return tasks_; }
  void copy(int64_t task) const {
    const int64_t n = task / copies_, first = task % copies_ * together, count = least(together, pixels_ - first);
    const T* from = static_cast<const T*>(view_.data) + n * view_.batch_stride + first * view_.spatial_stride;
    A* to = copy_ + n * batch_stride_ + first * pitch_;
    if (view_.spatial_stride == 1)
      pixels_of_rows(from, view_.channel_stride, channels_, count, to, pitch_);
    else
      copy_pixels(from, view_.spatial_stride, channels_, count, to, pitch_);
  }

  const A* at(int64_t n, int64_t pixel) const { return data_ + n * batch_stride_ + pixel * pitch_; }
  int64_t pitch() const { return pitch_; }

 private:
  static constexpr int64_t together = 128;
  View view_;
  int64_t channels_, pixels_, batch_stride_ = 0, pitch_ = 0, copies_ = 1, tasks_ = 0;
  const A* data_ = nullptr;
  A* copy_ = nullptr;
};

// Inputs whose products with some vectors of outputs stay in registers: more of them where outputs are few.
constexpr int most_inputs_together = 8;
constexpr int64_t inputs_together(int vectors) { return vectors < tile_output_vectors ? most_inputs_together : 6; }

// x as [batch][groups of inputs][pixels][`together`], zeros beyond the last input: what a product reads lies in one
// run, where pixels of all inputs would lie a page apart.
template <class T>
class InputGroups {
 public:
  using A = compute_t<T>;

  InputGroups(const ContextConv& args, const Pixels<T>& x, int64_t together, bool wanted, Workspace& workspace)
      : x_(x), inputs_(args.inputs), together_(together), pixels_(args.pixels()), groups_(ceil_div(inputs_, together)) {
    if (!wanted) return;
    data_ = workspace.take<A>(args.batch * groups_ * pixels_ * together_);
    tasks_ = args.batch * ceil_div(pixels_, pixels_together);
  }

  int64_t together() const { return together_; }
  int64_t groups() const { return groups_; }
  const A* at(int64_t n, int64_t group, int64_t pixel) const {
    return data_ + ((n * groups_ + group) * pixels_ + pixel) * together_;
  }

  // Copying is cut into this many tasks.
  int64_t tasks() const { return tasks_; }
  void copy(int64_t task) const {
    const int64_t runs = ceil_div(pixels_, pixels_together), n = task / runs, first = task % runs * pixels_together;
    for (int64_t p = first; p < least(first + pixels_together, pixels_); ++p) {
      const A* from = x_.at(n, p);
      A* to = data_ + (n * groups_ * pixels_ + p) * together_;
      for (int64_t c = 0; c < inputs_; c += together_, to += pixels_ * together_)
        for (int64_t i = 0; i < together_; ++i) to[i] = c + i < inputs_ ? from[c + i] : A(0);
    }
  }

 private:
  static constexpr int64_t pixels_together = 128;
  const Pixels<T>& x_;
  int64_t inputs_, together_, pixels_, groups_, tasks_ = 0;
  A* data_ = nullptr;
};

}  // namespace fastseg::FASTSEG_ISA
