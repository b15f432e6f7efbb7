// Tiles of a depthwise convolution, channels-last: R rows by P pixels of targets in registers, of a vector of channels.
//
// A vector of the window that is loaded serves up to K * K targets, K of each row, and rows of the window, too wide
// together for the first-level cache, are read once for R rows of targets. For 32 registers; with 16 a row at a time
// needs no more loads.
#pragma once
#include "depthwise_ahead.h"
#include "depthwise_plan.h"

namespace fastseg::FASTSEG_ISA {

// What the tiles of R rows of targets share.
template <class A>
struct TileRows {
  const A* const* rows;     // `planes` times R - 1 + K pointers into the window
  const A* const* weights;  // `planes` times [K][K][block]
  int64_t planes, block;
  A* out;  // the first target's first channel
  int64_t out_row, out_pixel;
  bool stream;  // past the caches
  Ahead next;   // as many rows are fetched meanwhile
};

// P pixels from x on, which find their first tap at element `at` of the window's rows.
template <int K, int R, int P, class A>
inline void convolve_pixel_tile(const TileRows<A>& tile, int64_t at, int64_t x, int64_t channel, Vec<A> bias) {
  constexpr int window = R - 1 + K;
  constexpr bool keep = K == 3;  // all weights of a plane stay in registers
  const int64_t block = tile.block;
  const A* const* rows = tile.rows;
  Vec<A> sum[R][P];
  for (int r = 0; r < R; ++r)
    for (int q = 0; q < P; ++q) sum[r][q] = bias;
  for (int64_t p = 0; p < tile.planes; ++p, rows += window) {
    const A* weight = tile.weights[p] + channel;
    Vec<A> kept[keep ? K : 1][K];
    if constexpr (keep)
#pragma GCC unroll 9
      for (int i = 0; i < K * K; ++i) kept[i / K][i % K] = load(weight + i * block);
#pragma GCC unroll 16
    for (int i = 0; i < window; ++i) {
      if (i < R && p == 0) tile.next.template fetch<P>(i, x, 1, channel);
      if (!rows[i]) continue;
      const A* row = rows[i] + at + channel;
      Vec<A> loaded[R][K];
      if constexpr (!keep)
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
          for (int k = 0; k < K; ++k)
            if (i - r >= 0 && i - r < K) loaded[r][k] = load(weight + ((i - r) * K + k) * block);
#pragma GCC unroll 16
      for (int c = 0; c < P + K - 1; ++c, row += block) {
        const Vec<A> pixel = load(row);
#pragma GCC unroll 4
        for (int r = 0; r < R; ++r) {
          if (i - r < 0 || i - r >= K) continue;
#pragma GCC unroll 8
          for (int k = 0; k < K; ++k)
            if (c - k >= 0 && c - k < P) sum[r][c - k] += pixel * (keep ? kept[keep ? i - r : 0][k] : loaded[r][k]);
        }
      }
    }
  }
  A* out = tile.out + x * tile.out_pixel + channel;
  for (int r = 0; r < R; ++r, out += tile.out_row)
    for (int q = 0; q < P; ++q)
      if (tile.stream)
        store<true>(out + q * tile.out_pixel, sum[r][q]);
      else
        store(out + q * tile.out_pixel, sum[r][q]);
}

// How a convolution cuts its targets into tiles: of several rows of a plane, or, of images, which march along their
// height, of several planes of one row. Without tiles `run` is null and all numbers are 1.
template <class A>
struct PixelTiles {
  int64_t rows = 1, planes = 1, pixels = 1;
  void (*run)(const TileRows<A>& tile, int64_t at, int64_t x, int64_t channel, Vec<A> bias) = nullptr;

  PixelTiles(const Axis& z, const Axis& y, const Axis& x) {
    const bool image = y.sources == 1 && y.targets == 1 && y.kernel == 1 && y.padding == 0;
    const Axis& down = image ? z : y;  // along z, targets of a class are neighbours whatever the dilation
    const bool neighbours = x.stride == 1 && x.dilation == 1 && down.stride == 1 && (image || down.dilation == 1);
    if (!neighbours || down.kernel != x.kernel) return;
    if constexpr (vector_bytes == 64) {
      int64_t& together = image ? planes : rows;
      if (x.kernel == 3) together = 4, pixels = 4, run = convolve_pixel_tile<3, 4, 4, A>;
      if (x.kernel == 5) together = 2, pixels = 8, run = convolve_pixel_tile<5, 2, 8, A>;
      if (x.kernel == 7) together = 2, pixels = 8, run = convolve_pixel_tile<7, 2, 8, A>;
    }
  }

  int64_t together() const { return rows * planes; }
};

}  // namespace fastseg::FASTSEG_ISA
