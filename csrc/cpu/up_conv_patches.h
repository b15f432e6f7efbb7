// The patches of a fine image as rows of a matrix: columns are [taps][channels].
#pragma once
#include <algorithm>

#include "fastseg/up_conv.h"
#include "image_pixels.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
class Patches {
 public:
  using A = compute_t<T>;

  Patches(const UpConvShape& shape, const View& fine) : shape_(shape), fine_(fine) {
    const int64_t channels = shape.fine_channels;
    width_ = shape.size[2] * shape.kernel[2];
    height_ = shape.size[1] * shape.kernel[1];
    together_ = fine.spatial_stride == channels ? shape.kernel[2] * channels : channels;
  }

  const UpConvShape& shape() const { return shape_; }
  bool rows() const { return in_rows(fine_); }
  // Neighbouring columns that are neighbours in channels-last memory, too.
  int64_t together() const { return together_; }
  T* data() const { return static_cast<T*>(fine_.data); }

  // Whether stores of vectors may go past the caches.
  bool aligned() const {
    constexpr int L = lanes<A>;
    return rows() ? lines_aligned<T>(fine_, fine_.channel_stride) && width_ % L == 0
                  : lines_aligned<T>(fine_, fine_.spatial_stride) && together_ % L == 0;
  }

  // From the first number of a patch to that of a column.
  int64_t offset_of_column(int64_t column) const {
    const int64_t tap = column / shape_.fine_channels, row = tap / shape_.kernel[2];
    const int64_t d = row / shape_.kernel[1], h = row % shape_.kernel[1], w = tap % shape_.kernel[2];
    return at(d, h, w) + column % shape_.fine_channels * fine_.channel_stride;
  }

  // each(offset of the first patch, pixels) of pixels [first, first + count), counted through all images: runs of
  // neighbours in a row.
  template <class Each>
  void rows_of(int64_t first, int64_t count, const Each& each) const {
    const int64_t* const size = shape_.size;
    for (int64_t here; count > 0; first += here, count -= here) {
      const int64_t w = first % size[2], row = first / size[2], h = row % size[1], plane = row / size[1];
      here = std::min(count, size[2] - w);
      each(plane / size[0] * fine_.batch_stride +
               at(plane % size[0] * shape_.kernel[0], h * shape_.kernel[1], w * shape_.kernel[2]),
           here);
    }
  }
  int64_t patch_stride() const { return shape_.kernel[2] * fine_.spatial_stride; }

  // Columns of pixels, counted through all images, to [count][pitch] in the compute type.
  void copy(int64_t first, int64_t count, int64_t column, int64_t columns, A* to, int64_t pitch) const {
    rows_of(first, count, [&](int64_t offset, int64_t pixels) {
      const T* const from = data() + offset;
      if (rows()) {
        row_parts(column, columns, pixels, offset, [&](const Part& p) {
          alignas(64) A part[positions * lanes<A>];
          pixels_of_rows(from + p.offset, fine_.channel_stride, p.channels, p.count, part, lanes<A>);
          for_columns(p, column, columns, [&](int64_t i, int64_t pixel, int64_t at, int64_t skip, int64_t numbers) {
            store_part(to + pixel * pitch + at, load_part(part + i * lanes<A> + skip, numbers), numbers);
          });
        });
      } else {
        for (int64_t c = column, now; c < column + columns; c += now) {
          now = std::min(together_ - c % together_, column + columns - c);
          copy_pixels(from + offset_of_column(c), patch_stride(), now, pixels, to + c - column, pitch, now);
        }
      }
      to += pixels * pitch;
    });
  }

  // The inverse, of rows and all columns: from [count][columns].
  template <bool Stream>
  void write_rows(int64_t first, int64_t count, const A* from) const {
    const int64_t columns = shape_.columns();
    rows_of(first, count, [&](int64_t offset, int64_t pixels) {
      T* const to = data() + offset;
      row_parts(0, columns, pixels, offset, [&](const Part& p) {
        alignas(64) A part[positions * lanes<A>];
        for_columns(p, 0, columns, [&](int64_t i, int64_t pixel, int64_t at, int64_t, int64_t numbers) {
          store(part + i * lanes<A>, load_part(from + pixel * columns + at, numbers));
        });
        if (Stream && (offset + p.offset) % lanes<A> == 0)
          rows_of_pixels<Stream>(part, lanes<A>, p.channels, p.count, to + p.offset, fine_.channel_stride);
        else
          rows_of_pixels<false>(part, lanes<A>, p.channels, p.count, to + p.offset, fine_.channel_stride);
      });
      from += pixels * columns;
    });
  }

 private:
  static constexpr int64_t positions = 64;  // a multiple of a vector

  // Neighbouring fine pixels of a row, and a vector of their channels.
  struct Part {
    int64_t offset;                    // from the first patch of the run of pixels
    int64_t count, pixel, tap_of_row;  // fine pixels; the pixel that the first belongs to, and its tap along the row
    int64_t first_column;              // of the first tap of the kernel's row, and the first channel
    int64_t channels;
  };

  int64_t at(int64_t d, int64_t h, int64_t w) const { return ((d * height_ + h) * width_ + w) * fine_.spatial_stride; }

  // each(part) of a run of pixels of one row. Parts begin where vectors may be aligned.
  template <class Each>
  void row_parts(int64_t column, int64_t columns, int64_t pixels, int64_t first_patch, const Each& each) const {
    constexpr int L = lanes<A>;
    const int64_t channels = shape_.fine_channels, across = shape_.kernel[2];
    const int64_t row_columns = across * channels, all = pixels * across;
    for (int64_t row = column / row_columns; row * row_columns < column + columns; ++row) {
      const int64_t start = at(row / shape_.kernel[1], row % shape_.kernel[1], 0);
      for (int64_t c = 0; c < channels; c += L)
        for (int64_t q = 0, now; q < all; q += now) {
          now = std::min(positions - (first_patch + start + q) % L, all - q);
          each(Part{start + q + c * fine_.channel_stride, now, q / across, q % across, row * row_columns + c,
                    std::min<int64_t>(L, channels - c)});
        }
    }
  }

  // each(fine pixel, pixel, column - first, numbers left out before, numbers) of what a part has of some columns.
  template <class Each>
  void for_columns(const Part& p, int64_t first, int64_t columns, const Each& each) const {
    for (int64_t i = 0, pixel = p.pixel, tap = p.tap_of_row; i < p.count; ++i) {
      const int64_t column = p.first_column + tap * shape_.fine_channels;
      const int64_t begin = std::max(column, first), end = std::min(column + p.channels, first + columns);
      if (begin < end) each(i, pixel, begin - first, begin - column, end - begin);
      if (++tap < shape_.kernel[2]) continue;
      tap = 0;
      ++pixel;
    }
  }

  UpConvShape shape_;
  View fine_;
  int64_t width_, height_, together_;
};

}  // namespace fastseg::FASTSEG_ISA
