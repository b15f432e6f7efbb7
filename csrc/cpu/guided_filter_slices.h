// The guided filter of many channels side by side, such as the slices of a cost volume: a channel is a lane, so that
// running sums along both axes are additions of vectors, and what the guide says of a pixel is one number for all.
//
// Rows are walked down once. For row j that comes in (K = guide channels + 1):
//
//     lead[x]    sums of p and I p over the column of rows j - 2r .. j               += new row - row that leaves
//     a, b       of row j - r, from sums of lead along the row
//     couple[x]  sums of a and b over the column of rows j - 4r .. j - r             += a, b - those of the row that leaves
//     q          of row j - 2r, from sums of couple along the row
//
// To keep a and b until they leave would take K (2r + 1) rows of memory, beyond the caches for a large radius. They are
// computed once more instead, by the same additions in the same order, so that exactly what came in leaves: `trail` is
// what lead was 2r + 1 rows ago.
//
// Bytes: src read once, dst written once; the rest is 3 K + 4r + 3 rows of lanes a thread, which live in its second-level
// cache. Operations of a colour guide (K = 4), a vector of pixels: 2 x 8 for the columns of lead and trail, 2 x 27 to
// make a and b, 20 for q; loads are as many.
#pragma once
#include "fastseg/cpu/transpose.h"
#include "guided_filter_guide.h"

namespace fastseg::FASTSEG_ISA {

template <class T, int G>
class SliceFilter {
 public:
  using A = compute_t<T>;
  static constexpr int L = lanes<A>, K = G + 1, group = L;

  SliceFilter(const GuidedFilter& args, const Axis& rows, const Axis& columns, const GuidePlanes<G, A>& guide)
      : args_(args), rows_(rows), columns_(columns), guide_(guide), span_(2 * rows.radius + 1) {}

  // Scratch of a thread: ring, a row of zeros, three rows of K values and a zero column each; shares and two maps.
  static int64_t elements(const Axis& rows, const Axis& columns) {
    const int64_t width = columns.size + 1;
    return (ring_rows(rows) + 1) * width * L + 3 * width * K * L + rounded_up(3 * width, L) * 2;
  }

  // Rows first to last of channels group * c, ...
  void run(int64_t n, int64_t c, int64_t first, int64_t last, A* scratch) const {
    Band band(*this, n, c * group, first, scratch);
    for (int64_t j = first - 2 * rows_.radius; j < last + 2 * rows_.radius; ++j) band.step(j);
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
  int64_t span_;
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
        ring_rows_(filter.ring_rows(filter.rows_)),
        next_(ring_rows_ == filter.rows_.size ? 0 : first - 2 * filter.rows_.radius),
        ring_(scratch),
        zeros_(ring_ + ring_rows_ * (width_ + 1) * L),
        lead_(zeros_ + (width_ + 1) * L),
        trail_(lead_ + (width_ + 1) * K * L),
        couple_(trail_ + (width_ + 1) * K * L),
        share_(couple_ + (width_ + 1) * K * L),
        enter_(reinterpret_cast<int32_t*>(share_ + width_ + 1)),
        leave_(enter_ + width_ + 1) {
    const Axis& columns = f_.columns_;
    if (next_ < 0) next_ = 0;
    for (int64_t i = 0; i < (width_ + 1) * L; ++i) zeros_[i] = 0;
    for (int64_t i = 0; i < 3 * (width_ + 1) * K * L; ++i) lead_[i] = 0;
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
    const int64_t come = j - r >= first_ - r ? f_.rows_.pixel(j - r) : -1;
    const int64_t go = j - r - span >= first_ - r ? f_.rows_.pixel(j - r - span) : -1;
    if (come >= 0 && go >= 0)
      fit_row<true, true>(come, go);
    else if (come >= 0)
      fit_row<true, false>(come, go);
    else if (go >= 0)
      fit_row<false, true>(come, go);
    if (j - 2 * r >= first_) write_row(j - 2 * r);
  }

 private:
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
    row.p = y < 0 ? zeros_ : ring_ + y % ring_rows_ * (width_ + 1) * L;
    for (int g = 0; g < G; ++g) row.colours[g] = f_.guide_.colours.row(g, y < 0 ? 0 : y);
    return row;
  }

  // A row of src into the ring, pixels of its channels beside each other.
  void load_row(int64_t y) {
    A* to = ring_ + y % ring_rows_ * (width_ + 1) * L;
    for (int64_t x = 0; x < width_; x += L) {
      Vec<A> tile[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) tile[i] = channel_ + i < f_.args_.channels ? src(i).read(y, x) : Vec<A>{};
      transpose(tile);
      const int64_t pixels = width_ - x < L ? width_ - x : L;
      for (int64_t i = 0; i < pixels; ++i) store(to + (x + i) * L, tile[i]);
    }
  }

  void add_columns(int64_t j, Place middle, Place old) {
    const Place coming = {f_.rows_.pixel(j)};
    if (coming.pixel < 0 && middle.pixel < 0 && old.pixel < 0) return;
    const Row in = row(coming), mid = row(middle), out = row(old);
    for (int64_t x = 0; x < width_; ++x) {
      const Vec<A> p0 = load(in.p + x * L), p1 = load(mid.p + x * L), p2 = load(out.p + x * L);
      add(lead_ + x * K * L, p0 - p1);
      add(trail_ + x * K * L, p1 - p2);
      for (int g = 0; g < G; ++g) {
        const Vec<A> middle_product = mid.colours[g][x] * p1;
        add(lead_ + (x * K + 1 + g) * L, in.colours[g][x] * p0 - middle_product);
        add(trail_ + (x * K + 1 + g) * L, middle_product - out.colours[g][x] * p2);
      }
    }
  }
  static void add(A* to, Vec<A> v) { store(to, load(to) + v); }

  // Sums of a row of columns over the windows of pixels, one after another.
  class WindowSum {
   public:
    WindowSum(const A* columns, const Axis& axis, const int32_t* enter, const int32_t* leave, int32_t nothing)
        : columns_(columns), enter_(enter), leave_(leave) {
      for (int64_t x = -axis.radius - 1; x < axis.radius; ++x) {
        const int64_t pixel = axis.pixel(x);
        const A* from = columns_ + (pixel < 0 ? nothing : pixel) * K * L;
#pragma GCC unroll 4
        for (int k = 0; k < K; ++k) sum[k] += load(from + k * L);
      }
    }
    // To pixel x, after the pixel before it.
    void step(int64_t x) {
      const A *in = columns_ + int64_t(enter_[x]) * K * L, *out = columns_ + int64_t(leave_[x]) * K * L;
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) sum[k] += load(in + k * L) - load(out + k * L);
    }
    Vec<A> sum[K] = {};

   private:
    const A* columns_;
    const int32_t *enter_, *leave_;
  };
  WindowSum window_sum(const A* columns) const {
    return WindowSum(columns, f_.columns_, enter_, leave_, int32_t(width_));
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
    s.share = A(1.0 / double(f_.rows_.count(y)));
    return s;
  }

  // a and b of a window from its sums.
  void fit(const Statistics& s, int64_t x, const Vec<A> (&sum)[K], Vec<A> (&ab)[K]) const {
    const A share = share_[x] * s.share;
    const Vec<A> mean = sum[0] * share;
    Vec<A> covariance[G];
#pragma GCC unroll 4
    for (int g = 0; g < G; ++g) covariance[g] = sum[1 + g] * share - s.means[g][x] * mean;
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
    WindowSum lead = window_sum(lead_), trail = window_sum(trail_);
    for (int64_t x = 0; x < width_; ++x) {
      Vec<A> in[K] = {}, out[K] = {};
      if constexpr (Come) lead.step(x), fit(coming, x, lead.sum, in);
      if constexpr (Go) trail.step(x), fit(going, x, trail.sum, out);
      A* to = couple_ + x * K * L;
#pragma GCC unroll 4
      for (int k = 0; k < K; ++k) store(to + k * L, load(to + k * L) + (in[k] - out[k]));
    }
  }

  void write_row(int64_t y) {
    const A share = A(1.0 / double(f_.rows_.count(y)));
    const A* colours[G];
    for (int g = 0; g < G; ++g) colours[g] = f_.guide_.colours.row(g, y);
    WindowSum windows = window_sum(couple_);
    for (int64_t x = 0; x < width_; x += L) {
      const int64_t pixels = width_ - x < L ? width_ - x : L;
      if (f_.args_.coefficients) {
        Vec<A> tiles[K][L] = {};
        for (int64_t i = 0; i < pixels; ++i) {
          windows.step(x + i);
          Vec<A> offset = windows.sum[G];
          for (int g = 0; g < G; ++g) {
            tiles[g][i] = windows.sum[g] * (share * share_[x + i]);
            offset -= windows.sum[g] * A(f_.guide_.centre[g]);
          }
          tiles[G][i] = offset * (share * share_[x + i]);
        }
        for (int k = 0; k < K; ++k) write(tiles[k], y, x, [&](int i) { return dst<A>((channel_ + i) * K + k); });
      } else {
        Vec<A> tile[L] = {};
        for (int64_t i = 0; i < pixels; ++i) {
          windows.step(x + i);
          Vec<A> q = windows.sum[G];
#pragma GCC unroll 4
          for (int g = 0; g < G; ++g) q += windows.sum[g] * colours[g][x + i];
          tile[i] = q * (share * share_[x + i]);
        }
        write(tile, y, x, [&](int i) { return dst<T>(channel_ + i); });
      }
    }
  }

  template <class To>
  void write(Vec<A> (&tile)[L], int64_t y, int64_t x, const To& to) const {
    transpose(tile);
    const int64_t channels = f_.args_.channels - channel_ < L ? f_.args_.channels - channel_ : L;
    for (int i = 0; i < channels; ++i) to(i).write(y, x, tile[i]);
  }

  ImageRows<T> src(int i) const { return image<T>(f_.args_.src, channel_ + i); }
  template <class P>
  ImageRows<P> dst(int64_t c) const {
    return image<P>(f_.args_.dst, c);
  }
  template <class P>
  ImageRows<P> image(const Images& images, int64_t c) const {
    return {static_cast<P*>(images.data) + n_ * images.batch_stride + c * images.channel_stride, f_.rows_.size, width_};
  }

  const SliceFilter& f_;
  int64_t n_, channel_, first_, width_, ring_rows_;
  int64_t next_;  // the row of src that is not in the ring yet
  A* ring_;       // [rows][width][lanes]
  A* zeros_;      // [width][lanes]
  A *lead_, *trail_, *couple_;  // [width + 1][K][lanes], the last column is zero
  A* share_;                    // [width], one over the pixels of a window along the row
  int32_t *enter_, *leave_;     // [width], the columns that come in and go
};

}  // namespace fastseg::FASTSEG_ISA
