// The guided filter of many channels side by side, such as the slices of a cost volume: a channel is a lane, so that
// running sums along both axes are additions of vectors, and what the guide says of a pixel is one number for all.
//
// Rows are walked down once. For row j that comes in (K = guide channels + 1):
//
//     lead[x]    sums of p and I p over the column of rows j - 2r .. j          += row j - row j - 2r - 1
//     a, b       of row j - r, from sums of lead along the row
//     couple[x]  sums of a and b over the column of rows j - 4r .. j - r        += new a, b - those 2r + 1 rows before
//     q          of row j - 2r, from sums of couple along the row
//
// To keep a and b until they leave would take K (2r + 1) rows of memory, beyond the caches for a large radius. They are
// computed once more instead, by the same additions in the same order, so that exactly what came in leaves: `trail` is
// what lead was 2r + 1 rows ago.
//
// Bytes: src read once to find its scale and once to filter it, dst written once; the rest is 4r + 4 + 5 K rows of
// lanes a thread, which live in its second-level cache. Operations of a colour guide (K = 4), a vector of pixels: 37
// for the columns of lead and trail, 2 x 39 to make a and b, 20 to add them to couple, 24 for q; loads are about as
// many.
#pragma once
#include "guided_filter_argmin.h"
#include "guided_filter_columns.h"
#include "guided_filter_guide.h"
#include "guided_filter_lanes.h"

namespace fastseg::FASTSEG_ISA {

template <class T, int G>
class SliceFilter {
 public:
  using A = compute_t<T>;
  static constexpr int L = lanes<A>, K = G + 1, group = L;
  static constexpr int64_t prefetched_rows = 1;

  // `scales` has two numbers for each channel, padded to whole groups: see find_scale. `minima` is for args.index.
  SliceFilter(const GuidedFilter& args, const Axis& rows, const Axis& columns, const GuidePlanes<G, A>& guide,
              A* scales, const GroupMinima<A>& minima)
      : args_(args),
        rows_(rows),
        columns_(columns),
        guide_(guide),
        scales_(scales),
        minima_(minima),
        span_(2 * rows.radius + 1),
        lost_bits_(FixedPoint<A>::lost_bits(columns.largest_window())) {}

  // Whether sums over windows keep their digits.
  static bool suits(const Axis& rows, const Axis& columns) {
    return rows.largest_window() <= widest_fixed_point_window && columns.largest_window() <= widest_fixed_point_window;
  }

  // Scratch of a thread: the members of Band.
  static int64_t elements(const Axis& rows, const Axis& columns) {
    const int64_t width = columns.size + 1, padded = rounded_up(columns.size, L);
    return (ring_rows(rows) + 1 + K) * padded * L + 4 * width * K * L + 3 * width;
  }

  // The power of two that channel c is multiplied by on its way in, and what it is multiplied by on its way out. A
  // channel with a number that is not finite comes out as NaN everywhere.
  void find_scale(int64_t n, int64_t c) const {
    A largest = 0;
    if (c < args_.channels) {
      const T* from = static_cast<const T*>(args_.src.data) + n * args_.src.batch_stride + c * args_.src.channel_stride;
      largest = largest_magnitude(from, rows_.size * columns_.size);
    }
    const bool finite = largest < A(__builtin_inf());
    const A scale = finite ? FixedPoint<A>::scale(largest, rows_.largest_window()) : A(1);
    scales_[2 * (c - c % L) + c % L] = scale;
    scales_[2 * (c - c % L) + L + c % L] = finite ? A(1) / scale : A(__builtin_nan(""));
  }

  // Rows first to last of channels group * c, ...
  void run(int64_t n, int64_t c, int64_t first, int64_t last, A* scratch) const {
    Band band(*this, n, c * group, first, scratch);
    for (int64_t j = first - 2 * rows_.radius; j < last + 2 * rows_.radius; ++j) band.step(j);
  }

  // Rows first to last of the smallest channel, after all bands of image n.
  void merge(int64_t n, int64_t first, int64_t last) const {
    for (int64_t y = first; y < last; ++y) {
      const int64_t at = (n * rows_.size + y) * columns_.size;
      minima_.merge((args_.channels + L - 1) / L, y, columns_.size, args_.index + at,
                    static_cast<A*>(args_.value) + at);
    }
  }

 private:
  static int64_t ring_rows(const Axis& rows) {
    const int64_t needed = 4 * rows.radius + 3;
    return needed < rows.size ? needed : rows.size;
  }

  class Band;

  const GuidedFilter& args_;
  Axis rows_, columns_;
  const GuidePlanes<G, A>& guide_;
  A* scales_;
  GroupMinima<A> minima_;  // where the result is the smallest channel
  int64_t span_;
  int lost_bits_;
};

template <class T, int G>
class SliceFilter<T, G>::Band {
 public:
  Band(const SliceFilter& filter, int64_t n, int64_t channel, int64_t first, A* scratch)
      : f_(filter),
        n_(n),
        channel_(channel),
        first_(first),
        width_(filter.columns_.size),
        padded_(rounded_up(width_, L)),
        ring_rows_(filter.ring_rows(filter.rows_)),
        next_(ring_rows_ == filter.rows_.size ? 0 : first - 2 * filter.rows_.radius),
        ring_(scratch),
        zeros_(ring_ + ring_rows_ * padded_ * L),
        line_(zeros_ + padded_ * L),
        lead_(reinterpret_cast<Number*>(line_ + K * padded_ * L)),
        trail_(lead_ + (width_ + 1) * K * L),
        couple_(reinterpret_cast<A*>(trail_ + (width_ + 1) * K * L)),
        excess_(couple_ + (width_ + 1) * K * L),
        share_(excess_ + (width_ + 1) * K * L),
        enter_(reinterpret_cast<int32_t*>(share_ + width_ + 1)),
        leave_(enter_ + width_ + 1) {
    const Axis& columns = f_.columns_;
    if (next_ < 0) next_ = 0;
    for (int64_t i = 0; i < padded_ * L; ++i) zeros_[i] = 0;
    for (int64_t i = 0; i < K * padded_ * L; ++i) line_[i] = 0;
    for (int64_t i = 0; i < (width_ + 1) * K * L; ++i) {
      lead_[i] = trail_[i] = Fixed::half(f_.lost_bits_);
      couple_[i] = excess_[i] = 0;
    }
    scale_ = load(f_.scales_ + 2 * channel);
    unscale_ = load(f_.scales_ + 2 * channel + L);
    for (int64_t x = 0; x < width_; ++x) {
      share_[x] = A(1.0 / double(columns.count(x)));
      enter_[x] = place(x + columns.radius);
      leave_[x] = place(x - columns.radius - 1);
    }
  }

  void step(int64_t j) {
    const int64_t r = f_.rows_.radius, span = f_.span_;
    add_columns(j, began(j - span), began(j - 2 * span));
    // Rows of a and b that come into the sums of `couple`, and leave.
    const int64_t come = j >= first_ ? f_.rows_.pixel(j - r) : -1;
    const int64_t go = j - span >= first_ ? f_.rows_.pixel(j - r - span) : -1;
    if (come >= 0 && go >= 0)
      fit_row<true, true>(come, go);
    else if (come >= 0)
      fit_row<true, false>(come, go);
    else if (go >= 0)
      fit_row<false, true>(come, go);
    if (j - 2 * r >= first_) write_row(j - 2 * r);
  }

 private:
  using Fixed = FixedPoint<A>;
  using Sum = typename Fixed::Sum;
  using Number = std::remove_reference_t<decltype(Sum{}[0])>;

  // The column that stands at place x; the one after the last is zero.
  int32_t place(int64_t x) const {
    const int64_t pixel = f_.columns_.pixel(x);
    return int32_t((pixel < 0 ? width_ : pixel));
  }

  struct Row {
    const A* p;           // [width][lanes]
    const A* colours[G];  // [width]
  };

  // A row that is not there, or was never in the sums, is one of zeros.
  struct Place {
    int64_t pixel;
  };
  Place began(int64_t j) const { return {j >= first_ - 2 * f_.rows_.radius ? f_.rows_.pixel(j) : -1}; }

  Row row(Place place) {
    Row row;
    const int64_t y = place.pixel;
    while (next_ <= y) load_row(next_++);
    row.p = y < 0 ? zeros_ : ring_row(y);
    for (int g = 0; g < G; ++g) row.colours[g] = f_.guide_.colours.row(g, y < 0 ? 0 : y);
    return row;
  }

  // A row of src into the ring, scaled.
  void load_row(int64_t y) {
    lane_rows<T>(f_.args_.src, channel_, 1, y).read(scale_, prefetched_rows * width_, ring_row(y));
  }
  A* ring_row(int64_t y) const { return ring_ + y % ring_rows_ * padded_ * L; }

  // Row y of channels first, first + step, ...
  template <class P>
  LaneRows<P> lane_rows(const Images& images, int64_t first, int64_t step, int64_t y) const {
    return {images, n_, first, step, f_.args_.channels - channel_, y, width_};
  }

  void add_columns(int64_t j, Place middle, Place old) {
    const Place coming = {f_.rows_.pixel(j)};
    if (coming.pixel < 0 && middle.pixel < 0 && old.pixel < 0) return;
    const Row in = row(coming), mid = row(middle), out = row(old);
    for (int64_t x = 0; x < width_; ++x) {
      const Vec<A> p0 = load(in.p + x * L), p1 = load(mid.p + x * L), p2 = load(out.p + x * L);
      change(x * K, Fixed::from(p0), Fixed::from(p1), Fixed::from(p2));
#pragma GCC unroll 4
      for (int g = 0; g < G; ++g)
        change(x * K + 1 + g, Fixed::from(in.colours[g][x] * p0), Fixed::from(mid.colours[g][x] * p1),
               Fixed::from(out.colours[g][x] * p2));
    }
  }
  [[gnu::always_inline]] void change(int64_t at, Sum coming, Sum middle, Sum old) {
    store_sum(lead_ + at * L, load_sum<Sum>(lead_ + at * L) + (coming - middle));
    store_sum(trail_ + at * L, load_sum<Sum>(trail_ + at * L) + (middle - old));
  }

  WindowSum<FixedColumns<A, K>> fixed_sum(const Number* columns) const {
    return {{columns, f_.lost_bits_}, f_.columns_, enter_, leave_, width_};
  }
  WindowSum<FloatColumns<A, K>> float_sum(const A* columns) const {
    return {{columns}, f_.columns_, enter_, leave_, width_};
  }

  // What the guide says of a row of windows.
  struct Statistics {
    const A *means[G], *inverse[GuidePlanes<G, A>::inverses];
    A share;
  };
  Statistics statistics(int64_t y) const {
    Statistics s{};
    if (y < 0) return s;
    for (int g = 0; g < G; ++g) s.means[g] = f_.guide_.means.row(g, y);
    for (int i = 0; i < GuidePlanes<G, A>::inverses; ++i) s.inverse[i] = f_.guide_.inverse.row(i, y);
    s.share = A(double(int64_t(1) << f_.lost_bits_) / double(f_.rows_.count(y)));
    return s;
  }

  // a and b of a window from its sums.
  [[gnu::always_inline]] void fit(const Statistics& s, int64_t x, const WindowSum<FixedColumns<A, K>>& sums,
                                  Vec<A> (&ab)[K]) const {
    const A share = share_[x] * s.share;
    const Vec<A> mean = sums.sum(0) * share;
    Vec<A> covariance[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) covariance[g] = sums.sum(1 + g) * share - s.means[g][x] * mean;
    if constexpr (G == 1) {
      ab[0] = s.inverse[0][x] * covariance[0];
    } else {
      const A m[6] = {s.inverse[0][x], s.inverse[1][x], s.inverse[2][x],
                      s.inverse[3][x], s.inverse[4][x], s.inverse[5][x]};
      ab[0] = m[0] * covariance[0] + m[1] * covariance[1] + m[2] * covariance[2];
      ab[1] = m[1] * covariance[0] + m[3] * covariance[1] + m[4] * covariance[2];
      ab[2] = m[2] * covariance[0] + m[4] * covariance[1] + m[5] * covariance[2];
    }
    ab[G] = mean;
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) ab[G] -= s.means[g][x] * ab[g];
  }

  template <bool Come, bool Go>
  void fit_row(int64_t come, int64_t go) {
    const Statistics coming = statistics(come), going = statistics(go);
    auto lead = fixed_sum(lead_), trail = fixed_sum(trail_);
    for (int64_t x = 0; x < width_; ++x) {
      Vec<A> in[K] = {}, out[K] = {};
      if constexpr (Come) lead.step(x), fit(coming, x, lead, in);
      if constexpr (Go) trail.step(x), fit(going, x, trail, out);
      A *to = couple_ + x * K * L, *excess = excess_ + x * K * L;
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) {
        const Vec<A> before = load(to + k * L), step = in[k] - out[k] - load(excess + k * L), after = before + step;
        store(to + k * L, after);
        store(excess + k * L, (after - before) - step);
      }
    }
  }

  void write_row(int64_t y) {
    const A share = A(1.0 / double(f_.rows_.count(y)));
    const A* colours[G];
    for (int g = 0; g < G; ++g) colours[g] = f_.guide_.colours.row(g, y);
    auto windows = float_sum(couple_);
    if (f_.args_.coefficients) {
      const A scale = A(*f_.guide_.scale);
      for (int64_t x = 0; x < width_; ++x) {
        windows.step(x);
        const A unit = share * share_[x];
        Vec<A> offset = windows.sum(G) * unit * unscale_;
        for (int g = 0; g < G; ++g) {
          const Vec<A> slope = windows.sum(g) * unit * unscale_ * scale;
          offset -= slope * A(f_.guide_.centre[g]);
          store(line_ + (g * padded_ + x) * L, slope);
        }
        store(line_ + (G * padded_ + x) * L, offset);
      }
      for (int k = 0; k < K; ++k) lane_rows<A>(f_.args_.dst, channel_ * K + k, K, y).write(line_ + k * padded_ * L);
    } else {
      for (int64_t x = 0; x < width_; ++x) {
        windows.step(x);
        Vec<A> q = windows.sum(G);
#pragma GCC unroll 4
        for (int g = 0; g < G; ++g) q += windows.sum(g) * colours[g][x];
        store(line_ + x * L, q * (share * share_[x]) * unscale_);
      }
      if (f_.args_.index) {
        const int64_t channels = f_.args_.channels - channel_;
        f_.minima_.take(line_, channels < L ? int(channels) : L, channel_ / L, y, width_);
      } else {
        lane_rows<T>(f_.args_.dst, channel_, 1, y).write(line_);
      }
    }
  }

  const SliceFilter& f_;
  int64_t n_, channel_, first_;
  int64_t width_, padded_;  // to whole tiles
  int64_t ring_rows_;
  int64_t next_;             // the row of src that is not in the ring yet
  A* ring_;                  // [rows][padded][lanes]
  A* zeros_;                 // [padded][lanes]
  A* line_;                  // [K][padded][lanes], a row of results
  Number *lead_, *trail_;    // [width + 1][K][lanes], the last column is zero
  A* couple_;                // the same
  A* excess_;                // what rounding has added to couple_, to be taken off (Kahan)
  A* share_;                 // [width], one over the pixels of a window along the row
  int32_t *enter_, *leave_;  // [width], the columns that come in and go
  Vec<A> scale_, unscale_;
};

}  // namespace fastseg::FASTSEG_ISA
