// Norm + activation over rows: each (batch, channel) is one run of `spatial` adjacent elements. A row, which has
// statistics of its own, is one such run, or for batch norm the runs of a channel in all samples.
//
// Floor, u = one pass over the tensor: forward 2u (read x, write y), backward 3u (read x and grad, write dx); about
// 10 operations an element, so memory decides. A row that does not fit in cache is read a second time; the second
// pass walks it backwards, so that what the first pass read last is still in cache.
//
// Statistics: blocks of 4096 elements, two passes over each while it lies in L1, merged in float64 in a fixed order.
// Blocks and chunks depend on the shape only, so the result does not depend on the number of threads.
#pragma once
#include "norm_math.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t row_block = 4096;
constexpr int64_t row_chunk = 16 * row_block;  // what one thread takes where threads share a row

inline int64_t chunks_of(int64_t spatial) { return (spatial + row_chunk - 1) / row_chunk; }

// How the elements lie in rows, and rows in chunks: chunk k of a row is in its run k / chunks_in_run.
struct Rows {
  int64_t channels, spatial;
  int64_t count, runs;  // rows, and runs in each
  int64_t chunks_in_run, chunks;

  template <class Args>
  explicit Rows(const Args& args)
      : channels(args.channels),
        spatial(args.spatial),
        count(args.over_batch ? channels : args.batch * channels),
        runs(args.over_batch ? args.batch : 1),
        chunks_in_run(chunks_of(spatial)),
        chunks(runs * chunks_in_run) {}

  int64_t elements() const { return runs * spatial; }
  // Rows that threads share, the last ones; the others are left to one thread each.
  int64_t shared(int threads) const { return chunks == 1 ? 0 : count % threads; }
  int64_t channel(int64_t row) const { return row % channels; }
  int64_t run_of(int64_t chunk) const { return chunk / chunks_in_run; }
  // Elements of a chunk, counted from the start of its run.
  int64_t begin_of(int64_t chunk) const { return chunk % chunks_in_run * row_chunk; }
  int64_t end_of(int64_t chunk) const {
    const int64_t end = begin_of(chunk) + row_chunk;
    return end < spatial ? end : spatial;
  }
  // Where a run begins.
  template <class T>
  T* at(const View& v, int64_t row, int64_t run) const {
    const int64_t sample = runs > 1 ? run : row / channels;
    return v ? static_cast<T*>(v.data) + sample * v.batch_stride + row % channels * v.channel_stride : nullptr;
  }
};

// Runs body on whole rows where every thread gets as many, and spreads the rows that are left over by chunks.
// whole(row) handles one row; first(row, chunk) and second(row, chunk) are the two halves of it.
template <class Whole, class First, class Second>
inline void for_rows(const Rows& rows, int threads, const Whole& whole, const First& first, const Second& second) {
  const int64_t chunks = rows.chunks, shared = rows.shared(threads), owned = rows.count - shared;
  parallel_spans(threads, owned, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) whole(row);
  });
  // Two loops rather than a barrier for each row: that collapses when another process takes a core.
  parallel_spans(threads, shared * chunks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) first(owned + i / chunks, i % chunks);
  });
  parallel_spans(threads, shared * chunks, [&](int64_t begin, int64_t end) {
    for (int64_t i = end; i-- > begin;) second(owned + i / chunks, i % chunks);
  });
}

// ---- forward

template <class T>
inline Moments block_moments(const T* x, int64_t n) {
  using A = compute_t<T>;
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  V sum[4] = {};
  A rest = 0;
  int64_t i = 0;
  for (; i + 4 * L <= n; i += 4 * L)
    for (int k = 0; k < 4; ++k) sum[k] += load(x + i + k * L);
  for (; i + L <= n; i += L) sum[0] += load(x + i);
  for (; i < n; ++i) rest += load_one(x + i);
  const A centre = (add_lanes((sum[0] + sum[1]) + (sum[2] + sum[3])) + rest) / A(n);

  const V centres = broadcast<V>(centre);
  V first[4] = {}, second[4] = {};
  A first_rest = 0, second_rest = 0;
  for (i = 0; i + 4 * L <= n; i += 4 * L)
    for (int k = 0; k < 4; ++k) {
      const V d = load(x + i + k * L) - centres;
      first[k] += d;
      second[k] += d * d;
    }
  for (; i + L <= n; i += L) {
    const V d = load(x + i) - centres;
    first[0] += d;
    second[0] += d * d;
  }
  for (; i < n; ++i) {
    const A d = load_one(x + i) - centre;
    first_rest += d;
    second_rest += d * d;
  }
  const double d1 = double(add_lanes((first[0] + first[1]) + (first[2] + first[3])) + first_rest);
  const double d2 = double(add_lanes((second[0] + second[1]) + (second[2] + second[3])) + second_rest);
  const double m2 = d2 - d1 * d1 / double(n);  // what rounding of the centre left
  return {double(n), double(centre) + d1 / double(n), m2 < 0 ? 0 : m2};
}

template <class T>
inline Moments chunk_moments(const T* x, int64_t n) {
  Moments all;
  for (int64_t i = 0; i < n; i += row_block) all.merge(block_moments(x + i, n - i < row_block ? n - i : row_block));
  return all;
}

// Those of a run, in the chunks that a row of one run is cut into.
template <class T>
inline Moments row_moments(const T* x, int64_t n) {
  Moments all;
  for (int64_t i = 0; i < n; i += row_chunk) all.merge(chunk_moments(x + i, n - i < row_chunk ? n - i : row_chunk));
  return all;
}

template <bool Residual, bool Stream, class T, class A>
inline void apply_block(const T* x, const T* residual, T* y, int64_t n, Affine<A> row, const Activate<A>& activate) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  const auto one = [&](int64_t i) {
    A z = (load_one(x + i) - row.centre) * row.scale + row.shift;
    if constexpr (Residual) z += load_one(residual + i);
    store_one(y + i, activate(z));
  };
  const V centre = broadcast<V>(row.centre), scale = broadcast<V>(row.scale), shift = broadcast<V>(row.shift);
  int64_t i = 0;
  if constexpr (Stream)
    for (const int64_t head = misaligned_elements(y, n); i < head; ++i) one(i);
  for (; i + L <= n; i += L) {
    V z = (load(x + i) - centre) * scale + shift;
    if constexpr (Residual) z += load(residual + i);
    store<Stream>(y + i, activate(z));
  }
  for (; i < n; ++i) one(i);
}

template <class T, bool Residual, bool Stream>
inline void forward_rows(const InstanceNormActForward& args, int threads) {
  using A = compute_t<T>;
  const Rows rows(args);
  const Activate<A> activate(args.activation, args.negative_slope);
  const auto affine = [&](int64_t row, double mean, double rstd) {
    const int64_t channel = rows.channel(row);
    return forward_affine<A>(mean, rstd, load_parameter(args.weight, channel, 1.0),
                             load_parameter(args.bias, channel, 0.0));
  };
  // Statistics of a row, written; what the row's elements are multiplied with, returned.
  const auto finish = [&](int64_t row, const Moments& moments, bool write = true) {
    const double rstd = reciprocal_deviation(moments.m2, moments.count, args.eps);
    if (write) write_statistics<A>(args, row, moments, rstd);
    return affine(row, moments.mean, rstd);
  };
  const auto given = [&](int64_t row) {
    return affine(row, double(static_cast<const A*>(args.mean)[row]), double(static_cast<const A*>(args.rstd)[row]));
  };
  const auto moments_of = [&](int64_t row, int64_t chunk) {
    const int64_t begin = rows.begin_of(chunk);
    return chunk_moments(rows.at<T>(args.x, row, rows.run_of(chunk)) + begin, rows.end_of(chunk) - begin);
  };
  const auto apply_backwards = [&](int64_t row, int64_t chunk, Affine<A> by) {
    const int64_t run = rows.run_of(chunk), begin = rows.begin_of(chunk);
    const T* x = rows.at<T>(args.x, row, run);
    const T* residual = rows.at<T>(args.residual, row, run);
    T* y = rows.at<T>(args.y, row, run);
    for (int64_t last = rows.end_of(chunk); last > begin;) {
      const int64_t first = (last - 1) / row_block * row_block;
      apply_block<Residual, Stream>(x + first, Residual ? residual + first : nullptr, y + first, last - first, by,
                                    activate);
      last = first;
    }
    if constexpr (Stream) stream_fence();
  };

  const int64_t chunks = rows.chunks, shared = rows.shared(threads), owned = rows.count - shared;
  Scratch<Moments> partial(chunks * shared);
  for_rows(
      rows, threads,
      [&](int64_t row) {
        Affine<A> by;
        if (args.statistics_given) {
          by = given(row);
        } else {
          Moments all;
          for (int64_t k = 0; k < chunks; ++k) all.merge(moments_of(row, k));
          by = finish(row, all);
        }
        for (int64_t k = chunks; k-- > 0;) apply_backwards(row, k, by);
      },
      [&](int64_t row, int64_t chunk) {
        if (!args.statistics_given) partial[(row - owned) * chunks + chunk] = moments_of(row, chunk);
      },
      [&](int64_t row, int64_t chunk) {
        if (args.statistics_given) return apply_backwards(row, chunk, given(row));
        Moments all;  // every chunk of a row merges the row's partials again: cheaper than a third loop
        for (int64_t k = 0; k < chunks; ++k) all.merge(partial[(row - owned) * chunks + k]);
        apply_backwards(row, chunk, finish(row, all, chunk == 0));
      });
}

// ---- backward

struct GradSums {
  double g = 0, g_xhat = 0;
  void add(const GradSums& other) {
    g += other.g;
    g_xhat += other.g_xhat;
  }
};

// What the backward pass knows of one run of a row.
template <class T>
struct BackwardRow {
  using A = compute_t<T>;
  const T *grad, *x, *y;
  T *dx, *dresidual;
  Centre<A> mean;
  double rstd;
  A scale, bias;  // of z = (x - centre) * scale + bias, which decides the activation's branch
  Activate<A> activate;

  // g', the gradient through the activation, at element i; V is a vector or a single number.
  template <bool FromY, class V>
  inline V through_activation(V g, V xc, V y_here) const {
    if constexpr (FromY) return activate.backward(g, y_here);
    return activate.backward(g, V(xc * (V{} + scale) + (V{} + bias)));
  }
};

template <bool FromY, class T>
inline GradSums block_sums(const BackwardRow<T>& row, int64_t begin, int64_t end) {
  using A = compute_t<T>;
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  const V centre = broadcast<V>(row.mean.centre);
  WideSum<A> wide_g, wide_gx;
  const auto vector_at = [&](int64_t i, V& xc) {
    xc = load(row.x + i) - centre;
    V y{};
    if constexpr (FromY) y = load(row.y + i);
    return row.template through_activation<FromY>(load(row.grad + i), xc, y);
  };
  constexpr int R = vectors_in_run<T>;
  int64_t i = begin;
  for (; i + R * L <= end; i += R * L) {
    V xc;
    V g = vector_at(i, xc), gx = g * xc;
#pragma GCC unroll 4
    for (int r = 1; r < R; ++r) {
      const V g_here = vector_at(i + r * L, xc);
      g += g_here;
      gx += g_here * xc;
    }
    wide_g.add(g);
    wide_gx.add(gx);
  }
  double sum_g = wide_g.total(), sum_gx = wide_gx.total();
  for (; i < end; ++i) {
    const A xc = load_one(row.x + i) - row.mean.centre;
    A y{};
    if constexpr (FromY) y = load_one(row.y + i);
    const A g = row.template through_activation<FromY>(A(load_one(row.grad + i)), xc, y);
    sum_g += double(g);
    sum_gx += double(g) * double(xc);
  }
  return {sum_g, (sum_gx - row.mean.rest * sum_g) * row.rstd};
}

template <bool FromY, class T>
inline GradSums span_sums(const BackwardRow<T>& row, int64_t begin, int64_t end) {
  GradSums all;
  for (int64_t i = begin; i < end; i += row_block)
    all.add(block_sums<FromY>(row, i, i + row_block < end ? i + row_block : end));
  return all;
}

template <bool FromY, bool Stream, class T, class A>
inline void apply_backward_block(const BackwardRow<T>& row, int64_t begin, int64_t end, BackwardAffine<A> affine) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  const auto one = [&](int64_t i) {
    const A xc = load_one(row.x + i) - row.mean.centre;
    A y{};
    if constexpr (FromY) y = load_one(row.y + i);
    const A g = row.template through_activation<FromY>(A(load_one(row.grad + i)), xc, y);
    if (row.dresidual) store_one(row.dresidual + i, g);
    store_one(row.dx + i, g * affine.slope_g - (xc * affine.slope_x + affine.offset));
  };
  const V centre = broadcast<V>(row.mean.centre);
  const V slope_g = broadcast<V>(affine.slope_g), slope_x = broadcast<V>(affine.slope_x);
  const V offset = broadcast<V>(affine.offset);
  int64_t i = begin;
  if constexpr (Stream)
    for (const int64_t head = begin + misaligned_elements(row.dx + begin, end - begin); i < head; ++i) one(i);
  for (; i + L <= end; i += L) {
    const V xc = load(row.x + i) - centre;
    V y{};
    if constexpr (FromY) y = load(row.y + i);
    const V g = row.template through_activation<FromY>(load(row.grad + i), xc, y);
    if (row.dresidual) store(row.dresidual + i, g);
    store<Stream>(row.dx + i, g * slope_g - (xc * slope_x + offset));
  }
  for (; i < end; ++i) one(i);
}

template <class T, bool FromY, bool Stream>
inline void backward_rows(const InstanceNormActBackward& args, int threads) {
  using A = compute_t<T>;
  const Rows rows(args);
  const auto run_of = [&](int64_t row, int64_t chunk) {
    const int64_t c = rows.channel(row), run = rows.run_of(chunk);
    const A rstd = static_cast<const A*>(args.rstd)[row];
    const Centre<A> mean = backward_centre(static_cast<const A*>(args.mean)[row], rstd);
    const double scale = double(rstd) * load_parameter(args.weight, c, 1.0);
    return BackwardRow<T>{rows.at<T>(args.grad, row, run),
                          rows.at<T>(args.x, row, run),
                          rows.at<T>(args.y, row, run),
                          rows.at<T>(args.dx, row, run),
                          rows.at<T>(args.dresidual, row, run),
                          mean,
                          double(rstd),
                          A(scale),
                          backward_bias(load_parameter(args.bias, c, 0.0), mean.rest, A(scale)),
                          Activate<A>(args.activation, args.negative_slope)};
  };
  const auto sums_of = [&](int64_t row, int64_t chunk) {
    return span_sums<FromY>(run_of(row, chunk), rows.begin_of(chunk), rows.end_of(chunk));
  };
  const auto finish = [&](int64_t row, const GradSums& sums, bool write = true) {
    if (write) {
      static_cast<A*>(args.dweight)[row] = A(sums.g_xhat);
      static_cast<A*>(args.dbias)[row] = A(sums.g);
    }
    const A rstd = static_cast<const A*>(args.rstd)[row];
    return backward_affine<A>(double(rstd), load_parameter(args.weight, rows.channel(row), 1.0), sums.g, sums.g_xhat,
                              rows.elements(), args.statistics_fixed,
                              backward_centre(static_cast<const A*>(args.mean)[row], rstd).rest);
  };
  const auto apply_backwards = [&](int64_t row, int64_t chunk, BackwardAffine<A> affine) {
    const BackwardRow<T> run = run_of(row, chunk);
    const int64_t begin = rows.begin_of(chunk);
    for (int64_t last = rows.end_of(chunk); last > begin;) {
      const int64_t first = (last - 1) / row_block * row_block;
      apply_backward_block<FromY, Stream>(run, first, last, affine);
      last = first;
    }
    if constexpr (Stream) stream_fence();
  };

  const int64_t chunks = rows.chunks, shared = rows.shared(threads), owned = rows.count - shared;
  Scratch<GradSums> partial(chunks * shared);
  for_rows(
      rows, threads,
      [&](int64_t row) {
        GradSums all;
        for (int64_t k = 0; k < chunks; ++k) all.add(sums_of(row, k));
        const BackwardAffine<A> affine = finish(row, all);
        for (int64_t k = chunks; k-- > 0;) apply_backwards(row, k, affine);
      },
      [&](int64_t row, int64_t chunk) { partial[(row - owned) * chunks + chunk] = sums_of(row, chunk); },
      [&](int64_t row, int64_t chunk) {
        GradSums all;
        for (int64_t k = 0; k < chunks; ++k) all.add(partial[(row - owned) * chunks + k]);
        apply_backwards(row, chunk, finish(row, all, chunk == 0));
      });
}

}  // namespace fastseg::FASTSEG_ISA
