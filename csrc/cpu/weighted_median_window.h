// What a window holds, one number after another: exponents of its weights, which the channels of a pixel share, then
// its weights and its values.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec_math.h"
#include "weighted_median_select.h"

namespace fastseg::FASTSEG_ISA {

// Images in the type computed in, or as ordered integers: [images][height][pitch]. A vector may be read from any pixel.
template <class N>
struct Planes {
  N* data;
  int64_t plane, pitch;

  N* row(int64_t image, int64_t y) const { return data + image * plane + y * pitch; }
};

// (dx^2 + dy^2) / sigma_space^2 for all neighbours.
template <class A>
class SpatialExponents {
 public:
  SpatialExponents(int64_t radius, double sigma)
      : radius_(radius), pitch_(2 * radius + 1 + lanes<A>), table_((2 * radius + 1) * pitch_) {
    for (int64_t dy = -radius; dy <= radius; ++dy)
      for (int64_t dx = -radius; dx < radius + 1 + lanes<A>; ++dx)
        table_[(dy + radius) * pitch_ + dx + radius] = A(double(dx * dx + dy * dy) / (sigma * sigma));
  }
  const A* at(int64_t dy, int64_t dx) const { return table_.get() + (dy + radius_) * pitch_ + dx + radius_; }

 private:
  int64_t radius_, pitch_;
  Scratch<A> table_;
};

// A window in memory of one thread, cut at the edges of the image.
template <class A>
class Window {
 public:
  static int64_t elements(int64_t radius) { return 4 * capacity(radius); }

  Window(int64_t radius, A* memory)
      : radius_(radius),
        exponents_(memory),
        weights_(exponents_ + capacity(radius)),
        given_(weights_ + capacity(radius)),
        values_(reinterpret_cast<Ordered<A>*>(given_ + capacity(radius))) {}

  // Around pixel (y, x).
  void place(int64_t y, int64_t x, int64_t height, int64_t width) {
    y_ = y, x_ = x;
    left_ = x > radius_ ? x - radius_ : 0;
    top_ = y > radius_ ? y - radius_ : 0;
    columns_ = (x + radius_ < width ? x + radius_ + 1 : width) - left_;
    rows_ = (y + radius_ < height ? y + radius_ + 1 : height) - top_;
    pixels_ = rows_ * columns_;
    count_ = rounded_up(pixels_, select_step<A>);
  }

  // |I_p - I_q|^2 * scale + |p - q|^2 / sigma_space^2. The last vector of a row reaches into the next one, which is
  // written after it.
  template <int Colours>
  void find_exponents(const Planes<A>& guide, A scale, const SpatialExponents<A>& spatial) {
    const Vec<A> most = broadcast<Vec<A>>(largest);
    Vec<A> here[Colours];
    for (int c = 0; c < Colours; ++c) here[c] = broadcast<Vec<A>>(guide.row(c, y_)[x_]);
    A* to = exponents_;
    for (int64_t row = 0; row < rows_; ++row, to += columns_) {
      const A* near = spatial.at(top_ + row - y_, left_ - x_);
      const A* there = guide.row(0, top_ + row) + left_;
      for (int64_t i = 0; i < columns_; i += lanes<A>) {
        Vec<A> distance = {};
#pragma GCC unroll 3
        for (int c = 0; c < Colours; ++c) {
          const Vec<A> step = load(there + c * guide.plane + i) - here[c];
          distance += step * step;
        }
        store(to + i, smaller(distance * scale + load(near + i), most));
      }
    }
    for (int64_t i = pixels_; i < count_; i += lanes<A>) store(exponents_ + i, most);
  }

  // The values to choose from. Taken between two steps that compute, for what was stored a moment ago in pieces cannot
  // be loaded whole before it has left the processor's queue of stores.
  void take_values(const Planes<Ordered<A>>& values, int64_t image) {
    copy_rows(values, image, values_);
    const OrderedVec<A> any = broadcast<OrderedVec<A>>(*values_);
    for (int64_t i = pixels_; i < count_; i += lanes<A>) store_ordered<A>(values_ + i, any);
  }

  // Weights of the exponents alone: the pixel itself weighs 1.
  void find_weights() {
    Vec<A> total = {};
    for (int64_t i = 0; i < count_; i += lanes<A>) {
      const Vec<A> weight = exp(-load(exponents_ + i));
      total += weight;
      store(weights_ + i, weight);
    }
    total_ = add_lanes(total);
  }

  // Weights times those given for the pixels. Only their ratios matter: the least exponent of a pixel that counts is
  // taken off all of them, so that the weights of pixels that all differ from this one do not vanish together.
  void find_weights(const Planes<A>& given, int64_t image) {
    copy_rows(given, image, given_);
    const Vec<A> none = {}, most = broadcast<Vec<A>>(largest);
    for (int64_t i = pixels_; i < count_; i += lanes<A>) store(given_ + i, none);
    Vec<A> least = most;
    for (int64_t i = 0; i < count_; i += lanes<A>)
      least = smaller(least, load(given_ + i) > none ? load(exponents_ + i) : most);
    const Vec<A> nearest = broadcast<Vec<A>>(smallest_lane(least));
    Vec<A> total = {};
    for (int64_t i = 0; i < count_; i += lanes<A>) {
      // Pixels that are nearer do not count, and infinity times 0 is no number.
      const Vec<A> weight = exp(smaller(nearest - load(exponents_ + i), none)) * load(given_ + i);
      total += weight;
      store(weights_ + i, weight);
    }
    total_ = add_lanes(total);
  }

  // Whether there is a weight to choose by.
  bool weighs() const { return total_ > 0; }

  Ordered<A> median(Ordered<A> guess) const {
    OrderedVec<A> least = load_ordered<A>(values_), most = least;
    for (int64_t i = lanes<A>; i < count_; i += lanes<A>) {
      const OrderedVec<A> value = load_ordered<A>(values_ + i);
      least = smaller(least, value);
      most = larger(most, value);
    }
    return select_median<A>({values_, weights_, count_}, total_, smallest_lane(least), largest_lane(most), guess);
  }

 private:
  // Far beyond the exponents of weights that are not 0, and far from overflow when one is taken off another.
  static constexpr A largest = A(1e30);

  static int64_t capacity(int64_t radius) {
    return rounded_up((2 * radius + 1) * (2 * radius + 1), select_step<A>) + lanes<A>;
  }

  template <class N>
  void copy_rows(const Planes<N>& from, int64_t image, N* to) const {
    for (int64_t row = 0; row < rows_; ++row, to += columns_) {
      const N* line = from.row(image, top_ + row) + left_;
      for (int64_t i = 0; i < columns_; i += lanes<A>) std::memcpy(to + i, line + i, vector_bytes);
    }
  }

  int64_t radius_, y_ = 0, x_ = 0, left_ = 0, top_ = 0, columns_ = 0, rows_ = 0;
  int64_t pixels_ = 0, count_ = 0;  // of the window, and with what pads it
  A total_ = 0;
  A *exponents_, *weights_, *given_;
  Ordered<A>* values_;
};

}  // namespace fastseg::FASTSEG_ISA
