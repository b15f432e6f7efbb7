// Instance norm + activation, channels-last: each sample is a matrix of `spatial` pixels by `channels` columns.
//
// Floor as in norm_rows.h: forward 2u, backward 3u. A column's sum needs the whole sample, so a tensor larger than
// the cache costs one more read; two parallel loops (sums, then apply in reverse order) over chunks of pixels.
//
// Few channels would leave vectors half empty, so k adjacent pixels are folded into one line of k * channels columns
// ("width") where the tensor is dense; column j of a line is then channel j % channels. The pixels that do not fill a
// line (spatial % k) form one shorter line at the end.
#pragma once
#include "norm_math.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t line_block_elements = 8192;              // lies in L1 or L2 between its two passes
constexpr int64_t most_lines_in_block = 32;                // added up in float32 before float64 takes over
constexpr int64_t line_chunk_elements = int64_t(1) << 17;  // what one thread takes
constexpr int64_t group_bytes = int64_t(16) << 20;         // samples summed and applied together: they stay in cache

// How a sample is cut: depends on the shape only, so the result does not depend on the number of threads.
struct Lines {
  int64_t width;      // columns of a full line
  int64_t count;      // full lines
  int64_t rest;       // columns of the shorter last line, 0 if none
  int64_t fold;       // pixels in a line
  int64_t per_block;  // lines
  int64_t per_chunk;  // lines, a multiple of per_block
  int64_t chunks;     // of the full lines; the shorter line is one chunk more

  Lines(int64_t channels, int64_t spatial, bool dense, int vector_lanes) {
    fold = 1;
    if (dense) {
      while (fold * channels % vector_lanes != 0) fold *= 2;  // lanes are a power of two: ends at `lanes` at the latest
      while (fold * channels < 4 * vector_lanes) fold *= 2;
    }
    width = fold * channels;
    count = spatial / fold;
    rest = spatial % fold * channels;
    per_block = line_block_elements / width;
    if (per_block > most_lines_in_block) per_block = most_lines_in_block;
    if (per_block < 1) per_block = 1;
    const int64_t blocks = line_chunk_elements / (per_block * width);
    per_chunk = per_block * (blocks > 0 ? blocks : 1);
    chunks = (count + per_chunk - 1) / per_chunk;
  }

  int64_t slots() const { return chunks + (rest > 0); }
  bool is_rest(int64_t slot) const { return slot == chunks; }
  int64_t first_line(int64_t slot) const { return is_rest(slot) ? count : slot * per_chunk; }
  int64_t lines_in(int64_t slot) const {
    if (is_rest(slot)) return 1;
    const int64_t left = count - slot * per_chunk;
    return left < per_chunk ? left : per_chunk;
  }
  int64_t columns_in(int64_t slot) const { return is_rest(slot) ? rest : width; }
};

inline View from_sample(View v, int64_t n) {
  if (v) v.data = static_cast<char*>(v.data) + n * v.batch_stride * element_size(v.type);
  return v;
}

// The same call for `count` samples from `n` on. Statistics have x's compute type.
template <class A>
inline InstanceNormActForward samples(InstanceNormActForward args, int64_t n, int64_t count) {
  args.batch = count;
  args.x = from_sample(args.x, n);
  args.residual = from_sample(args.residual, n);
  args.y = from_sample(args.y, n);
  args.mean = static_cast<A*>(args.mean) + n * args.channels;
  args.rstd = static_cast<A*>(args.rstd) + n * args.channels;
  return args;
}

template <class A>
inline InstanceNormActBackward samples(InstanceNormActBackward args, int64_t n, int64_t count) {
  args.batch = count;
  args.grad = from_sample(args.grad, n);
  args.x = from_sample(args.x, n);
  args.y = from_sample(args.y, n);
  args.dx = from_sample(args.dx, n);
  args.dresidual = from_sample(args.dresidual, n);
  args.mean = static_cast<const A*>(args.mean) + n * args.channels;
  args.rstd = static_cast<const A*>(args.rstd) + n * args.channels;
  args.dweight = static_cast<A*>(args.dweight) + n * args.channels;
  args.dbias = static_cast<A*>(args.dbias) + n * args.channels;
  return args;
}

// Calls run(args, threads) for groups of samples, small enough that its last loop finds in cache what its first read.
template <class A, class Args>
inline void for_sample_groups(const Args& args, int threads, void (*run)(const Args&, int)) {
  const int64_t sample_bytes = args.channels * args.spatial * element_size(args.x.type);
  const int64_t together = sample_bytes < group_bytes ? group_bytes / sample_bytes : 1;
  for (int64_t n = 0; n < args.batch; n += together)
    run(samples<A>(args, n, args.batch - n < together ? args.batch - n : together), threads);
}

// Calls tile(first_column, number of vectors as a constant) over the full vectors, then one(column) over the others.
template <int L, class Tile, class One>
inline void for_columns(int64_t columns, const Tile& tile, const One& one) {
  int64_t j = 0;
  for (; j + 4 * L <= columns; j += 4 * L) tile(j, std::integral_constant<int, 4>{});
  for (; j + L <= columns; j += L) tile(j, std::integral_constant<int, 1>{});
  for (; j < columns; ++j) one(j);
}

// ---- forward

// Adds the moments of `lines` lines to mean and m2 (one number a column), of which `before` lines are in already.
template <class T>
inline void add_block_moments(const T* x, int64_t pitch, int64_t lines, int64_t columns, int64_t before, double* mean,
                              double* m2) {
  using A = compute_t<T>;
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  const double total = double(before + lines), share = double(lines) / total, cross = double(before) * share;
  const A inverse = A(1) / A(lines);
  const double inverse_lines = 1 / double(lines);
  const auto merge = [&](int64_t j, int count, const auto* centre, const auto* d1, const auto* d2) {
    double* __restrict to_mean = mean + j;
    double* __restrict to_m2 = m2 + j;
    for (int k = 0; k < count; ++k) {
      const double shift = double(d1[k]) * inverse_lines;  // what rounding of the centre left
      const double block_m2 = double(d2[k]) - double(d1[k]) * shift;
      const double delta = double(centre[k]) + shift - to_mean[k];
      to_mean[k] += delta * share;
      to_m2[k] += (block_m2 < 0 ? 0 : block_m2) + delta * delta * cross;
    }
  };
  for_columns<L>(
      columns,
      [&](int64_t j, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        V sum[N] = {}, first[N] = {}, second[N] = {};
        for (int64_t i = 0; i < lines; ++i)
          for (int k = 0; k < N; ++k) sum[k] += load(x + i * pitch + j + k * L);
        for (int k = 0; k < N; ++k) sum[k] *= V{} + inverse;
        for (int64_t i = 0; i < lines; ++i)
          for (int k = 0; k < N; ++k) {
            const V d = load(x + i * pitch + j + k * L) - sum[k];
            first[k] += d;
            second[k] += d * d;
          }
        A centre[N * L], d1[N * L], d2[N * L];
        std::memcpy(centre, sum, sizeof centre);
        std::memcpy(d1, first, sizeof d1);
        std::memcpy(d2, second, sizeof d2);
        merge(j, N * L, centre, d1, d2);
      },
      [&](int64_t j) {
        double sum = 0, first = 0, second = 0;
        for (int64_t i = 0; i < lines; ++i) sum += double(load_one(x + i * pitch + j));
        sum *= inverse_lines;
        for (int64_t i = 0; i < lines; ++i) {
          const double d = double(load_one(x + i * pitch + j)) - sum;
          first += d;
          second += d * d;
        }
        merge(j, 1, &sum, &first, &second);
      });
}

// One line of y. centre, scale and shift hold one number a column.
template <bool Residual, bool Stream, class T, class A>
inline void apply_line(const T* x, const T* residual, T* y, int64_t columns, const A* centre, const A* scale,
                       const A* shift, const Activate<A>& activate) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  int64_t j = 0;
  for (; j + L <= columns; j += L) {
    V z = (load(x + j) - load(centre + j)) * load(scale + j) + load(shift + j);
    if constexpr (Residual) z += load(residual + j);
    store<Stream>(y + j, activate(z));
  }
  for (; j < columns; ++j) {
    A z = (load_one(x + j) - centre[j]) * scale[j] + shift[j];
    if constexpr (Residual) z += load_one(residual + j);
    store_one(y + j, activate(z));
  }
}

// Streaming stores need every line's vectors aligned.
template <class T>
inline bool lines_aligned(const View& v, int64_t pitch) {
  const int64_t bytes = int64_t(sizeof(T)) * lanes<compute_t<T>>;
  const int64_t size = int64_t(sizeof(T));
  return reinterpret_cast<uintptr_t>(v.data) % uintptr_t(bytes) == 0 && pitch * size % bytes == 0 &&
         v.batch_stride * size % bytes == 0;
}

template <class T, bool Residual, bool Stream>
inline void forward_samples(const InstanceNormActForward& args, int threads) {
  using A = compute_t<T>;
  const int64_t channels = args.channels, spatial = args.spatial;
  const bool dense = args.x.spatial_stride == channels && args.y.spatial_stride == channels &&
                     (!Residual || args.residual.spatial_stride == channels);
  const Lines lines(channels, spatial, dense, lanes<A>);
  const int64_t width = lines.width, slots = lines.slots();
  const auto line_at = [&](const View& v, int64_t n, int64_t line) {
    return static_cast<T*>(v.data) + n * v.batch_stride + line * lines.fold * v.spatial_stride;
  };
  const auto pitch = [&](const View& v) { return lines.fold * v.spatial_stride; };

  Scratch<double> partial(args.batch * slots * 2 * width);
  parallel_spans(threads, args.batch * slots, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / slots, slot = i % slots, count = lines.lines_in(slot);
      double* mean = partial.get() + i * 2 * width;
      double* m2 = mean + width;
      for (int64_t j = 0; j < 2 * width; ++j) mean[j] = 0;
      for (int64_t line = 0; line < count; line += lines.per_block)
        add_block_moments(line_at(args.x, n, lines.first_line(slot) + line), pitch(args.x),
                          count - line < lines.per_block ? count - line : lines.per_block, lines.columns_in(slot), line,
                          mean, m2);
    }
  });

  Scratch<A> affine(args.batch * 3 * width);  // centre, scale and shift of every column, for each sample
  parallel_spans(slots * width > 4096 ? threads : 1, args.batch * channels, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / channels, channel = row % channels;
      Moments all;
      for (int64_t slot = 0; slot < slots; ++slot) {
        const double* mean = partial.get() + (n * slots + slot) * 2 * width;
        for (int64_t j = channel; j < lines.columns_in(slot); j += channels)
          all.merge(double(lines.lines_in(slot)), mean[j], mean[width + j]);
      }
      const double rstd = reciprocal_deviation(all.m2, all.count, args.eps);
      static_cast<A*>(args.mean)[row] = A(all.mean);
      static_cast<A*>(args.rstd)[row] = A(rstd);
      const Affine<A> column = forward_affine<A>(all.mean, rstd, load_parameter(args.weight, channel, 1.0),
                                                 load_parameter(args.bias, channel, 0.0));
      A* to = affine.get() + n * 3 * width;
      for (int64_t j = channel; j < width; j += channels) {
        to[j] = column.centre;
        to[width + j] = column.scale;
        to[2 * width + j] = column.shift;
      }
    }
  });

  const Activate<A> activate(args.activation, args.negative_slope);
  parallel_spans(threads, args.batch * slots, [&](int64_t begin, int64_t end) {
    for (int64_t i = end; i-- > begin;) {
      const int64_t n = i / slots, slot = i % slots, first = lines.first_line(slot);
      const A* centre = affine.get() + n * 3 * width;
      for (int64_t line = first + lines.lines_in(slot); line-- > first;)
        apply_line<Residual, Stream>(line_at(args.x, n, line), Residual ? line_at(args.residual, n, line) : nullptr,
                                     line_at(args.y, n, line), lines.columns_in(slot), centre, centre + width,
                                     centre + 2 * width, activate);
    }
    if constexpr (Stream) stream_fence();
  });
}

template <class T, bool Residual, bool Stream>
inline void forward_channels_last(const InstanceNormActForward& args, int threads) {
  for_sample_groups<compute_t<T>>(args, threads, forward_samples<T, Residual, Stream>);
}

// ---- backward

// One number a column: what backward needs to know of a channel.
template <class A>
struct BackwardColumns {
  const A *mean, *scale, *bias;         // of z, which decides the activation's branch
  const A *slope_g, *slope_x, *offset;  // of dx
};

// g' at column j of a line, for a vector or (load_one) a single number.
template <bool FromY, class V, class A, class Load, class LoadColumn>
inline V column_gradient(V g, V xc, const BackwardColumns<A>& columns, int64_t j, const Activate<A>& activate,
                         const Load& load_y, const LoadColumn& load_column) {
  if constexpr (FromY) return activate.backward(g, V(load_y()));
  return activate.backward(g, V(xc * load_column(columns.scale + j) + load_column(columns.bias + j)));
}

constexpr auto vector_of = [](const auto* p) { return load(p); };
constexpr auto number_of = [](const auto* p) { return load_one(p); };

// Adds the sums of g' and of g' * (x - mean) over a block of lines to two numbers a column.
template <bool FromY, class T, class A>
inline void add_block_sums(const T* grad, int64_t grad_pitch, const T* x, int64_t x_pitch, const T* y, int64_t y_pitch,
                           int64_t lines, int64_t width, const BackwardColumns<A>& columns, const Activate<A>& activate,
                           double* sum_g, double* sum_gx) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  for_columns<L>(
      width,
      [&](int64_t j, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        V sg[N] = {}, sgx[N] = {};
        for (int64_t i = 0; i < lines; ++i)
          for (int k = 0; k < N; ++k) {
            const int64_t at = j + k * L;
            const V xc = load(x + i * x_pitch + at) - load(columns.mean + at);
            const V g = column_gradient<FromY>(
                load(grad + i * grad_pitch + at), xc, columns, at, activate, [&] { return load(y + i * y_pitch + at); },
                vector_of);
            sg[k] += g;
            sgx[k] += g * xc;
          }
        for (int k = 0; k < N; ++k)
          for (int lane = 0; lane < L; ++lane) {
            sum_g[j + k * L + lane] += double(sg[k][lane]);
            sum_gx[j + k * L + lane] += double(sgx[k][lane]);
          }
      },
      [&](int64_t j) {
        double sg = 0, sgx = 0;
        for (int64_t i = 0; i < lines; ++i) {
          const A xc = load_one(x + i * x_pitch + j) - columns.mean[j];
          const A g = column_gradient<FromY>(
              A(load_one(grad + i * grad_pitch + j)), xc, columns, j, activate,
              [&] { return A(load_one(y + i * y_pitch + j)); }, number_of);
          sg += double(g);
          sgx += double(g) * double(xc);
        }
        sum_g[j] += sg;
        sum_gx[j] += sgx;
      });
}

template <bool FromY, bool Stream, class T, class A>
inline void apply_backward_line(const T* grad, const T* x, const T* y, T* dx, T* dresidual, int64_t width,
                                const BackwardColumns<A>& columns, const Activate<A>& activate) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  int64_t j = 0;
  for (; j + L <= width; j += L) {
    const V xc = load(x + j) - load(columns.mean + j);
    const V g =
        column_gradient<FromY>(load(grad + j), xc, columns, j, activate, [&] { return load(y + j); }, vector_of);
    if (dresidual) store(dresidual + j, g);
    store<Stream>(dx + j, g * load(columns.slope_g + j) - xc * load(columns.slope_x + j) - load(columns.offset + j));
  }
  for (; j < width; ++j) {
    const A xc = load_one(x + j) - columns.mean[j];
    const A g = column_gradient<FromY>(
        A(load_one(grad + j)), xc, columns, j, activate, [&] { return A(load_one(y + j)); }, number_of);
    if (dresidual) store_one(dresidual + j, g);
    store_one(dx + j, g * columns.slope_g[j] - xc * columns.slope_x[j] - columns.offset[j]);
  }
}

template <class T, bool FromY, bool Stream>
inline void backward_samples(const InstanceNormActBackward& args, int threads) {
  using A = compute_t<T>;
  const int64_t channels = args.channels;
  const auto is_dense = [&](const View& v) { return !v || v.spatial_stride == channels; };
  const Lines lines(
      channels, args.spatial,
      is_dense(args.grad) && is_dense(args.x) && is_dense(args.y) && is_dense(args.dx) && is_dense(args.dresidual),
      lanes<A>);
  const int64_t width = lines.width, slots = lines.slots();
  const auto line_at = [&](const View& v, int64_t n, int64_t line) {
    return v ? static_cast<T*>(v.data) + n * v.batch_stride + line * lines.fold * v.spatial_stride : nullptr;
  };
  const auto pitch = [&](const View& v) { return lines.fold * v.spatial_stride; };
  const Activate<A> activate(args.activation, args.negative_slope);

  Scratch<A> numbers(args.batch * 6 * width);
  const auto columns_of = [&](int64_t n) {
    const A* from = numbers.get() + n * 6 * width;
    return BackwardColumns<A>{
        from, from + width, from + 2 * width, from + 3 * width, from + 4 * width, from + 5 * width};
  };
  for (int64_t row = 0; row < args.batch * channels; ++row) {
    const int64_t n = row / channels, channel = row % channels;
    const A mean = static_cast<const A*>(args.mean)[row];
    const double rstd = double(static_cast<const A*>(args.rstd)[row]);
    const A scale = A(rstd * load_parameter(args.weight, channel, 1.0));
    const A bias = load_parameter(args.bias, channel, A(0));
    A* to = numbers.get() + n * 6 * width;
    for (int64_t j = channel; j < width; j += channels) {
      to[j] = mean;
      to[width + j] = scale;
      to[2 * width + j] = bias;
    }
  }

  Scratch<double> partial(args.batch * slots * 2 * width);
  parallel_spans(threads, args.batch * slots, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / slots, slot = i % slots, count = lines.lines_in(slot);
      double* sum_g = partial.get() + i * 2 * width;
      for (int64_t j = 0; j < 2 * width; ++j) sum_g[j] = 0;
      for (int64_t done = 0; done < count; done += lines.per_block) {
        const int64_t line = lines.first_line(slot) + done;
        add_block_sums<FromY>(line_at(args.grad, n, line), pitch(args.grad), line_at(args.x, n, line), pitch(args.x),
                              line_at(args.y, n, line), pitch(args.y),
                              count - done < lines.per_block ? count - done : lines.per_block, lines.columns_in(slot),
                              columns_of(n), activate, sum_g, sum_g + width);
      }
    }
  });

  parallel_spans(slots * width > 4096 ? threads : 1, args.batch * channels, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t n = row / channels, channel = row % channels;
      double sum_g = 0, sum_gx = 0;
      for (int64_t slot = 0; slot < slots; ++slot) {
        const double* from = partial.get() + (n * slots + slot) * 2 * width;
        for (int64_t j = channel; j < lines.columns_in(slot); j += channels) {
          sum_g += from[j];
          sum_gx += from[width + j];
        }
      }
      const double rstd = double(static_cast<const A*>(args.rstd)[row]);
      static_cast<A*>(args.dweight)[row] = A(sum_gx * rstd);
      static_cast<A*>(args.dbias)[row] = A(sum_g);
      const BackwardAffine<A> column =
          backward_affine<A>(rstd, load_parameter(args.weight, channel, 1.0), sum_g, sum_gx * rstd, args.spatial);
      A* to = numbers.get() + n * 6 * width;
      for (int64_t j = channel; j < width; j += channels) {
        to[3 * width + j] = column.slope_g;
        to[4 * width + j] = column.slope_x;
        to[5 * width + j] = column.offset;
      }
    }
  });

  parallel_spans(threads, args.batch * slots, [&](int64_t begin, int64_t end) {
    for (int64_t i = end; i-- > begin;) {
      const int64_t n = i / slots, slot = i % slots, first = lines.first_line(slot);
      for (int64_t line = first + lines.lines_in(slot); line-- > first;)
        apply_backward_line<FromY, Stream>(
            line_at(args.grad, n, line), line_at(args.x, n, line), line_at(args.y, n, line), line_at(args.dx, n, line),
            line_at(args.dresidual, n, line), lines.columns_in(slot), columns_of(n), activate);
    }
    if constexpr (Stream) stream_fence();
  });
}

template <class T, bool FromY, bool Stream>
inline void backward_channels_last(const InstanceNormActBackward& args, int threads) {
  for_sample_groups<compute_t<T>>(args, threads, backward_samples<T, FromY, Stream>);
}

}  // namespace fastseg::FASTSEG_ISA
