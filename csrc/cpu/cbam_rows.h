// The passes of channel and spatial attention over rows: each (batch, channel) is one run of adjacent pixels.
//
// Passes over an image that need sums over channels take blocks of 1024 pixels, whose sums (12 kB) stay in the first
// cache while the block's rows go by, four channels at a time: each sum is loaded and stored once for four.
#pragma once
#include "cbam_passes.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
struct CbamRows {
  using A = compute_t<T>;
  using V = Vec<A>;
  static constexpr int L = lanes<A>;
  static constexpr int64_t run = 512;           // added up in A, in 4 vectors; then in float64
  static constexpr int64_t short_run = 16 * L;  // the same in one vector
  static constexpr int64_t chunk = 65536;       // of a row, for one task

  static T* row(const View& v, int64_t n, int64_t c) {
    return static_cast<T*>(v.data) + n * v.batch_stride + c * v.channel_stride;
  }
  static int64_t chunks(const CbamShape& shape) { return (shape.pixels() + chunk - 1) / chunk; }
  static Span chunk_span(const CbamShape& shape, int64_t task) {
    const int64_t first = task % chunks(shape) * chunk, left = shape.pixels() - first;
    return {first, left < chunk ? left : chunk};
  }

  // ---- means, and with Peak maxima, over pixels; parts[channel * pool_slots + slot]

  static int64_t pool_slots(const CbamShape& shape) { return chunks(shape); }
  static int64_t pool_tasks(const CbamShape& shape) { return shape.channels * chunks(shape); }

  template <bool Peak>
  static void pool(const CbamShape& shape, const View& x, int64_t n, int64_t task, PoolPart<A>* parts) {
    const Span span = chunk_span(shape, task);
    const T* from = row(x, n, task / chunks(shape)) + span.first;
    PoolPart<A> part{0, A(-__builtin_inf()), 0};
    WideSum<A> sum;
    int64_t best_run = 0;
    for (int64_t i = 0; i < span.count; i += run) {
      A peak;
      sum.add(pool_run<Peak>(from + i, span.count - i < run ? span.count - i : run, peak));
      if (Peak && is_above(peak, part.peak)) part.peak = peak, best_run = i;
    }
    if constexpr (Peak) {
      // Its place is looked for once, in the run that has it.
      const int64_t left = span.count - best_run;
      part.at = span.first + best_run + first_place(from + best_run, left < run ? left : run, part.peak);
    }
    part.sum = sum.total();
    parts[task] = part;
  }

  // ---- sums over channels, weighted by gates.mix

  // Mean and maximum of the weighted channels, and the first channel that has the maximum.
  static void mix(const CbamShape& shape, const View& x, int64_t n, int64_t block, const Gates<A>& gates, A* mean,
                  A* peak, int32_t* peak_channel) {
    const Span span = block_span(shape, block);
    alignas(64) A sums[most_block_pixels];
    alignas(64) A bests[most_block_pixels];
    alignas(64) bits_t<A> places[most_block_pixels];
    for (int64_t i = 0; i < span.count; i += L) {
      store(sums + i, V{});
      const Best<A> none;
      std::memcpy(bests + i, &none.value, sizeof none.value);
      std::memcpy(places + i, &none.at, sizeof none.at);
    }
    for_channels(shape, [&](int64_t c, auto together) {
      constexpr int count = together();
      const T* from[count];
      for (int q = 0; q < count; ++q) from[q] = row(x, n, c + q) + span.first;
      for (int64_t i = 0; i < span.count; i += L) {
        V v[count];
        for (int q = 0; q < count; ++q) v[q] = load_first(from[q] + i, span.count - i) * gates.mix[c + q];
        store(sums + i, load(sums + i) + added(v));
        Best<A> best;
        std::memcpy(&best.value, bests + i, sizeof best.value);
        std::memcpy(&best.at, places + i, sizeof best.at);
        for (int q = 0; q < count; ++q) best.take(v[q], IndexVec<A>{} + bits_t<A>(c + q));
        std::memcpy(bests + i, &best.value, sizeof best.value);
        std::memcpy(places + i, &best.at, sizeof best.at);
      }
    });
    for (int64_t i = 0; i < span.count; i += L) {
      const int64_t p = span.first + i, count = span.count - i;
      IndexVec<A> place;
      std::memcpy(&place, places + i, sizeof place);
      store_first(mean + p, load(sums + i) / A(shape.channels), count);
      store_first(peak + p, load(bests + i), count);
      Indices<A>::store(peak_channel + p, place, count);
    }
  }

  // The weighted sum alone.
  static void project(const CbamShape& shape, const View& x, int64_t n, int64_t block, const Gates<A>& gates, A* to) {
    const Span span = block_span(shape, block);
    alignas(64) A sums[most_block_pixels];
    for (int64_t i = 0; i < span.count; i += L) store(sums + i, V{});
    for_channels(shape, [&](int64_t c, auto together) {
      constexpr int count = together();
      const T* from[count];
      for (int q = 0; q < count; ++q) from[q] = row(x, n, c + q) + span.first;
      for (int64_t i = 0; i < span.count; i += L) {
        V v[count];
        for (int q = 0; q < count; ++q) v[q] = load_first(from[q] + i, span.count - i) * gates.mix[c + q];
        store(sums + i, load(sums + i) + added(v));
      }
    });
    for (int64_t i = 0; i < span.count; i += L) store_first(to + span.first + i, load(sums + i), span.count - i);
  }

  // ---- elementwise passes

  static int64_t elementwise_tasks(const CbamShape& shape) { return shape.channels * chunks(shape); }

  template <SpatialGate Kind, bool Stream>
  static void scale(const CbamShape& shape, const View& x, const View& y, int64_t n, int64_t task,
                    const Gates<A>& gates) {
    const Span span = chunk_span(shape, task);
    const int64_t c = task / chunks(shape);
    const T* from = row(x, n, c) + span.first;
    T* to = row(y, n, c) + span.first;
    const A gate = gates.channel[c];
    for_vectors<Stream>(to, span.count, [&](int64_t i, int64_t count, auto stream) {
      const V v = load_first(from + i, count);
      if constexpr (Kind == SpatialGate::none) {
        stream_first<stream()>(to + i, v * gate, count);
      } else {
        const V m = load_first(gates.spatial + span.first + i, count);
        stream_first<stream()>(to + i, v * (Kind == SpatialGate::pooled ? m * gate : m + gate), count);
      }
    });
  }

  template <SpatialGate Kind, bool Stream>
  static void spread(const CbamShape& shape, const View& grad, const View& dx, int64_t n, int64_t task,
                     const Gates<A>& gates) {
    const Span span = chunk_span(shape, task);
    const int64_t c = task / chunks(shape);
    const T* from = row(grad, n, c) + span.first;
    T* to = row(dx, n, c) + span.first;
    const A gate = gates.channel[c], mix = gates.mix[c], offset = gates.offset[c];
    const IndexVec<A> channel = IndexVec<A>{} + bits_t<A>(c);
    for_vectors<Stream>(to, span.count, [&](int64_t i, int64_t count, auto stream) {
      const int64_t p = span.first + i;
      const V g = load_first(from + i, count);
      V d;
      if constexpr (Kind == SpatialGate::none) {
        d = g * gate + offset;
      } else if constexpr (Kind == SpatialGate::pooled) {
        const V of_sum = load_first(gates.dsum + p, count), of_peak = load_first(gates.dpeak + p, count);
        const V t = of_sum + (Indices<A>::load(gates.peak_channel + p, count) == channel ? of_peak : V{});
        d = g * (load_first(gates.spatial + p, count) * gate) + (t * mix + offset);
      } else {
        d = g * (load_first(gates.spatial + p, count) + gate) + (load_first(gates.dsum + p, count) * mix + offset);
      }
      stream_first<stream()>(to + i, d, count);
    });
  }

  // ---- sums for backward; `partial` is [channels] of the block, `scratch` is not needed

  // Sums over the block's pixels of grad * x * (spatial gate), and over channels of grad * x * (channel gate).
  template <SpatialGate Kind>
  static void gate_gradients(const CbamShape& shape, const View& grad, const View& x, int64_t n, int64_t block,
                             const Gates<A>& gates, A* dspatial, double* partial, A*) {
    const Span span = block_span(shape, block);
    alignas(64) A sums[most_block_pixels];
    for (int64_t i = 0; i < span.count; i += L) store(sums + i, V{});
    for_channels(shape, [&](int64_t c, auto together) {
      constexpr int count = together();
      const T *g[count], *from[count];
      for (int q = 0; q < count; ++q) g[q] = row(grad, n, c + q) + span.first, from[q] = row(x, n, c + q) + span.first;
      add_runs<count>(span.count, partial + c, [&](int64_t i, V(&sum)[count]) {
        V v[count], weighted[count];
        for (int q = 0; q < count; ++q) {
          v[q] = load_first(g[q] + i, span.count - i) * load_first(from[q] + i, span.count - i);
          weighted[q] = Kind == SpatialGate::pooled ? v[q] * gates.channel[c + q] : v[q];
        }
        if constexpr (Kind != SpatialGate::none) store(sums + i, load(sums + i) + added(weighted));
        if constexpr (Kind == SpatialGate::pooled) {
          const V m = load_first(gates.spatial + span.first + i, span.count - i);
          for (int q = 0; q < count; ++q) sum[q] += v[q] * m;
        } else {
          for (int q = 0; q < count; ++q) sum[q] += v[q];
        }
      });
    });
    if constexpr (Kind != SpatialGate::none)
      for (int64_t i = 0; i < span.count; i += L)
        store_first(dspatial + span.first + i, load(sums + i), span.count - i);
  }

  // Sums over the block's pixels of x times the gradient of the channel's part in the pixel's sum and maximum.
  template <SpatialGate Kind>
  static void mix_gradients(const CbamShape& shape, const View& x, int64_t n, int64_t block, const Gates<A>& gates,
                            double* partial, A*) {
    const Span span = block_span(shape, block);
    for_channels(shape, [&](int64_t c, auto together) {
      constexpr int count = together();
      const T* from[count];
      for (int q = 0; q < count; ++q) from[q] = row(x, n, c + q) + span.first;
      add_runs<count>(span.count, partial + c, [&](int64_t i, V(&sum)[count]) {
        const int64_t p = span.first + i, left = span.count - i;
        const V of_sum = load_first(gates.dsum + p, left);
        V of_peak = {};
        IndexVec<A> place = {};
        if constexpr (Kind == SpatialGate::pooled) {
          of_peak = load_first(gates.dpeak + p, left);
          place = Indices<A>::load(gates.peak_channel + p, left);
        }
        for (int q = 0; q < count; ++q) {
          const V v = load_first(from[q] + i, left);
          if constexpr (Kind == SpatialGate::pooled)
            sum[q] += v * (of_sum + (place == (IndexVec<A>{} + bits_t<A>(c + q)) ? of_peak : V{}));
          else
            sum[q] += v * of_sum;
        }
      });
    });
  }

 private:
  // Sums over n pixels, `Count` of them, to which add(pixel, sums) adds one vector of pixels each time.
  template <int Count, class Add>
  static void add_runs(int64_t n, double* to, const Add& add) {
    WideSum<A> wide[Count];
    for (int64_t i = 0; i < n;) {
      V sum[Count] = {};
      for (const int64_t end = i + short_run < n ? i + short_run : n; i < end; i += L) add(i, sum);
      for (int q = 0; q < Count; ++q) wide[q].add(sum[q]);
    }
    for (int q = 0; q < Count; ++q) to[q] = wide[q].total();
  }

  // The first of n elements that is the maximum.
  static int64_t first_place(const T* x, int64_t n, A peak) {
    IndexVec<A> at = far_away<A>(), place = lane_numbers<A>();
    for (int64_t i = 0; i < n; i += L, place += bits_t<A>(L)) {
      const V v = only_first<A>(load_first(x + i, n - i), n - i);
      const IndexVec<A> candidate = is_peak(v, broadcast<V>(peak)) ? place : far_away<A>();
      at = candidate < at ? candidate : at;
    }
    return least_of_lanes<A>(at);
  }

  template <bool Peak>
  static V pool_run(const T* x, int64_t n, A& peak) {
    V sum[4] = {}, best[4];
    for (V& b : best) b = broadcast<V>(A(-__builtin_inf()));
    const auto take = [](V& b, V v) {
      if constexpr (Peak) b = (v > b) | (v != v) ? v : b;
    };
    int64_t i = 0;
    for (; i + 4 * L <= n; i += 4 * L)
      for (int q = 0; q < 4; ++q) {
        const V v = load(x + i + q * L);
        sum[q] += v;
        take(best[q], v);
      }
    for (; i < n; i += L) {
      const V v = load_first(x + i, n - i);
      sum[0] += v;
      take(best[0], only_first<A>(v, n - i));
    }
    for (int q = 1; q < 4; ++q) take(best[0], best[q]);
    if constexpr (Peak) peak = peak_of_lanes(best[0]);
    return (sum[0] + sum[1]) + (sum[2] + sum[3]);
  }

  // Four channels at a time, then one by one.
  template <class Body>
  static void for_channels(const CbamShape& shape, const Body& body) {
    int64_t c = 0;
    for (; c + 4 <= shape.channels; c += 4) body(c, std::integral_constant<int, 4>{});
    for (; c < shape.channels; ++c) body(c, std::integral_constant<int, 1>{});
  }

  static V added(const V (&v)[4]) { return (v[0] + v[1]) + (v[2] + v[3]); }
  static V added(const V (&v)[1]) { return v[0]; }

  // Vectors of a row that is written: past the caches from the first aligned one on.
  template <bool Stream, class Body>
  static void for_vectors(const T* to, int64_t n, const Body& body) {
    int64_t i = 0;
    if constexpr (Stream) {
      i = misaligned_elements(to, n);
      if (i > 0) body(int64_t(0), i, std::false_type{});
    }
    for (; i < n; i += L) body(i, n - i, std::bool_constant<Stream>{});
  }
};

}  // namespace fastseg::FASTSEG_ISA
