// Which sources the targets of a tap find: what falls on padding, or between two sources, is not computed.
#pragma once
#include "depthwise_plan.h"
#include "fastseg/context.h"

namespace fastseg::FASTSEG_ISA {

// Where the sources of a tap lie, from its targets.
struct TapOffset {
  int64_t z, y, x;

  // Tap number `tap` of a branch.
  TapOffset(const ContextBranch& branch, int64_t tap) {
    const int64_t* const k = branch.kernel;
    const int64_t at[3] = {tap / (k[Y] * k[X]), tap / k[X] % k[Y], tap % k[X]};
    int64_t offset[3];
    for (int axis = Z; axis <= X; ++axis) offset[axis] = at[axis] * branch.dilation[axis] - branch.before[axis];
    z = offset[Z], y = offset[Y], x = offset[X];
  }
  // From sources to targets.
  TapOffset reversed() const { return {-z, -y, -x}; }

 private:
  TapOffset(int64_t z_, int64_t y_, int64_t x_) : z(z_), y(y_), x(x_) {}
};

// Targets of an axis that find sources: every step-th from `first` on, and every pace-th source from `source` on.
struct AxisRun {
  int64_t first, count, source;

  int64_t end() const { return first + count; }
};

// An axis, whose target t finds source (t * pace + offset) / step where that is one. The stride is the pace of forward
// and the step of the gradient of x, the other one is 1.
struct TapAxis {
  int64_t targets, sources, pace, step;

  AxisRun find(int64_t offset) const {
    const bool forward = step == 1;
    // Element i of the coarser side lies at i * stride + shift of the finer one.
    const int64_t stride = pace * step, shift = forward ? offset : -offset;
    const int64_t coarse = forward ? targets : sources, last = (forward ? sources : targets) - 1 - shift;
    const int64_t begin = least(ceil_div(most(0, -shift), stride), coarse), at = begin * stride + shift;
    const int64_t count = last < 0 ? 0 : most(least(last / stride + 1, coarse) - begin, 0);
    return forward ? AxisRun{begin, count, at} : AxisRun{at, count, begin};
  }
  // The source of one target, negative where there is none.
  int64_t source(int64_t target, int64_t offset) const {
    int64_t at = target * pace + offset;
    if (step > 1) at = at % step == 0 ? at / step : -1;
    return at < sources ? at : -1;
  }
  bool strided() const { return pace > 1 || step > 1; }
};

// Columns of targets that find the same of a row of neighbouring taps on the image.
struct TapColumns {
  int64_t first, count, source, first_tap, taps;
};

// Rows that find rows of sources, as AxisRun, though depth and height are one axis.
struct TapRows {
  int64_t first, count, source;
};

// Evenly spaced targets and their sources, as pixels of the images.
struct TapRun {
  int64_t target, target_step, source, source_step, count;
};

// The targets of a convolution, or of its gradient of x (`transposed`), cut into bands of whole rows, in which depth
// and height are one axis. Offsets are those of the taps, of the gradient reversed.
struct ImageBands {
  const TapAxis depth, height, width;
  int64_t rows, count;

  ImageBands(const ContextConv& args, bool transposed, int64_t pixels_together)
      : depth(axis(args, transposed, Z)),
        height(axis(args, transposed, Y)),
        width(axis(args, transposed, X)),
        rows(most(pixels_together / width.targets, 1)) {
    rows = least(rows, depth.targets * height.targets);
    count = ceil_div(depth.targets * height.targets, rows);
  }

  int64_t most_pixels() const { return rows * width.targets; }
  int64_t first_row(int64_t band) const { return band * rows; }
  int64_t end_row(int64_t band) const { return least((band + 1) * rows, depth.targets * height.targets); }
  int64_t first_pixel(int64_t band) const { return first_row(band) * width.targets; }
  int64_t pixels(int64_t band) const { return (end_row(band) - first_row(band)) * width.targets; }

  bool finds_some(const TapOffset& tap) const {
    return depth.find(tap.z).count && height.find(tap.y).count && width.find(tap.x).count;
  }
  // The row of sources that a row of targets finds, negative where there is none.
  int64_t source_row(int64_t row, const TapOffset& tap) const {
    const int64_t z = depth.source(row / height.targets, tap.z), y = height.source(row % height.targets, tap.y);
    return z < 0 || y < 0 ? -1 : z * height.sources + y;
  }

  // Columns that find all of `taps` neighbouring taps, of which `first` is the first. More than one: for steps of 1.
  AxisRun whole_columns(const TapOffset& first, int64_t taps) const {
    TapAxis all = width;
    all.sources -= taps - 1;
    return all.find(first.x);
  }
  // Calls body(TapColumns) for all columns that find some of these.
  template <class Body>
  void for_columns(const TapOffset& first, int64_t taps, const Body& body) const {
    const AxisRun whole = whole_columns(first, taps);
    if (whole.count) body(TapColumns{whole.first, whole.count, whole.source, 0, taps});
    if (taps == 1) return;
    const auto one = [&](int64_t x) {
      const int64_t source = x * width.pace + first.x, skipped = most(0, -source);
      const int64_t found = least(taps, width.sources - source) - skipped;
      if (found > 0) body(TapColumns{x, 1, source + skipped, skipped, found});
    };
    for (int64_t x = 0; x < whole.first; ++x) one(x);
    for (int64_t x = whole.end(); x < width.targets; ++x) one(x);
  }

  // Calls body(TapRows) for the rows of a band that find some.
  template <class Body>
  void for_rows(int64_t band, const TapOffset& tap, const Body& body) const {
    TapRows run{};
    for (int64_t row = first_row(band); row < end_row(band); ++row) {
      const int64_t source = source_row(row, tap);
      if (source < 0) continue;
      if (run.count && row == run.first + run.count * height.step && source == run.source + run.count * height.pace) {
        ++run.count;
      } else {
        if (run.count) body(run);
        run = {row, 1, source};
      }
    }
    if (run.count) body(run);
  }

  // Calls body(TapRun) for these rows and columns: row by row, or all together where they lie so.
  template <class Body>
  void for_runs(const TapRows& found, const TapColumns& columns, const Body& body) const {
    const bool dense = !height.strided() && !width.strided() && columns.count == width.targets;
    if (dense && width.sources == width.targets)
      return body(TapRun{found.first * width.targets, 1, found.source * width.sources, 1, found.count * columns.count});
    for (int64_t i = 0; i < found.count; ++i)
      body(TapRun{(found.first + i * height.step) * width.targets + columns.first, width.step,
                  (found.source + i * height.pace) * width.sources + columns.source, width.pace, columns.count});
  }
  // The same of a single column.
  TapRun run_of_column(const TapRows& found, const TapColumns& columns) const {
    return {found.first * width.targets + columns.first, height.step * width.targets,
            found.source * width.sources + columns.source, height.pace * width.sources, found.count};
  }

 private:
  static TapAxis axis(const ContextConv& args, bool transposed, int axis) {
    const int64_t size = args.size[axis], output = args.output_size[axis], stride = args.stride[axis];
    return transposed ? TapAxis{size, output, 1, stride} : TapAxis{output, size, stride, 1};
  }
};

}  // namespace fastseg::FASTSEG_ISA
