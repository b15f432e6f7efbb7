// Depthwise convolution, channels-last: each sample is an image of pixels with adjacent channels.
//
// Floor as in depthwise_rows.h: 2u, and taps multiply-adds an element. A vector holds channels, so every load is
// aligned in the window and no tap needs a shift. A block of channels (256 bytes of the compute type, or less) of a
// band of rows is converted once into the padded window. R neighbouring pixels stay in registers; for the usual widths
// of kernels each vector of the window serves up to KX of them, and more in tiles of several rows
// (depthwise_channels_last_tile.h).
#pragma once
#include "depthwise_channels_last_tile.h"
#include "depthwise_channels_last_window.h"
#include "norm_channels_last.h"

namespace fastseg::FASTSEG_ISA {

// Elements between: neighbouring targets' sources, taps' sources, taps' weights, neighbouring targets.
struct PixelSteps {
  int64_t source, tap, weight, target;
};

// R pixels of one vector of channels. rows: `count` pointers into the window, of which element `at` belongs to the
// first target's first tap; weights: `count` times [kx][block].
template <int KX, int R, class A>
inline void convolve_pixels(const A* const* rows, const A* const* weights, int64_t count, int64_t at, int64_t channel,
                            int64_t kx, const PixelSteps& steps, Vec<A> bias, A* out) {
  Vec<A> sum[R];
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) sum[r] = bias;
  for (int64_t p = 0; p < count; ++p) {
    const A *row = rows[p] + at + channel, *weight = weights[p] + channel;
    if constexpr (KX > 0) {  // neighbours are a tap apart: a pixel serves up to KX targets
      Vec<A> w[KX];
#pragma GCC unroll 8
      for (int k = 0; k < KX; ++k, weight += steps.weight) w[k] = load(weight);
#pragma GCC unroll 24
      for (int c = 0; c < R + KX - 1; ++c, row += steps.tap) {
        const Vec<A> pixel = load(row);
#pragma GCC unroll 8
        for (int k = 0; k < KX; ++k)
          if (c - k >= 0 && c - k < R) sum[c - k] += pixel * w[k];
      }
    } else {
      for (int64_t k = 0; k < kx; ++k) {
        const Vec<A> w = load(weight + k * steps.weight);
        const A* pixel = row + k * steps.tap;
#pragma GCC unroll 16
        for (int r = 0; r < R; ++r) sum[r] += load(pixel + r * steps.source) * w;
      }
    }
  }
#pragma GCC unroll 16
  for (int r = 0; r < R; ++r) store(out + r * steps.target, sum[r]);
}

template <class A>
using PixelKernel = void (*)(const A* const* rows, const A* const* weights, int64_t count, int64_t at, int64_t channel,
                             int64_t kx, const PixelSteps& steps, Vec<A> bias, A* out);

constexpr int64_t pixel_block = 8;

template <class A>
inline PixelKernel<A> pixel_kernel(int64_t kx, bool neighbours_share) {
  if (neighbours_share && kx == 3) return convolve_pixels<3, pixel_block, A>;
  if (neighbours_share && kx == 5) return convolve_pixels<5, pixel_block, A>;
  if (neighbours_share && kx == 7) return convolve_pixels<7, pixel_block, A>;
  return convolve_pixels<0, pixel_block, A>;
}

// A convolution by blocks of channels of bands of rows.
template <class T>
struct PixelConvolution : Convolution {
  using A = compute_t<T>;
  PixelTiles<A> tiles;
  int64_t block, blocks;  // of channels
  PixelLayout<T> row;
  Bands bands;

  PixelConvolution(const DepthwiseShape& s, bool transposed, const View& source, const View& target, const void* weight,
                   const Vector& bias)
      : Convolution(marching_along_height(s), transposed, source, target, weight, bias),
        tiles(z, y, x),
        block(channels_together<T>(s.channels, z, y, x)),
        blocks(ceil_div(s.channels, block)),
        row(x, block, source.spatial_stride, pixel_block),
        bands(z, y, s.batch * blocks, row.length * int64_t(sizeof(A))) {}

  // Blocks of channels of one band follow each other: together they fill cache lines and pages.
  int64_t tasks() const { return shape.batch * bands.count() * blocks; }
};

// What one thread needs to run tasks of a PixelConvolution.
template <class T, bool Stream>
class PixelConvolver {
  using A = compute_t<T>;

 public:
  explicit PixelConvolver(const PixelConvolution<T>& conv)
      : conv_(conv),
        row_(conv.row),
        ring_(conv.z, conv.y, conv.x.sources, conv.source.spatial_stride, 1, 0,
              window_rows(conv.y, conv.bands.most_rows()), conv.row.length, conv.tiles.planes),
        out_row_((conv.x.targets + pixel_block * conv.x.open_classes()) * conv.block),
        out_(conv.tiles.together() * out_row_),
        weights_(conv.shape.taps() * conv.block),
        selected_(conv.shape.taps() * conv.block),
        bias_(conv.block),
        rows_(conv.z.most_taps() * (conv.shape.kernel[Y] + conv.tiles.rows - 1) + conv.tiles.planes - 1),
        row_weights_(conv.z.most_taps() * conv.shape.kernel[Y]),
        planes_(conv.z.most_taps()),
        plane_weights_(conv.z.most_taps()),
        selected_weights_(conv.z.most_taps() * conv.shape.kernel[Y]) {}

  // Runs one task; adds the moments of what it wrote to mean and m2 ([block] each, of *lines lines) where given.
  void run(int64_t task, double* mean, double* m2, int64_t* lines) {
    const int64_t first = task % conv_.blocks * conv_.block, n = task / conv_.blocks / conv_.bands.count();
    const Band band = conv_.bands.at(task / conv_.blocks % conv_.bands.count());
    const int64_t pitch = conv_.target.spatial_stride, width = conv_.x.targets;
    T* target = static_cast<T*>(conv_.target.data) + n * conv_.target.batch_stride + first;
    auto at = [&](int64_t oz, int64_t oy) { return target + (oz * conv_.y.targets + oy) * width * pitch; };
    run_rows(
        task, at, [&](int64_t oz, int64_t oy) { emit(at(oz, oy)); },
        [&](int64_t oz) {
          if (mean) gather(at(oz, band.y_begin), (band.y_end - band.y_begin) * width, mean, m2, lines);
        });
    if constexpr (Stream) stream_fence();
  }

  // Runs one task; calls row(oz, oy) when a row of targets lies in row_of_targets(), plane(oz) behind the last of them.
  // place(oz, oy) is where the row's first pixels may be written instead, or nullptr.
  template <class Place, class Row, class Plane>
  void run_rows(int64_t task, const Place& place, const Row& row, const Plane& plane) {
    const DepthwiseShape& s = conv_.shape;
    const int64_t first = task % conv_.blocks * conv_.block, image = task / conv_.blocks;
    const int64_t n = image / conv_.bands.count();
    const Band band = conv_.bands.at(image % conv_.bands.count());
    channels_ = row_.channels = least(conv_.block, s.channels - first);
    in_vectors_ = round_up(channels_, lanes<A>);
    read_block<T>(conv_, first, channels_, conv_.block, weights_.get(), bias_.get());
    const T* source = static_cast<const T*>(conv_.source.data) + n * conv_.source.batch_stride + first;
    for (int64_t r = 0; r < conv_.z.classes(); ++r) {
      const AxisClass depth = conv_.z.at(r);
      const int64_t begin = most(ceil_div(band.z_begin - depth.first, depth.spacing), 0);
      ring_.start(source, row_, band.y_begin, band.y_end, depth, begin);
      for (int64_t j = begin; j < depth.count;) {
        const int64_t oz = depth.first + depth.spacing * j;
        if (oz >= band.z_end) break;
        const int64_t last = oz + depth.spacing * (conv_.tiles.planes - 1);
        const int64_t planes = last < band.z_end ? conv_.tiles.planes : 1;
        ring_.advance(j, planes);
        if (planes > 1) {
          convolve_planes(depth, j, place(oz, 0));
          for (int64_t i = 0; i < planes; ++i) {
            current_ = i;
            row(oz + depth.spacing * i, 0);
            plane(oz + depth.spacing * i);
          }
        } else {
          find_planes(depth, j);
          for (int64_t oy = band.y_begin; oy < band.y_end;) {
            const int64_t rows = oy + conv_.tiles.rows <= band.y_end ? conv_.tiles.rows : 1;
            if (rows > 1)
              convolve_rows(oy, place(oz, oy));
            else
              convolve_row(oy);
            for (int64_t i = 0; i < rows; ++i) {
              current_ = i;
              row(oz, oy + i);
            }
            oy += rows;
          }
          plane(oz);
        }
        j += planes;
      }
    }
  }

  // Pixels of `block` channels each, but for those that were written to place().
  const A* row_of_targets() const { return out_.get() + current_ * out_row_; }

 private:
  void find_planes(const AxisClass& depth, int64_t j) {
    count_ = 0;
    for (int64_t t = 0; t < depth.taps; ++t)
      if (ring_.exists(depth.step() * j + t)) {
        planes_[count_] = ring_.plane(depth.step() * j + t, 0);
        plane_weights_[count_] = weights_.get() + (depth.weight_first + depth.weight_step * t) * conv_.shape.kernel[Y] *
                                                      conv_.shape.kernel[X] * conv_.block;
        ++count_;
      }
  }

  // Several rows of targets of a plane.
  void convolve_rows(int64_t oy, T* to) {
    const AxisClass height = conv_.y.at(0);
    const int64_t window = conv_.tiles.rows - 1 + height.taps;
    const int64_t first = height.in_first + oy;
    for (int64_t p = 0; p < count_; ++p) ring_.rows(planes_[p], first, 1, window, rows_.get() + p * window);
    run_tiles(count_, plane_weights_.get(), ring_.next_rows(first + height.taps / 2, 1), to, 1);
  }

  // A row of targets of each of several planes.
  void convolve_planes(const AxisClass& depth, int64_t j, T* to) {
    for (int64_t i = 0; i < conv_.tiles.planes - 1 + depth.taps; ++i)
      rows_[i] = ring_.exists(j + i) ? ring_.plane(j + i, 0) : nullptr;
    const A* weights = weights_.get();
    run_tiles(1, &weights, ring_.next_planes(), to, depth.spacing);
  }

  // to: where the first of the rows of targets begins, `spacing` rows apart, or nullptr. Whole tiles are written there,
  // others to out_.
  void run_tiles(int64_t planes, const A* const* weights, const Ahead& next, T* to, int64_t spacing) {
    constexpr int L = lanes<A>;
    const int64_t block = conv_.block, pixels = conv_.tiles.pixels, width = conv_.x.targets;
    const TileSource<A> source{rows_.get(), planes, block, next};
    const int64_t at = (conv_.x.open_at(0).in_first - row_.first) * block;
    const auto run = [&](const TileTarget<A>& target, int64_t begin, int64_t end) {
      for (int64_t x = begin; x < end; x += pixels)
        for (int64_t c = 0; c < in_vectors_; c += L)
          conv_.tiles.run(source, target, at + x * block, x, c, L, weights, block, load(bias_.get() + c));
    };
    placed_ = 0;
    if constexpr (std::is_same_v<T, A>)
      if (to && channels_ == in_vectors_) {
        placed_ = width / pixels * pixels;
        const int64_t pitch = conv_.target.spatial_stride;
        run({to, spacing * width * pitch, pitch, Stream}, 0, placed_);
      }
    run({out_.get(), out_row_, block, false}, placed_, width);
  }

  // One row of targets, to out_.
  void convolve_row(int64_t oy) {
    placed_ = 0;
    const AxisClass height = conv_.y.at(oy % conv_.y.classes());
    const int64_t j = oy / conv_.y.classes(), kx = conv_.shape.kernel[X], block = conv_.block;
    int64_t count = 0;
    for (int64_t p = 0; p < count_; ++p)
      for (int64_t t = 0; t < height.taps; ++t) {
        const A* row = ring_.row(planes_[p], height.in_first + height.in_spacing * (height.step() * j + t));
        if (!row) continue;
        rows_[count] = row;
        row_weights_[count++] = plane_weights_[p] + (height.weight_first + height.weight_step * t) * kx * block;
      }
    for (int64_t r = 0; r < conv_.x.open_classes(); ++r) convolve_class(conv_.x.open_at(r), count);
  }

  // The targets of one class of a row.
  void convolve_class(const AxisClass& across, int64_t count) {
    constexpr int L = lanes<A>;
    const int64_t block = conv_.block;
    const A* const* weights = row_weights_.get();
    if (!conv_.x.takes_all_taps()) {
      for (int64_t p = 0; p < count; ++p) {
        A* to = selected_.get() + p * conv_.shape.kernel[X] * block;
        for (int64_t t = 0; t < across.taps; ++t)
          std::memcpy(to + t * block, row_weights_[p] + (across.weight_first + across.weight_step * t) * block,
                      size_t(block) * sizeof(A));
        selected_weights_[p] = to;
      }
      weights = selected_weights_.get();
    }
    if (across.taps == 0) count = 0;
    const PixelKernel<A> kernel = pixel_kernel<A>(across.taps, across.in_step == across.in_spacing);
    const PixelSteps steps{across.in_step * block, across.in_spacing * block, block, across.spacing * block};
    for (int64_t j = 0; j < across.count; j += pixel_block) {
      const int64_t at = (across.in_first - row_.first + across.in_step * j) * block;
      A* out = out_.get() + (across.first + across.spacing * j) * block;
      for (int64_t c = 0; c < in_vectors_; c += L)
        kernel(rows_.get(), weights, count, at, c, across.taps, steps, load(bias_.get() + c), out + c);
    }
  }

  void emit(T* to) const {
    constexpr int L = lanes<A>;
    // Lines of memory that go past the caches in pieces are slow. Pixels of all channels follow each other.
    const bool whole_lines = channels_ == conv_.target.spatial_stride || channels_ * int64_t(sizeof(T)) % 64 == 0;
    const A* from = row_of_targets() + placed_ * conv_.block;
    to += placed_ * conv_.target.spatial_stride;
    for (int64_t x = placed_; x < conv_.x.targets; ++x, from += conv_.block, to += conv_.target.spatial_stride) {
      int64_t c = 0;
      if (Stream && whole_lines)
        for (; c + L <= channels_; c += L) store<Stream>(to + c, load(from + c));
      for (; c + L <= channels_; c += L) store(to + c, load(from + c));
      for (; c < channels_; ++c) store_one(to + c, from[c]);
    }
  }

  void gather(const T* from, int64_t count, double* mean, double* m2, int64_t* lines) const {
    const int64_t pitch = conv_.target.spatial_stride;
    for (int64_t i = 0; i < count; i += most_lines_in_block) {
      const int64_t now = least(most_lines_in_block, count - i);
      add_block_moments(from + i * pitch, pitch, now, channels_, *lines, mean, m2);
      *lines += now;
    }
  }

  const PixelConvolution<T>& conv_;
  PixelLayout<T> row_;
  PlaneRing<T, PixelLayout<T>> ring_;
  // Rows of targets lie out_row_ apart in out_, of which row() sees `current_`; as many pixels as placed_ are not there
  // but where they belong.
  int64_t out_row_, current_ = 0, placed_ = 0;
  Scratch<A> out_, weights_, selected_, bias_;
  Scratch<const A*> rows_, row_weights_, planes_, plane_weights_, selected_weights_;
  int64_t count_ = 0, channels_ = 0, in_vectors_ = 0;  // channels of the block, and rounded up to whole vectors
};

template <class T, bool Stream>
inline void depthwise_forward_channels_last(const DepthwiseConvForward& args, int threads) {
  using A = compute_t<T>;
  const PixelConvolution<T> conv(args.shape, false, args.x, args.y, args.weight, args.bias);
  const int64_t slot_size = 2 * conv.block;
  Scratch<double> moments(args.mean ? conv.tasks() * slot_size : 0);
  Scratch<int64_t> lines(args.mean ? conv.tasks() : 0);
  parallel_spans(threads, conv.tasks(), [&](int64_t begin, int64_t end) {
    PixelConvolver<T, Stream> convolver(conv);
    for (int64_t task = begin; task < end; ++task) {
      if (!args.mean) {
        convolver.run(task, nullptr, nullptr, nullptr);
        continue;
      }
      double* mean = moments.get() + task * slot_size;
      for (int64_t i = 0; i < slot_size; ++i) mean[i] = 0;
      lines[task] = 0;
      convolver.run(task, mean, mean + conv.block, &lines[task]);
    }
  });
  if (!args.mean) return;
  const int64_t bands = conv.bands.count();
  for (int64_t row = 0; row < args.shape.batch * args.shape.channels; ++row) {
    const int64_t n = row / args.shape.channels, c = row % args.shape.channels;
    Moments all;
    for (int64_t band = 0; band < bands; ++band) {
      const int64_t task = (n * bands + band) * conv.blocks + c / conv.block;
      const double* mean = moments.get() + task * slot_size + c % conv.block;
      all.merge(double(lines[task]), mean[0], mean[conv.block]);
    }
    static_cast<A*>(args.mean)[row] = A(all.mean);
    static_cast<A*>(args.rstd)[row] = A(reciprocal_deviation(all.m2, all.count, args.eps));
  }
}

}  // namespace fastseg::FASTSEG_ISA
