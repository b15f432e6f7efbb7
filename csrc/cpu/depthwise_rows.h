// Depthwise convolution over rows: each (batch, channel) is a volume of its own with adjacent elements along x.
//
// Floor, u = one pass over the tensor: forward and gradient of the input 2u (read, write); taps multiply-adds an
// element. On four cores memory decides up to about 27 taps, arithmetic from there on.
//
// Every source row is converted once into a padded window in the cache (depthwise_rows_window.h), which marches along
// the depth. A block of R rows by V vectors of targets stays in registers; each vector of the window that is loaded
// serves up to R rows, so loads (two a cycle, half of them across cache lines) do not hold back the multiply-adds.
// Meanwhile the rows that the window takes next are fetched (depthwise_ahead.h).
#pragma once
#include "depthwise_rows_window.h"
#include "norm_rows.h"

namespace fastseg::FASTSEG_ISA {

// Where a block of rows of targets goes: element x of row r to at[r * pitch + x], for x from `begin` to `end`, which
// lie a whole number of vectors apart. `stream`: past the caches. Meanwhile as many rows of `next` are fetched.
template <class A>
struct RowTargets {
  A* at;
  int64_t pitch, begin, end;
  bool stream;
  Ahead next = {};
};

// R rows of targets by V vectors from x on. rows: `planes` times (R - 1) * Step + KY pointers into the window; weights:
// `planes` times [KY][KX].
template <int KY, int KX, int Step, int R, int V, class A>
__attribute__((always_inline)) inline void convolve_tile(const A* const* rows, const A* const* weights, int64_t planes,
                                                         const int64_t* offsets, A bias, int64_t x,
                                                         const RowTargets<A>& to) {
  constexpr int L = lanes<A>, window = (R - 1) * Step + KY;
  Vec<A> sum[R][V];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) sum[r][v] = broadcast<Vec<A>>(bias);
  // Few enough weights stay in registers too.
  constexpr bool keep = vector_bytes == 64 && KY * KX <= 9;
  for (int64_t p = 0; p < planes; ++p, rows += window) {
    const A* weight = weights[p];
    if (p < R) to.next.template fetch<V>(p, x, L);
    Vec<A> kept[keep ? KY * KX : 1];
    if constexpr (keep)
#pragma GCC unroll 9
      for (int i = 0; i < KY * KX; ++i) kept[i] = broadcast<Vec<A>>(weight[i]);
#pragma GCC unroll 16
    for (int i = 0; i < window; ++i) {
      if (!rows[i]) continue;
      const A* row = rows[i] + x;
#pragma GCC unroll 8
      for (int k = 0; k < KX; ++k) {
        const A* at = row + offsets[k];
        Vec<A> source[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) source[v] = load(at + v * L);
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
          const int tap = i - r * Step;
          if (tap < 0 || tap >= KY) continue;
          const Vec<A> w = keep ? kept[tap * KX + k] : broadcast<Vec<A>>(weight[tap * KX + k]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[r][v] += source[v] * w;
        }
      }
    }
  }
  for (int64_t r = planes; r < R; ++r) to.next.template fetch<V>(r, x, L);
  A* out = to.at + x;
  if (to.stream)
    for (int r = 0; r < R; ++r, out += to.pitch)
      for (int v = 0; v < V; ++v) store<true>(out + v * L, sum[r][v]);
  else
    for (int r = 0; r < R; ++r, out += to.pitch)
      for (int v = 0; v < V; ++v) store(out + v * L, sum[r][v]);
}

// Vectors beside each other in a block of four rows: as many as leave registers for weights and sources.
template <class A>
constexpr int wide_vectors = vector_bytes == 64 ? 4 : 2;

template <int KY, int KX, int Step, int R, class A>
inline void convolve_rows(const A* const* rows, const A* const* weights, int64_t planes, const int64_t* offsets, A bias,
                          const RowTargets<A>& to) {
  constexpr int L = lanes<A>;
  int64_t x = to.begin;
  if constexpr (R <= 4) {
    constexpr int V = wide_vectors<A>;
    for (; x + V * L <= to.end; x += V * L)
      convolve_tile<KY, KX, Step, R, V>(rows, weights, planes, offsets, bias, x, to);
    if constexpr (V == 4)
      for (; x + 2 * L <= to.end; x += 2 * L)
        convolve_tile<KY, KX, Step, R, 2>(rows, weights, planes, offsets, bias, x, to);
  }
  for (; x < to.end; x += L) convolve_tile<KY, KX, Step, R, 1>(rows, weights, planes, offsets, bias, x, to);
}

// Any kernel, one row of targets.
template <class A>
inline void convolve_row(const A* const* rows, const A* const* weights, int64_t planes, int64_t ky, int64_t kx,
                         const int64_t* offsets, A bias, int64_t width, A* out) {
  constexpr int L = lanes<A>;
  const auto tile = [&](int64_t x, auto vectors) {
    constexpr int V = decltype(vectors)::value;
    Vec<A> sum[V];
    for (int v = 0; v < V; ++v) sum[v] = broadcast<Vec<A>>(bias);
    for (int64_t p = 0; p < planes; ++p)
      for (int64_t i = 0; i < ky; ++i) {
        if (!rows[p * ky + i]) continue;
        const A* row = rows[p * ky + i] + x;
        for (int64_t k = 0; k < kx; ++k) {
          const Vec<A> w = broadcast<Vec<A>>(weights[p][i * kx + k]);
          for (int v = 0; v < V; ++v) sum[v] += load(row + offsets[k] + v * L) * w;
        }
      }
    for (int v = 0; v < V; ++v) store(out + x + v * L, sum[v]);
  };
  int64_t x = 0;
  for (; x + 4 * L <= width; x += 4 * L) tile(x, std::integral_constant<int, 4>{});
  for (; x < width; x += L) tile(x, std::integral_constant<int, 1>{});
}

// One way to run blocks of rows: how many rows, and the function.
template <class A>
struct RowKernel {
  int64_t block;  // rows of targets; 0: any kernel, a row at a time
  void (*run)(const A* const* rows, const A* const* weights, int64_t planes, const int64_t* offsets, A bias,
              const RowTargets<A>& to);
};

template <int K, class A>
inline RowKernel<A> row_kernel_of_size(int64_t step, int64_t width) {
  // One vector a row: more rows, so that enough sums are under way.
  const bool narrow = width < 2 * lanes<A>;
  if (step == 1)
    return narrow ? RowKernel<A>{8, convolve_rows<K, K, 1, 8, A>} : RowKernel<A>{4, convolve_rows<K, K, 1, 4, A>};
  if (step == 2) return {4, convolve_rows<K, K, 2, 4, A>};
  return {0, nullptr};
}

template <class A>
inline RowKernel<A> row_kernel(int64_t ky, int64_t kx, int64_t step, int64_t width) {
  if (ky == kx && kx == 3) return row_kernel_of_size<3, A>(step, width);
  if (ky == kx && kx == 5) return row_kernel_of_size<5, A>(step, width);
  if (ky == kx && kx == 7) return row_kernel_of_size<7, A>(step, width);
  return {0, nullptr};
}

// A row of targets from the compute type to where it belongs.
template <bool Stream, class T, class A>
inline void emit_row(const A* from, T* to, int64_t n) {
  constexpr int L = lanes<A>;
  int64_t i = 0;
  if (Stream && n % L == 0 && reinterpret_cast<uintptr_t>(to) % (sizeof(T) * L) == 0) {
    for (; i < n; i += L) store<true>(to + i, load(from + i));
    return;
  }
  for (; i + L <= n; i += L) store(to + i, load(from + i));
  for (; i < n; ++i) store_one(to + i, from[i]);
}

// A convolution by bands of rows of one channel.
template <class T>
struct RowConvolution : Convolution {
  using A = compute_t<T>;
  RowLayout<A> row;
  // A target channel reads `inputs` source channels: one, or when transposed all that a channel of x was spread over.
  int64_t inputs, target_channels;
  Bands bands;

  RowConvolution(const DepthwiseShape& s, bool transposed, const View& source, const View& target, const void* weight,
                 const Vector& bias)
      : Convolution(s, transposed, source, target, weight, bias),
        row(x),
        inputs(transposed ? s.multiplier : 1),
        target_channels(transposed ? s.channels : s.channels * s.multiplier),
        bands(z, y, s.batch * target_channels, row.length * int64_t(sizeof(A)) * inputs) {}

  int64_t images() const { return shape.batch * target_channels; }
  int64_t tasks() const { return images() * bands.count(); }
};

// What one thread needs to run tasks of a RowConvolution.
template <class T, bool Stream>
class RowConvolver {
  using A = compute_t<T>;

 public:
  explicit RowConvolver(const RowConvolution<T>& conv)
      : conv_(conv),
        ring_(conv.z, conv.y, conv.x.sources, 1, conv.inputs, conv.source.channel_stride,
              window_rows(conv.y, conv.bands.most_rows()), conv.row.length),
        width_(round_up(conv.x.targets, lanes<A>)),
        taps_(conv.shape.taps()),
        most_planes_(conv.inputs * conv.z.most_taps()),
        out_(most_block * width_),
        weights_(conv.inputs * taps_),
        selected_(most_planes_ * conv.shape.kernel[Y] * conv.shape.kernel[X]),
        offsets_(conv.shape.kernel[X]),
        rows_(most_planes_ * (2 * (most_block - 1) + most(conv.shape.kernel[Y], 7))),
        planes_(most_planes_),
        all_weights_(most_planes_),
        selected_weights_(most_planes_) {
    for (int64_t k = 0; k < conv.shape.kernel[X]; ++k) offsets_[k] = conv.row.offset(k);
  }

  // Runs one task; adds what it wrote to `moments` where they are wanted.
  void run(int64_t task, Moments* moments) {
    const int64_t image = task / conv_.bands.count(), n = image / conv_.target_channels;
    const int64_t channel = image % conv_.target_channels;
    const Band band = conv_.bands.at(task % conv_.bands.count());
    const int64_t first_input = conv_.transposed ? channel * conv_.inputs : channel / conv_.shape.multiplier;
    for (int64_t i = 0; i < conv_.inputs; ++i)
      read_weights<T>(conv_.shape, conv_.weight, conv_.transposed ? first_input + i : channel, conv_.transposed,
                      weights_.get() + i * taps_);
    const A bias = load_parameter(conv_.bias, channel, A(0));
    const T* source = static_cast<const T*>(conv_.source.data) + n * conv_.source.batch_stride +
                      first_input * conv_.source.channel_stride;
    T* target =
        static_cast<T*>(conv_.target.data) + n * conv_.target.batch_stride + channel * conv_.target.channel_stride;
    for (int64_t r = 0; r < conv_.z.classes(); ++r) {
      const AxisClass depth = conv_.z.at(r);
      const int64_t begin = most(ceil_div(band.z_begin - depth.first, depth.spacing), 0);
      ring_.start(source, conv_.row, band.y_begin, band.y_end, depth, begin);
      for (int64_t j = begin; j < depth.count; ++j) {
        const int64_t oz = depth.first + depth.spacing * j;
        if (oz >= band.z_end) break;
        ring_.advance(j);
        T* plane = target + oz * conv_.y.targets * conv_.x.targets;
        find_planes(depth, j);
        for (int64_t c = 0; c < conv_.y.classes(); ++c) convolve_plane(conv_.y.at(c), band, bias, plane);
        if (moments)
          moments->merge(
              row_moments(plane + band.y_begin * conv_.x.targets, (band.y_end - band.y_begin) * conv_.x.targets));
      }
    }
    if constexpr (Stream) stream_fence();
  }

 private:
  static constexpr int64_t most_block = 8;

  // Which planes of the window are not all padding, and their weights.
  void find_planes(const AxisClass& depth, int64_t j) {
    const int64_t plane_taps = conv_.shape.kernel[Y] * conv_.shape.kernel[X];
    count_ = 0;
    for (int64_t i = 0; i < conv_.inputs; ++i)
      for (int64_t t = 0; t < depth.taps; ++t)
        if (ring_.exists(depth.step() * j + t)) {
          planes_[count_] = ring_.plane(depth.step() * j + t, i);
          all_weights_[count_] = weights_.get() + i * taps_ + (depth.weight_first + depth.weight_step * t) * plane_taps;
          ++count_;
        }
  }

  void convolve_plane(const AxisClass& height, const Band& band, A bias, T* plane) {
    const int64_t ky = height.taps, kx = conv_.shape.kernel[X];
    const int64_t begin = most(ceil_div(band.y_begin - height.first, height.spacing), 0);
    const int64_t end =
        least(height.count, band.y_end > height.first ? ceil_div(band.y_end - height.first, height.spacing) : 0);
    if (begin >= end) return;
    const A* const* weights = select_weights(height);
    const RowKernel<A> kernel = row_kernel<A>(ky, kx, height.step(), width_);
    const int64_t block = kernel.block ? kernel.block : 1;
    const int64_t window = (block - 1) * height.step() + ky;
    const int64_t targets = conv_.x.targets, pitch = height.spacing * targets;
    for (int64_t b = begin; b < end; b += block) {
      for (int64_t p = 0; p < count_; ++p)
        ring_.rows(planes_[p], height.in_first + height.in_spacing * height.step() * b, height.in_spacing, window,
                   rows_.get() + p * window);
      T* to = plane + (height.first + height.spacing * b) * targets;
      int64_t done = 0;  // columns
      if (kernel.block) {
        // Without strides the source of a target is known without looking for it.
        const bool alike = height.step() == 1 && conv_.x.stride == 1;
        const int64_t row = height.in_first + height.in_spacing * (b + ky / 2);
        const Ahead next = alike ? ring_.next_rows(row, height.in_spacing) : Ahead{};
        if constexpr (std::is_same_v<T, A>)
          if (b + block <= end) {
            done = targets / lanes<A> * lanes<A>;
            const bool stream = Stream && pitch % lanes<A> == 0 && reinterpret_cast<uintptr_t>(to) % vector_bytes == 0;
            kernel.run(rows_.get(), weights, count_, offsets_.get(), bias, {to, pitch, 0, done, stream, next});
          }
        kernel.run(rows_.get(), weights, count_, offsets_.get(), bias, {out_.get(), width_, done, width_, false, next});
      } else {
        convolve_row(rows_.get(), weights, count_, ky, kx, offsets_.get(), bias, width_, out_.get());
      }
      if (done < targets)
        for (int64_t i = 0; i < block && b + i < end; ++i)
          emit_row<Stream>(out_.get() + i * width_ + done, to + i * pitch + done, targets - done);
    }
  }

  // The [taps][kx] weights of each plane; a strided gradient takes only some of the taps.
  const A* const* select_weights(const AxisClass& height) {
    if (conv_.y.takes_all_taps()) return all_weights_.get();
    const int64_t kx = conv_.shape.kernel[X];
    for (int64_t p = 0; p < count_; ++p) {
      A* to = selected_.get() + p * conv_.shape.kernel[Y] * kx;
      selected_weights_[p] = to;
      for (int64_t t = 0; t < height.taps; ++t)
        for (int64_t k = 0; k < kx; ++k)
          to[t * kx + k] = all_weights_[p][(height.weight_first + height.weight_step * t) * kx + k];
    }
    return selected_weights_.get();
  }

  const RowConvolution<T>& conv_;
  PlaneRing<T, RowLayout<A>> ring_;
  int64_t width_, taps_, most_planes_;
  Scratch<A> out_, weights_, selected_;
  Scratch<int64_t> offsets_;
  Scratch<const A*> rows_, planes_, all_weights_, selected_weights_;
  int64_t count_ = 0;
};

template <class T, bool Stream>
inline void depthwise_forward_rows(const DepthwiseConvForward& args, int threads) {
  using A = compute_t<T>;
  const RowConvolution<T> conv(args.shape, false, args.x, args.y, args.weight, args.bias);
  Scratch<Moments> moments(args.mean ? conv.tasks() : 0);
  parallel_spans(threads, conv.tasks(), [&](int64_t begin, int64_t end) {
    RowConvolver<T, Stream> convolver(conv);
    for (int64_t task = begin; task < end; ++task) {
      if (args.mean) moments[task] = Moments{};
      convolver.run(task, args.mean ? &moments[task] : nullptr);
    }
  });
  if (!args.mean) return;
  for (int64_t image = 0; image < conv.images(); ++image) {
    Moments all;
    for (int64_t i = 0; i < conv.bands.count(); ++i) all.merge(moments[image * conv.bands.count() + i]);
    static_cast<A*>(args.mean)[image] = A(all.mean);
    static_cast<A*>(args.rstd)[image] = A(reciprocal_deviation(all.m2, all.count, args.eps));
  }
}

}  // namespace fastseg::FASTSEG_ISA
