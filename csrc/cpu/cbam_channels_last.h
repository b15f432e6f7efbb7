// The passes of channel and spatial attention over pixels: the channels of a pixel are adjacent.
//
// The last vector of a pixel may be a part of one. Sums over channels are added across lanes once a pixel; sums over
// pixels lie one to a lane, in float32 for 16 pixels at most, then in float64.
#pragma once
#include "cbam_passes.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
struct CbamChannelsLast {
  using A = compute_t<T>;
  using V = Vec<A>;
  static constexpr int L = lanes<A>;
  static constexpr int64_t run = 16;  // pixels that are added up in A

  static T* pixel(const View& v, int64_t n, int64_t p) {
    return static_cast<T*>(v.data) + n * v.batch_stride + p * v.spatial_stride;
  }

  // ---- means, and with Peak maxima, over pixels

  static int64_t pool_slots(const CbamShape& shape) { return blocks_of(shape); }
  static int64_t pool_tasks(const CbamShape& shape) { return blocks_of(shape); }

  template <bool Peak>
  static void pool(const CbamShape& shape, const View& x, int64_t n, int64_t task, PoolPart<A>* parts) {
    const Span span = block_span(shape, task);
    const int64_t slots = blocks_of(shape);
    int64_t c = 0;
    const auto tile = [&](auto together) {
      constexpr int count = together();
      double total[count * L] = {};
      Best<A> best[count];
      for (int64_t i = 0; i < span.count;) {
        V sum[count] = {};
        for (const int64_t end = i + run < span.count ? i + run : span.count; i < end; ++i) {
          const T* from = pixel(x, n, span.first + i) + c;
          for (int q = 0; q < count; ++q) {
            const V v = load_first(from + q * L, shape.channels - c - q * L);
            sum[q] += v;
            if constexpr (Peak) best[q].take(v, IndexVec<A>{} + bits_t<A>(i));
          }
        }
        for (int q = 0; q < count; ++q) add_to_sums<A>(sum[q], total + q * L);
      }
      for (int q = 0; q < count; ++q)
        for (int k = 0; k < L && c + q * L + k < shape.channels; ++k)
          parts[(c + q * L + k) * slots + task] = {total[q * L + k], best[q].value[k],
                                                   span.first + int64_t(best[q].at[k])};
      c += count * L;
    };
    while (c + 4 * L <= shape.channels) tile(std::integral_constant<int, 4>{});
    while (c < shape.channels) tile(std::integral_constant<int, 1>{});
  }

  // ---- sums over channels, weighted by gates.mix

  static void mix(const CbamShape& shape, const View& x, int64_t n, int64_t block, const Gates<A>& gates, A* mean,
                  A* peak, int32_t* peak_channel) {
    const Span span = block_span(shape, block);
    const IndexVec<A> numbers = lane_numbers<A>();
    for (int64_t p = span.first; p < span.first + span.count; ++p) {
      const T* from = pixel(x, n, p);
      V sum = {};
      Best<A> best;
      for (int64_t c = 0; c < shape.channels; c += L) {
        const int64_t count = shape.channels - c;
        const V v = load_first(from + c, count) * load_first(gates.mix + c, count);
        sum += v;
        best.take(only_first<A>(v, count), numbers + bits_t<A>(c));
      }
      mean[p] = add_lanes(sum) / A(shape.channels);
      const A top = peak_of_lanes(best.value);
      const V tops = broadcast<V>(top);
      peak[p] = top;
      peak_channel[p] = int32_t(least_of_lanes<A>(is_peak(best.value, tops) ? best.at : far_away<A>()));
    }
  }

  static void project(const CbamShape& shape, const View& x, int64_t n, int64_t block, const Gates<A>& gates, A* to) {
    const Span span = block_span(shape, block);
    for (int64_t p = span.first; p < span.first + span.count; ++p) {
      const T* from = pixel(x, n, p);
      V sum = {};
      for (int64_t c = 0; c < shape.channels; c += L)
        sum += load_first(from + c, shape.channels - c) * load_first(gates.mix + c, shape.channels - c);
      to[p] = add_lanes(sum);
    }
  }

  // ---- elementwise passes

  static int64_t elementwise_tasks(const CbamShape& shape) { return blocks_of(shape); }

  template <SpatialGate Kind, bool Stream>
  static void scale(const CbamShape& shape, const View& x, const View& y, int64_t n, int64_t task,
                    const Gates<A>& gates) {
    const Span span = block_span(shape, task);
    for (int64_t p = span.first; p < span.first + span.count; ++p) {
      const T* from = pixel(x, n, p);
      T* to = pixel(y, n, p);
      const A m = Kind == SpatialGate::none ? A(0) : gates.spatial[p];
      for (int64_t c = 0; c < shape.channels; c += L) {
        const int64_t count = shape.channels - c;
        const V gate = load_first(gates.channel + c, count);
        const V by = Kind == SpatialGate::none ? gate : Kind == SpatialGate::pooled ? gate * m : gate + m;
        stream_first<Stream>(to + c, load_first(from + c, count) * by, count);
      }
    }
  }

  template <SpatialGate Kind, bool Stream>
  static void spread(const CbamShape& shape, const View& grad, const View& dx, int64_t n, int64_t task,
                     const Gates<A>& gates) {
    const Span span = block_span(shape, task);
    const IndexVec<A> numbers = lane_numbers<A>();
    for (int64_t p = span.first; p < span.first + span.count; ++p) {
      const T* from = pixel(grad, n, p);
      T* to = pixel(dx, n, p);
      const Pixel at(gates, p, Kind);
      for (int64_t c = 0; c < shape.channels; c += L) {
        const int64_t count = shape.channels - c;
        const V g = load_first(from + c, count), gate = load_first(gates.channel + c, count);
        const V offset = load_first(gates.offset + c, count);
        V d;
        if constexpr (Kind == SpatialGate::none)
          d = g * gate + offset;
        else if constexpr (Kind == SpatialGate::pooled)
          d = g * (gate * at.spatial) +
              (at.gradient(numbers + bits_t<A>(c)) * load_first(gates.mix + c, count) + offset);
        else
          d = g * (gate + at.spatial) + (at.dsum * load_first(gates.mix + c, count) + offset);
        stream_first<Stream>(to + c, d, count);
      }
    }
  }

  // ---- sums for backward; `partial` is [channels] of the block, `scratch` has a vector more than channels

  template <SpatialGate Kind>
  static void gate_gradients(const CbamShape& shape, const View& grad, const View& x, int64_t n, int64_t block,
                             const Gates<A>& gates, A* dspatial, double* partial, A* scratch) {
    add_runs(shape, block, partial, scratch, [&](int64_t p) {
      const T *g = pixel(grad, n, p), *from = pixel(x, n, p);
      const A m = Kind == SpatialGate::pooled ? gates.spatial[p] : A(1);
      V sum = {};
      for (int64_t c = 0; c < shape.channels; c += L) {
        const int64_t count = shape.channels - c;
        const V v = load_first(g + c, count) * load_first(from + c, count);
        if constexpr (Kind == SpatialGate::pooled) sum += v * load_first(gates.channel + c, count);
        if constexpr (Kind == SpatialGate::projected) sum += v;
        store(scratch + c, load(scratch + c) + (Kind == SpatialGate::pooled ? v * m : v));
      }
      if constexpr (Kind != SpatialGate::none) dspatial[p] = add_lanes(sum);
    });
  }

  template <SpatialGate Kind>
  static void mix_gradients(const CbamShape& shape, const View& x, int64_t n, int64_t block, const Gates<A>& gates,
                            double* partial, A* scratch) {
    const IndexVec<A> numbers = lane_numbers<A>();
    add_runs(shape, block, partial, scratch, [&](int64_t p) {
      const T* from = pixel(x, n, p);
      const Pixel at(gates, p, Kind);
      for (int64_t c = 0; c < shape.channels; c += L) {
        const V v = load_first(from + c, shape.channels - c);
        if constexpr (Kind == SpatialGate::pooled)
          store(scratch + c, load(scratch + c) + v * at.gradient(numbers + bits_t<A>(c)));
        else
          store(scratch + c, load(scratch + c) + v * at.dsum);
      }
    });
  }

 private:
  // The gradients of one pixel's sum and maximum over channels.
  struct Pixel {
    A spatial = 0, dsum = 0, dpeak = 0;
    IndexVec<A> place = {};

    Pixel(const Gates<A>& gates, int64_t p, SpatialGate kind) {
      if (kind == SpatialGate::none) return;
      spatial = gates.spatial[p];
      dsum = gates.dsum[p];
      if (kind == SpatialGate::projected) return;
      dpeak = gates.dpeak[p];
      place += bits_t<A>(gates.peak_channel[p]);
    }
    V gradient(IndexVec<A> channels) const { return dsum + (channels == place ? broadcast<V>(dpeak) : V{}); }
  };

  // Sums over a block's pixels, one a channel: add(p) adds pixel p to scratch.
  template <class Add>
  static void add_runs(const CbamShape& shape, int64_t block, double* partial, A* scratch, const Add& add) {
    const Span span = block_span(shape, block);
    for (int64_t c = 0; c < shape.channels; ++c) partial[c] = 0;
    for (int64_t i = 0; i < span.count;) {
      for (int64_t c = 0; c < shape.channels; c += L) store(scratch + c, V{});
      for (const int64_t end = i + run < span.count ? i + run : span.count; i < end; ++i) add(span.first + i);
      for (int64_t c = 0; c < shape.channels; ++c) partial[c] += double(scratch[c]);
    }
  }
};

}  // namespace fastseg::FASTSEG_ISA
