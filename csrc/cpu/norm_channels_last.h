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

}  // namespace fastseg::FASTSEG_ISA
