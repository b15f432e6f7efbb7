// Windowed means of a few values a pixel in float64, row by row: running sums along columns, then along rows. Vectors
// lie along rows.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/pixels.h"
#include "guided_filter_windows.h"

namespace fastseg::FASTSEG_ISA {

typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));

inline Vec<double> load_wide(const double* p) { return load(p); }
inline Vec<double> load_wide(const float* p) {
  HalfFloats half;
  std::memcpy(&half, p, sizeof half);
  return __builtin_convertvector(half, Vec<double>);
}
inline void store_wide(double* p, Vec<double> v) { store(p, v); }
inline void store_wide(float* p, Vec<double> v) {
  const HalfFloats half = __builtin_convertvector(v, HalfFloats);
  std::memcpy(p, &half, sizeof half);
}

// Planes of an image's size in the type that is computed with. Rows are padded to whole vectors of any type; what lies
// beyond the width is there and means nothing.
template <class A>
struct Planes {
  A* data;
  int64_t height, pitch;

  static int64_t pitch_of(int64_t width) { return rounded_up(width, lanes<float>); }
  A* row(int64_t plane, int64_t y) const { return data + (plane * height + y) * pitch; }
  int64_t elements(int64_t planes) const { return planes * height * pitch; }
};

// N values a pixel. A source is called with (y, slot) and gives a reader of row y, which lives until the slot (0 or 1)
// is asked for again: reader(x, values) puts the values of pixels x, ... into N vectors.
template <int N>
class WindowMeans {
 public:
  static int64_t doubles(int64_t width, int64_t radius) {
    return N * (line(width, radius) + padded(width)) + padded(width);
  }

  WindowMeans(const Axis& rows, const Axis& columns, double* memory)
      : rows_(rows),
        columns_(columns),
        line_(line(columns.size, columns.radius)),
        padded_(padded(columns.size)),
        column_sums_(memory + before(columns.radius)),
        sums_(memory + N * line_),
        share_(sums_ + N * padded_) {
    for (int64_t x = 0; x < padded_; ++x) share_[x] = x < columns.size ? 1.0 / double(columns.count(x)) : 0.0;
  }

  // Row y, whose means are there afterwards. Rows follow each other, but for the first one.
  template <class Source>
  void step(const Source& source, int64_t y, bool first) {
    const int64_t r = rows_.radius;
    if (first) {
      for (int n = 0; n < N; ++n)
        for (int64_t x = 0; x < padded_; ++x) column_sums_[n * line_ + x] = 0;
      for (int64_t j = y - r; j <= y + r; ++j) change(source, rows_.pixel(j), -1);
    } else {
      change(source, rows_.pixel(y + r), rows_.pixel(y - r - 1));
    }
    for (int n = 0; n < N; ++n) {
      double* line = column_sums_ + n * line_;
      extend(line);
      window_sums(line, padded_, columns_.radius, sums_ + n * padded_);
    }
    row_share_ = 1.0 / double(rows_.count(y));
  }

  void means(int64_t x, Vec<double> (&values)[N]) const {
    const Vec<double> share = load(share_ + x) * row_share_;
    for (int n = 0; n < N; ++n) values[n] = load(sums_ + n * padded_ + x) * share;
  }

 private:
  static constexpr int L = lanes<double>;
  static int64_t padded(int64_t width) { return rounded_up(width, L); }
  static int64_t before(int64_t radius) { return rounded_up(radius + 1, L); }
  static int64_t line(int64_t width, int64_t radius) { return before(radius) + padded(width) + rounded_up(radius, L); }

  // A row comes into all windows and another one leaves; -1 is no row.
  template <class Source>
  void change(const Source& source, int64_t in, int64_t out) {
    if (in >= 0 && out >= 0) {
      const auto coming = source(in, 0), leaving = source(out, 1);
      for (int64_t x = 0; x < padded_; x += L) {
        Vec<double> plus[N], minus[N];
        coming(x, plus);
        leaving(x, minus);
        for (int n = 0; n < N; ++n) add(n, x, plus[n] - minus[n]);
      }
    } else if (in >= 0 || out >= 0) {
      const auto only = source(in >= 0 ? in : out, 0);
      const double sign = in >= 0 ? 1.0 : -1.0;
      for (int64_t x = 0; x < padded_; x += L) {
        Vec<double> values[N];
        only(x, values);
        for (int n = 0; n < N; ++n) add(n, x, values[n] * sign);
      }
    }
  }
  void add(int n, int64_t x, Vec<double> v) {
    double* to = column_sums_ + n * line_ + x;
    store(to, load(to) + v);
  }

  // What windows see beyond the ends of a line.
  void extend(double* line) const {
    const int64_t width = columns_.size, r = columns_.radius;
    const auto beyond = [&](int64_t x) {
      const int64_t from = columns_.pixel(x);
      line[x] = from < 0 ? 0.0 : line[from];
    };
    for (int64_t x = -r - 1; x < 0; ++x) beyond(x);
    for (int64_t x = width; x < padded_ + r; ++x) beyond(x);
  }

  Axis rows_, columns_;
  int64_t line_, padded_;
  double *column_sums_, *sums_, *share_;
  double row_share_ = 0;
};

}  // namespace fastseg::FASTSEG_ISA
