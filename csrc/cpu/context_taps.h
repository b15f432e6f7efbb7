// Which pixels of an image a tap reaches: what falls on padding is not computed.
#pragma once
#include "depthwise_plan.h"
#include "fastseg/context.h"

namespace fastseg::FASTSEG_ISA {

// Where the sources of a tap lie, from its targets.
struct TapOffset {
  int64_t z, y, x;

  // Tap number `tap` of a branch.
  TapOffset(const AsppBranch& branch, int64_t tap) {
    const int64_t* const k = branch.kernel;
    const int64_t at[3] = {tap / (k[Y] * k[X]), tap / k[X] % k[Y], tap % k[X]};
    int64_t offset[3];
    for (int axis = Z; axis <= X; ++axis)
      offset[axis] = at[axis] * branch.dilation[axis] - (k[axis] - 1) * branch.dilation[axis] / 2;
    z = offset[Z], y = offset[Y], x = offset[X];
  }
  // From sources to targets.
  TapOffset reversed() const { return {-z, -y, -x}; }

 private:
  TapOffset(int64_t z_, int64_t y_, int64_t x_) : z(z_), y(y_), x(x_) {}
};

// An image cut into bands of whole rows, in which depth and height are one axis.
struct ImageBands {
  const int64_t depth, height, width;
  int64_t rows, count;

  ImageBands(const int64_t (&size)[3], int64_t pixels_together)
      : depth(size[Z]), height(size[Y]), width(size[X]), rows(most(pixels_together / width, 1)) {
    rows = least(rows, depth * height);
    count = ceil_div(depth * height, rows);
  }

  int64_t most_pixels() const { return rows * width; }
  int64_t first_pixel(int64_t band) const { return band * rows * width; }
  int64_t pixels(int64_t band) const { return least(rows, depth * height - band * rows) * width; }
  // Pixels between a target and its source, the same for all targets.
  int64_t distance(const TapOffset& tap) const { return (tap.z * height + tap.y) * width + tap.x; }

  // Calls body(first, count) for runs of neighbouring targets of a band, as pixels of the image, that have a source.
  template <class Body>
  void for_runs(int64_t band, const TapOffset& tap, const Body& body) const {
    const int64_t begin_x = most(0, -tap.x), end_x = least(width, width - tap.x);
    if (begin_x >= end_x) return;
    int64_t first = 0, count_now = 0;
    for (int64_t row = band * rows; row < least((band + 1) * rows, depth * height); ++row) {
      const int64_t source_z = row / height + tap.z, source_y = row % height + tap.y;
      if (source_z < 0 || source_z >= depth || source_y < 0 || source_y >= height) continue;
      const int64_t begin = row * width + begin_x;
      if (count_now && first + count_now != begin) {
        body(first, count_now);
        count_now = 0;
      }
      if (!count_now) first = begin;
      count_now += end_x - begin_x;
    }
    if (count_now) body(first, count_now);
  }
};

}  // namespace fastseg::FASTSEG_ISA
