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

// Columns of targets that find the same of a row of neighbouring taps on the image.
struct TapColumns {
  int64_t begin, end, first_tap, taps;
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
  int64_t first_row(int64_t band) const { return band * rows; }
  int64_t end_row(int64_t band) const { return least((band + 1) * rows, depth * height); }
  int64_t first_pixel(int64_t band) const { return first_row(band) * width; }
  int64_t pixels(int64_t band) const { return (end_row(band) - first_row(band)) * width; }
  // Pixels between a target and its source, the same for all targets.
  int64_t distance(const TapOffset& tap) const { return (tap.z * height + tap.y) * width + tap.x; }

  // Whether a row of targets finds a row of sources.
  bool finds_row(int64_t row, const TapOffset& tap) const {
    const int64_t source_z = row / height + tap.z, source_y = row % height + tap.y;
    return source_z >= 0 && source_z < depth && source_y >= 0 && source_y < height;
  }

  // Calls body(TapColumns) for all columns that find some of `taps` neighbouring taps, of which `first` is the first.
  template <class Body>
  void for_columns(const TapOffset& first, int64_t taps, const Body& body) const {
    const auto some = [&](int64_t begin, int64_t end) {
      const int64_t source = begin + first.x, skipped = most(0, -source);
      const int64_t found = least(taps, width - source) - skipped;
      if (begin < end && found > 0) body(TapColumns{begin, end, skipped, found});
    };
    const int64_t begin = least(most(0, -first.x), width), end = most(least(width, width - first.x - taps + 1), begin);
    some(begin, end);
    if (taps == 1) return;
    for (int64_t x = 0; x < begin; ++x) some(x, x + 1);
    for (int64_t x = end; x < width; ++x) some(x, x + 1);
  }

  // Calls body(first row, rows) for runs of neighbouring rows of a band that have a source row.
  template <class Body>
  void for_rows(int64_t band, const TapOffset& tap, const Body& body) const {
    int64_t first = 0, count_now = 0;
    for (int64_t row = first_row(band); row < end_row(band); ++row) {
      if (finds_row(row, tap)) {
        if (!count_now++) first = row;
      } else if (count_now) {
        body(first, count_now);
        count_now = 0;
      }
    }
    if (count_now) body(first, count_now);
  }

  // Calls body(first, count) for runs of neighbouring targets of a band, as pixels of the image, that have a source.
  template <class Body>
  void for_runs(int64_t band, const TapOffset& tap, const Body& body) const {
    for_rows(band, tap, [&](int64_t row, int64_t count_now) {
      for_runs(row, count_now, most(0, -tap.x), least(width, width - tap.x), body);
    });
  }
  // The same of some columns of these rows.
  template <class Body>
  void for_runs(int64_t row, int64_t count_now, int64_t begin_x, int64_t end_x, const Body& body) const {
    if (begin_x == 0 && end_x == width) return body(row * width, count_now * width);
    if (begin_x >= end_x) return;
    for (; count_now > 0; --count_now, ++row) body(row * width + begin_x, end_x - begin_x);
  }
};

}  // namespace fastseg::FASTSEG_ISA
