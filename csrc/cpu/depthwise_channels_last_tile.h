// Tiles of a depthwise convolution, channels-last: R rows by P pixels of targets in registers, of a vector of channels.
//
// A vector of sources that is loaded serves up to K * K targets, K of each row, and rows of a window, too wide together
// for the first-level cache, are read once for R rows of targets. Sources are those of a window or, of images, the
// tensor's (depthwise_channels_last_direct.h). For 32 registers; with 16 a row at a time needs no more loads.
#pragma once
#include "depthwise_ahead.h"
#include "depthwise_plan.h"

namespace fastseg::FASTSEG_ISA {

// Where tiles of R rows of targets find their sources; strides in elements.
template <class T>
struct TileSource {
  const T* const* rows;  // `planes` times (R - 1) * S + K of them, nullptr for a row of zeros
  int64_t planes, pixel;
  Ahead next;                  // as many rows as there are targets are fetched meanwhile
  int64_t begin = 0, end = 0;  // the columns that exist of a part of a tile
};

// Where they belong; `rows` by `pixels` of a part of a tile exist.
template <class T>
struct TileTarget {
  T* at;  // the first channel of pixel 0
  int64_t row, pixel;
  bool stream;  // past the caches
  int64_t rows = 0, pixels = 0;
};

// What of a tile exists: all of it, all but some channels of its vector, or a part of its rows and columns too.
enum class Extent { whole, masked, part };

// R rows by P pixels of targets from pixel x on, which find their first tap at element `at` of the source's rows, of
// `channels` channels, at most a vector of them. Sources of neighbouring targets are S taps apart. weights: for each
// plane [K][K][block]. Flat: there is one plane.
template <int K, int S, int R, int P, Extent E, bool Flat, class T, class To, class A>
inline void convolve_tile(const TileSource<T>& source, const TileTarget<To>& target, int64_t at, int64_t x,
                          int64_t channel, int64_t channels, const A* const* weights, int64_t block, Vec<A> bias) {
  constexpr int window = (R - 1) * S + K;
  constexpr bool keep = K == 3;  // all weights of a plane stay in registers
  const T* const* rows = source.rows;
  Vec<A> sum[R][P];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < P; ++q) sum[r][q] = bias;
  const int64_t planes = Flat ? 1 : source.planes;
  for (int64_t p = 0; p < planes; ++p, rows += window) {
    const A* weight = weights[p] + channel;
    Vec<A> kept[keep ? K : 1][K];
    if constexpr (keep)
#pragma GCC unroll 9
      for (int i = 0; i < K * K; ++i) kept[i / K][i % K] = load(weight + i * block);
#pragma GCC unroll 16
    for (int i = 0; i < window; ++i) {
      if (i < R && p == 0) source.next.template fetch<P>(i, x, 1, channel);
      if (!rows[i]) continue;
      const T* from = rows[i] + at + channel;
      Vec<A> loaded[R][K];
      if constexpr (!keep)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
          for (int k = 0; k < K; ++k)
            if (i - r * S >= 0 && i - r * S < K) loaded[r][k] = load(weight + ((i - r * S) * K + k) * block);
#pragma GCC unroll 32
      for (int c = 0; c < (P - 1) * S + K; ++c, from += source.pixel) {
        if (E == Extent::part && (c < source.begin || c >= source.end)) continue;
        const Vec<A> pixel = E == Extent::whole ? load(from) : load_part(from, channels);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          if (i - r * S < 0 || i - r * S >= K) continue;
#pragma GCC unroll 8
          for (int k = 0; k < K; ++k)
            if (c - k >= 0 && (c - k) % S == 0 && (c - k) / S < P)
              sum[r][(c - k) / S] += pixel * (keep ? kept[keep ? i - r * S : 0][k] : loaded[r][k]);
        }
      }
    }
  }
  To* const to = target.at + x * target.pixel + channel;
  const auto put = [&](int r, int q) {
    To* const pixel = to + r * target.row + q * target.pixel;
    if (E == Extent::whole && target.stream)
      store<true>(pixel, sum[r][q]);
    else if (E == Extent::whole)
      store(pixel, sum[r][q]);
    else if (E == Extent::masked || (r < target.rows && q < target.pixels))
      store_part(pixel, sum[r][q], channels);
  };
  // Unrolled, this loop makes one plane 1.1 to 1.5 times as fast, and several slower: GCC places sums in other
  // registers.
  if constexpr (Flat) {
#pragma GCC unroll 4
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
      for (int q = 0; q < P; ++q) put(r, q);
  } else {
    for (int r = 0; r < R; ++r)
      for (int q = 0; q < P; ++q) put(r, q);
  }
}

// How a convolution cuts its targets into tiles: of several rows of a plane, or, of images, which march along their
// height, of several planes of one row. Without tiles `run` is null and all numbers are 1.
template <class A>
struct PixelTiles {
  int64_t rows = 1, planes = 1, pixels = 1;
  void (*run)(const TileSource<A>& source, const TileTarget<A>& target, int64_t at, int64_t x, int64_t channel,
              int64_t channels, const A* const* weights, int64_t block, Vec<A> bias) = nullptr;

  PixelTiles(const Axis& z, const Axis& y, const Axis& x) {
    const bool image = y.sources == 1 && y.targets == 1 && y.kernel == 1 && y.padding == 0;
    const Axis& down = image ? z : y;  // along z, targets of a class are neighbours whatever the dilation
    const bool neighbours = x.stride == 1 && x.dilation == 1 && down.stride == 1 && (image || down.dilation == 1);
    if (!neighbours || down.kernel != x.kernel) return;
    if constexpr (vector_bytes == 64) {
      int64_t& together = image ? planes : rows;
      if (x.kernel == 3) together = 4, pixels = 4, run = convolve_tile<3, 1, 4, 4, Extent::whole, false, A, A, A>;
      if (x.kernel == 5) together = 2, pixels = 8, run = convolve_tile<5, 1, 2, 8, Extent::whole, false, A, A, A>;
      if (x.kernel == 7) together = 2, pixels = 8, run = convolve_tile<7, 1, 2, 8, Extent::whole, false, A, A, A>;
    }
  }

  int64_t together() const { return rows * planes; }
};

}  // namespace fastseg::FASTSEG_ISA
