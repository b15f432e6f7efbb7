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
constexpr int64_t most_lines_in_block = 128;               // whose centre is added up in float32
constexpr int64_t most_lines_in_run = 16;                  // whose squares are (of 16-bit elements, gradients too)
constexpr int64_t line_chunk_elements = int64_t(1) << 17;  // what one thread takes at most
constexpr int64_t least_chunks = 16;                       // that a sample is cut into, unless a chunk were no block
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
    const int64_t share = channels * spatial / least_chunks;
    const int64_t blocks = (share < line_chunk_elements ? share : line_chunk_elements) / (per_block * width);
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

// Calls tile(first_column, number of vectors as a constant) over the full vectors, `Most` at a time where there are as
// many, then one(column) over the other columns.
template <int L, int Most, class Tile, class One>
inline void for_columns(int64_t columns, const Tile& tile, const One& one) {
  int64_t j = 0;
  for (; j + Most * L <= columns; j += Most * L) tile(j, std::integral_constant<int, Most>{});
  for (; j + L <= columns; j += L) tile(j, std::integral_constant<int, 1>{});
  for (; j < columns; ++j) one(j);
}

// Calls body(first line, number of lines) over blocks of a slot's lines, the last block first: what the loop before has
// read last is still in cache.
template <class Body>
inline void for_blocks_backwards(const Lines& lines, int64_t slot, const Body& body) {
  const int64_t first = lines.first_line(slot);
  for (int64_t end = lines.lines_in(slot); end > 0;) {
    const int64_t begin = (end - 1) / lines.per_block * lines.per_block;
    body(first + begin, end - begin);
    end = begin;
  }
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
  const auto merge = [&](int64_t j, int count, const auto* centre, const double* d1, const double* d2) {
    double* __restrict to_mean = mean + j;
    double* __restrict to_m2 = m2 + j;
    for (int k = 0; k < count; ++k) {
      const double shift = d1[k] * inverse_lines;  // what rounding of the centre left
      const double block_m2 = d2[k] - d1[k] * shift;
      const double delta = double(centre[k]) + shift - to_mean[k];
      to_mean[k] += delta * share;
      to_m2[k] += (block_m2 < 0 ? 0 : block_m2) + delta * delta * cross;
    }
  };
  for_columns<L, 4>(
      columns,
      [&](int64_t j, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        V sum[N] = {};
        for (int64_t i = 0; i < lines; ++i)
          for (int k = 0; k < N; ++k) sum[k] += load(x + i * pitch + j + k * L);
        for (int k = 0; k < N; ++k) sum[k] *= V{} + inverse;
        A centre[N * L];
        std::memcpy(centre, sum, sizeof centre);
        double d1[N * L] = {}, d2[N * L] = {};
        for (int64_t begin = 0; begin < lines; begin += most_lines_in_run) {
          const int64_t end = lines - begin < most_lines_in_run ? lines : begin + most_lines_in_run;
          V first[N] = {}, second[N] = {};
          for (int64_t i = begin; i < end; ++i)
            for (int k = 0; k < N; ++k) {
              const V d = load(x + i * pitch + j + k * L) - sum[k];
              first[k] += d;
              second[k] += d * d;
            }
          for (int k = 0; k < N; ++k) {
            add_to_sums<A>(first[k], d1 + k * L);
            add_to_sums<A>(second[k], d2 + k * L);
          }
        }
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

// A block of lines of y. centre, scale and shift hold one number a column; they stay in registers over the lines.
template <bool Residual, bool Stream, class T, class A>
inline void apply_lines(const T* x, int64_t x_pitch, const T* residual, int64_t residual_pitch, T* y, int64_t y_pitch,
                        int64_t lines, int64_t columns, const A* centre, const A* scale, const A* shift,
                        const Activate<A>& activate) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  for_columns<L, 4>(
      columns,
      [&](int64_t j, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        V centres[N], scales[N], shifts[N];
        for (int k = 0; k < N; ++k) {
          centres[k] = load(centre + j + k * L);
          scales[k] = load(scale + j + k * L);
          shifts[k] = load(shift + j + k * L);
        }
        for (int64_t i = 0; i < lines; ++i)
          for (int k = 0; k < N; ++k) {
            V z = (load(x + i * x_pitch + j + k * L) - centres[k]) * scales[k] + shifts[k];
            if constexpr (Residual) z += load(residual + i * residual_pitch + j + k * L);
            store<Stream>(y + i * y_pitch + j + k * L, activate(z));
          }
      },
      [&](int64_t j) {
        for (int64_t i = 0; i < lines; ++i) {
          A z = (load_one(x + i * x_pitch + j) - centre[j]) * scale[j] + shift[j];
          if constexpr (Residual) z += load_one(residual + i * residual_pitch + j);
          store_one(y + i * y_pitch + j, activate(z));
        }
      });
}

// The moments of one channel of a sample, from those of its columns in every slot.
inline Moments column_moments(const double* partial, const Lines& lines, int64_t channel, int64_t channels) {
  Moments all;
  for (int64_t slot = 0; slot < lines.slots(); ++slot, partial += 2 * lines.width)
    for (int64_t j = channel; j < lines.columns_in(slot); j += channels)
      all.merge(double(lines.lines_in(slot)), partial[j], partial[lines.width + j]);
  return all;
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
  parallel_spans(threads, args.statistics_given ? 0 : args.batch * slots, [&](int64_t begin, int64_t end) {
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
      double mean, rstd;
      if (args.statistics_given) {
        mean = double(static_cast<const A*>(args.mean)[row]);
        rstd = double(static_cast<const A*>(args.rstd)[row]);
      } else {
        const Moments all = column_moments(partial.get() + n * slots * 2 * width, lines, channel, channels);
        mean = all.mean;
        rstd = reciprocal_deviation(all.m2, all.count, args.eps);
        write_statistics<A>(args, row, all, rstd);
      }
      const Affine<A> column = forward_affine<A>(mean, rstd, load_parameter(args.weight, channel, 1.0),
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
      const int64_t n = i / slots, slot = i % slots;
      const A* centre = affine.get() + n * 3 * width;
      for_blocks_backwards(lines, slot, [&](int64_t line, int64_t count) {
        apply_lines<Residual, Stream>(line_at(args.x, n, line), pitch(args.x),
                                      Residual ? line_at(args.residual, n, line) : nullptr, pitch(args.residual),
                                      line_at(args.y, n, line), pitch(args.y), count, lines.columns_in(slot), centre,
                                      centre + width, centre + 2 * width, activate);
      });
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
  const A *centre, *scale, *bias;       // of z = (x - centre) * scale + bias, which decides the activation's branch
  const A *slope_g, *slope_x, *offset;  // of dx
};

// A block of lines of the tensors that backward reads and writes; y and dresidual may be absent.
template <class T>
struct BackwardLines {
  const T *grad, *x, *y;
  int64_t grad_pitch, x_pitch, y_pitch;
  T *dx, *dresidual;
  int64_t dx_pitch, dresidual_pitch;
};

// Adds the sums of g' and of g' * (x - centre) over a block of lines to two numbers a column.
template <bool FromY, class T, class A>
inline void add_block_sums(const BackwardLines<T>& at, int64_t lines, int64_t width, const BackwardColumns<A>& columns,
                           const Activate<A>& activate, double* sum_g, double* sum_gx) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  for_columns<L, 4>(
      width,
      [&](int64_t j, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        V centre[N], scale[N], bias[N];
        for (int k = 0; k < N; ++k) {
          centre[k] = load(columns.centre + j + k * L);
          scale[k] = load(columns.scale + j + k * L);
          bias[k] = load(columns.bias + j + k * L);
        }
        const auto vector_at = [&](int64_t i, int k, V& xc) {
          xc = load(at.x + i * at.x_pitch + j + k * L) - centre[k];
          V decider;
          if constexpr (FromY)
            decider = load(at.y + i * at.y_pitch + j + k * L);
          else
            decider = xc * scale[k] + bias[k];
          return activate.backward(load(at.grad + i * at.grad_pitch + j + k * L), decider);
        };
        WideSum<A> sg[N], sgx[N];
        int64_t i = 0;
        if constexpr (sizeof(T) == 2) {
          // What rounding adds here is far below what it took from the elements.
          while (i < lines) {
            const int64_t end = lines - i < most_lines_in_run ? lines : i + most_lines_in_run;
            V run_g[N] = {}, run_gx[N] = {};
            for (; i < end; ++i)
              for (int k = 0; k < N; ++k) {
                V xc;
                const V g = vector_at(i, k, xc);
                run_g[k] += g;
                run_gx[k] += g * xc;
              }
            for (int k = 0; k < N; ++k) {
              sg[k].add(run_g[k]);
              sgx[k].add(run_gx[k]);
            }
          }
        }
        // Two lines are added up before float64 takes over: half as much to widen. Unrolled, the sums stay in
        // registers.
        for (; i + 2 <= lines; i += 2)
#pragma GCC unroll 4
          for (int k = 0; k < N; ++k) {
            V xc[2];
            const V first = vector_at(i, k, xc[0]), second = vector_at(i + 1, k, xc[1]);
            sg[k].add(first + second);
            sgx[k].add(first * xc[0] + second * xc[1]);
          }
        if (i < lines)
          for (int k = 0; k < N; ++k) {
            V xc;
            const V g = vector_at(i, k, xc);
            sg[k].add(g);
            sgx[k].add(g * xc);
          }
        for (int k = 0; k < N; ++k) {
          sg[k].add_to(sum_g + j + k * L);
          sgx[k].add_to(sum_gx + j + k * L);
        }
      },
      [&](int64_t j) {
        double sg = 0, sgx = 0;
        for (int64_t i = 0; i < lines; ++i) {
          const A xc = load_one(at.x + i * at.x_pitch + j) - columns.centre[j];
          A decider;
          if constexpr (FromY)
            decider = load_one(at.y + i * at.y_pitch + j);
          else
            decider = xc * columns.scale[j] + columns.bias[j];
          const A g = activate.backward(A(load_one(at.grad + i * at.grad_pitch + j)), decider);
          sg += double(g);
          sgx += double(g) * double(xc);
        }
        sum_g[j] += sg;
        sum_gx[j] += sgx;
      });
}

template <bool FromY, bool Stream, class T, class A>
inline void apply_backward_lines(const BackwardLines<T>& at, int64_t lines, int64_t width,
                                 const BackwardColumns<A>& columns, const Activate<A>& activate) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  for_columns<L, 2>(  // six numbers a column: more than two vectors of them do not fit the registers
      width,
      [&](int64_t j, auto vectors) {
        constexpr int N = decltype(vectors)::value;
        V centre[N], scale[N], bias[N], slope_g[N], slope_x[N], offset[N];
        for (int k = 0; k < N; ++k) {
          centre[k] = load(columns.centre + j + k * L);
          scale[k] = load(columns.scale + j + k * L);
          bias[k] = load(columns.bias + j + k * L);
          slope_g[k] = load(columns.slope_g + j + k * L);
          slope_x[k] = load(columns.slope_x + j + k * L);
          offset[k] = load(columns.offset + j + k * L);
        }
        for (int64_t i = 0; i < lines; ++i)
          for (int k = 0; k < N; ++k) {
            const V xc = load(at.x + i * at.x_pitch + j + k * L) - centre[k];
            V decider;
            if constexpr (FromY)
              decider = load(at.y + i * at.y_pitch + j + k * L);
            else
              decider = xc * scale[k] + bias[k];
            const V g = activate.backward(load(at.grad + i * at.grad_pitch + j + k * L), decider);
            if constexpr (FromY) store(at.dresidual + i * at.dresidual_pitch + j + k * L, g);
            store<Stream>(at.dx + i * at.dx_pitch + j + k * L, g * slope_g[k] - (xc * slope_x[k] + offset[k]));
          }
      },
      [&](int64_t j) {
        for (int64_t i = 0; i < lines; ++i) {
          const A xc = load_one(at.x + i * at.x_pitch + j) - columns.centre[j];
          A decider;
          if constexpr (FromY)
            decider = load_one(at.y + i * at.y_pitch + j);
          else
            decider = xc * columns.scale[j] + columns.bias[j];
          const A g = activate.backward(A(load_one(at.grad + i * at.grad_pitch + j)), decider);
          if constexpr (FromY) store_one(at.dresidual + i * at.dresidual_pitch + j, g);
          store_one(at.dx + i * at.dx_pitch + j,
                    g * columns.slope_g[j] - (xc * columns.slope_x[j] + columns.offset[j]));
        }
      });
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
  const auto lines_at = [&](int64_t n, int64_t line) {
    return BackwardLines<T>{line_at(args.grad, n, line),
                            line_at(args.x, n, line),
                            line_at(args.y, n, line),
                            pitch(args.grad),
                            pitch(args.x),
                            pitch(args.y),
                            line_at(args.dx, n, line),
                            line_at(args.dresidual, n, line),
                            pitch(args.dx),
                            pitch(args.dresidual)};
  };
  const Activate<A> activate(args.activation, args.negative_slope);

  Scratch<A> numbers(args.batch * 6 * width);
  const auto columns_of = [&](int64_t n) {
    const A* from = numbers.get() + n * 6 * width;
    return BackwardColumns<A>{
        from, from + width, from + 2 * width, from + 3 * width, from + 4 * width, from + 5 * width};
  };
  const auto centre_of = [&](int64_t row) {
    return backward_centre(static_cast<const A*>(args.mean)[row], static_cast<const A*>(args.rstd)[row]);
  };
  for (int64_t row = 0; row < args.batch * channels; ++row) {
    const int64_t n = row / channels, channel = row % channels;
    const Centre<A> mean = centre_of(row);
    const double scale = double(static_cast<const A*>(args.rstd)[row]) * load_parameter(args.weight, channel, 1.0);
    const A bias = backward_bias(load_parameter(args.bias, channel, 0.0), mean.rest, A(scale));
    A* to = numbers.get() + n * 6 * width;
    for (int64_t j = channel; j < width; j += channels) {
      to[j] = mean.centre;
      to[width + j] = A(scale);
      to[2 * width + j] = bias;
    }
  }

  Scratch<double> partial(args.batch * slots * 2 * width);
  parallel_spans(threads, args.batch * slots, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / slots, slot = i % slots, count = lines.lines_in(slot);
      double* sum_g = partial.get() + i * 2 * width;
      for (int64_t j = 0; j < 2 * width; ++j) sum_g[j] = 0;
      for (int64_t done = 0; done < count; done += lines.per_block)
        add_block_sums<FromY>(lines_at(n, lines.first_line(slot) + done),
                              count - done < lines.per_block ? count - done : lines.per_block, lines.columns_in(slot),
                              columns_of(n), activate, sum_g, sum_g + width);
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
      const double rest = centre_of(row).rest;
      sum_gx -= rest * sum_g;
      static_cast<A*>(args.dweight)[row] = A(sum_gx * rstd);
      static_cast<A*>(args.dbias)[row] = A(sum_g);
      const BackwardAffine<A> column = backward_affine<A>(rstd, load_parameter(args.weight, channel, 1.0), sum_g,
                                                          sum_gx * rstd, args.spatial, args.statistics_fixed, rest);
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
      const int64_t n = i / slots, slot = i % slots;
      for_blocks_backwards(lines, slot, [&](int64_t line, int64_t count) {
        apply_backward_lines<FromY, Stream>(lines_at(n, line), count, lines.columns_in(slot), columns_of(n), activate);
      });
    }
    if constexpr (Stream) stream_fence();
  });
}

template <class T, bool FromY, bool Stream>
inline void backward_channels_last(const InstanceNormActBackward& args, int threads) {
  for_sample_groups<compute_t<T>>(args, threads, backward_samples<T, FromY, Stream>);
}

}  // namespace fastseg::FASTSEG_ISA
