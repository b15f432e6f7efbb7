// Backward of instance and batch norm + activation, channels-last: lines and chunks as norm_channels_last.h cuts them.
//
// Floor 3u; a tensor larger than the cache is read once more, for the sums come before what is applied.
#pragma once
#include "norm_channels_last.h"

namespace fastseg::FASTSEG_ISA {

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
