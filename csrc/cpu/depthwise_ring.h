// The window of a depthwise convolution: a ring of source planes in the compute type, padded, in the first- or
// second-level cache.
#pragma once
#include "depthwise_ahead.h"
#include "depthwise_plan.h"

namespace fastseg::FASTSEG_ISA {

// The planes that targets at one depth read, of one class of depths, for `inputs` channels (or blocks of channels)
// beside each other. Row says how a source row lies in the window: its `length`, and fill(from, to), which writes the
// same elements of each row. All others are zero.
template <class T, class Row>
class PlaneRing {
 public:
  using A = compute_t<T>;

  // Source pixels are pixel_stride apart, inputs input_stride; `rows` is what any band needs at most. With `together`
  // neighbouring targets may be computed together, so many at most, where they step from plane to plane.
  PlaneRing(const Axis& z, const Axis& y, int64_t width, int64_t pixel_stride, int64_t inputs, int64_t input_stride,
            int64_t rows, int64_t length, int64_t together = 1)
      : z_(z),
        y_(y),
        pixel_stride_(pixel_stride),
        row_stride_(width * pixel_stride),
        inputs_(inputs),
        input_stride_(input_stride),
        rows_(rows),
        length_(length),
        slots_(z.most_taps() + together - 1),
        memory_(size()) {
    for (int64_t i = 0; i < size(); ++i) memory_[i] = 0;
  }

  // From here on: the volume at `source`, target rows [begin, end), one class of depths from its target j on.
  void start(const T* source, const Row& row, int64_t begin, int64_t end, const AxisClass& depth, int64_t j) {
    source_ = source;
    row_ = &row;
    depth_ = depth;
    first_row_ = y_.first_source(begin);
    end_row_ = y_.end_source(end);
    loaded_ = depth.step() * j - 1;
  }

  // Reads what `targets` targets of the class from j on need and is not there yet.
  void advance(int64_t j, int64_t targets = 1) {
    const int64_t first = depth_.step() * j, end = first + depth_.step() * (targets - 1) + depth_.taps;
    for (int64_t m = most(loaded_ + 1, first); m < end; ++m)
      if (exists(m))
        for (int64_t i = 0; i < inputs_; ++i) load_plane(m, i);
    loaded_ = most(loaded_, end - 1);
  }

  // Whether plane number m of the class is part of the source; otherwise it is all zeros.
  bool exists(int64_t m) const {
    const int64_t z = depth_.in_first + depth_.in_spacing * m;
    return z >= 0 && z < z_.sources;
  }

  // The plane with number m, which exists.
  A* plane(int64_t m, int64_t input) const {
    // Numbers of planes that exist can be negative: padding may be less than what lies before the first tap.
    const int64_t slot = ((m % slots_) + slots_) % slots_;
    return memory_.get() + (slot * inputs_ + input) * rows_ * length_;
  }

  // Source row `row` of a plane, or nullptr where there is none: it is all zeros.
  const A* row(const A* plane, int64_t row) const {
    return row >= first_row_ && row < end_row_ ? plane + (row - first_row_) * length_ : nullptr;
  }

  // `count` of them, `spacing` apart.
  void rows(const A* plane, int64_t first, int64_t spacing, int64_t count, const A** to) const {
    const int64_t held = end_row_ - first_row_, step = spacing * length_;
    int64_t number = first - first_row_, at = number * length_;
    for (int64_t i = 0; i < count; ++i, number += spacing, at += step)
      to[i] = number >= 0 && number < held ? plane + at : nullptr;
  }

  // Rows `spacing` apart that will be read next, from row `row` of the next plane on, or, where there is but one, from
  // the row as far behind it as this band is high.
  Ahead next_rows(int64_t row, int64_t spacing) const {
    if (inputs_ > 1) return {};
    if (z_.sources == 1) return rows_ahead(0, row + end_row_ - first_row_, spacing * row_stride_);
    const int64_t m = loaded_ + 1;
    return exists(m) ? rows_ahead(depth_.in_first + depth_.in_spacing * m, row, spacing * row_stride_) : Ahead{};
  }

  // The first rows of the planes that will be read next.
  Ahead next_planes() const {
    const int64_t m = loaded_ + 1;
    const int64_t apart = depth_.in_spacing * y_.sources * row_stride_;
    return exists(m) ? rows_ahead(depth_.in_first + depth_.in_spacing * m, 0, apart) : Ahead{};
  }

 private:
  // With a row behind the last one, whose zeros may be read.
  int64_t size() const { return (slots_ * inputs_ * rows_ + 1) * length_; }

  Ahead rows_ahead(int64_t z, int64_t row, int64_t apart) const {
    return ahead(source_ + (z * y_.sources + row) * row_stride_, apart, pixel_stride_);
  }

  void load_plane(int64_t m, int64_t input) const {
    const int64_t z = depth_.in_first + depth_.in_spacing * m;
    const T* from = source_ + input * input_stride_ + (z * y_.sources + first_row_) * row_stride_;
    A* to = plane(m, input);
    for (int64_t y = first_row_; y < end_row_; ++y, from += row_stride_, to += length_) row_->fill(from, to);
  }

  Axis z_, y_;
  int64_t pixel_stride_, row_stride_, inputs_, input_stride_, rows_, length_, slots_;
  Scratch<A> memory_;
  const T* source_ = nullptr;
  const Row* row_ = nullptr;
  int64_t first_row_ = 0, end_row_ = 0, loaded_ = 0;
  AxisClass depth_{};
};

}  // namespace fastseg::FASTSEG_ISA
