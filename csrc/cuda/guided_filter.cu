// The guided filter of images and cost volumes in one pass: a and b are never stored.
//
// A CTA has a strip of columns, a band of rows and a few channels of src, a thread one column of them. It walks down
// the rows. For row j that comes in, with K = guide channels + 1:
//
//     lead     sums of p and I p over the column of rows j - 2r .. j        += row j - row j - 2r - 1
//     a, b     of row j - r, from sums of lead over 2r + 1 columns
//     couple   sums of a and b over the column of rows j - 3r .. j - r      += new a, b - those 2r + 1 rows before
//     q        of row j - 2r, from sums of couple over 2r + 1 columns
//
// The a and b that leave are computed once more from `trail`, which is what lead was 2r + 1 rows ago: by the same
// roundings, because sums and products are written so that the compiler cannot fuse them in two ways. A thread's
// windows end at its column: a and b are those of the column r before it, q that of 2r before it, and the first 4r
// threads of a strip have no result.
//
// Bytes a value of src, in float32: 4 read and 4 written. The rows that leave, 8, are those of 2r + 1 and 4r + 2 rows
// ago, from the second-level cache where it holds them; so are, for each group of channels, 3 G of colours, twice their
// statistics and G of colours again: 120 bytes for a colour guide, 60 a channel of a group of two, and 32 for a grey
// one, 8 of a group of four. Strips read 4r columns more, bands 4r rows more. Shared memory: 3 K values written, and
// about 3 K (2 + (2r + 1) / 32) read; 10 shuffles for each. There are two barriers a row.
#include <algorithm>
#include <limits>
#include <string>

#include "fastseg/cuda/guided_filter_windows.cuh"
#include "fastseg/cuda/launch.h"
#include "fastseg/cuda/pixel.cuh"
#include "fastseg/cuda/shared_memory.cuh"

namespace fastseg::cuda {
namespace {

constexpr int largest_cta = 512;  // one fills a multiprocessor: a thread has 128 registers, or nearly
constexpr int least_rows = 16;    // of a band

struct Tiling {
  Line rows, columns;
  int groups, strips, bands;  // of channels, columns, rows
  int strip_columns, band_rows;
  int64_t first;  // CTA of this launch
};

// Channels of a CTA.
template <typename C, int G>
constexpr int group_of = (G == 1 ? 4 : 2) * 4 / static_cast<int>(sizeof(C));

template <int G>
constexpr int factors_of = G * (G + 1) / 2;

// What the guide says of the windows of a pixel.
template <typename C, int G>
struct Statistics {
  C means[G], factors[factors_of<G>];
  C share;  // one over the window's pixels

  __device__ Statistics(const C* planes, int64_t plane, int64_t at, C share_of_window) : share(share_of_window) {
#pragma unroll
    for (int g = 0; g < G; ++g) means[g] = planes[g * plane + at];
#pragma unroll
    for (int i = 0; i < factors_of<G>; ++i) factors[i] = planes[(G + i) * plane + at];
  }

  // b and a from sums over a window of p and I p.
  __device__ void fit(const C* sums, C* ba) const {
    const C mean = product(sums[0], share);
    C c[G];
#pragma unroll
    for (int g = 0; g < G; ++g) c[g] = fma(-means[g], mean, product(sums[1 + g], share));
    if constexpr (G == 1) {
      c[0] = product(factors[0], c[0]);
    } else {
      c[1] = fma(-factors[0], c[0], c[1]);
      c[2] = fma(-factors[2], c[1], fma(-factors[1], c[0], c[2]));
      c[2] = product(c[2], factors[5]);
      c[1] = fma(-factors[2], c[2], product(c[1], factors[4]));
      c[0] = fma(-factors[1], c[2], fma(-factors[0], c[1], product(c[0], factors[3])));
    }
    ba[0] = mean;
#pragma unroll
    for (int g = 0; g < G; ++g) {
      ba[0] = fma(-means[g], c[g], ba[0]);
      ba[1 + g] = c[g];
    }
  }
};

// A row of src and the guide at a thread's column: p and I p, zero where there is no pixel.
template <typename T, int G, int S>
__device__ inline void load_row(const T* const (&src)[S], const compute_t<T>* colours, int64_t plane, int row,
                                int column, int width, compute_t<T> (&values)[S * (G + 1)]) {
#pragma unroll
  for (int i = 0; i < S * (G + 1); ++i) values[i] = 0;
  if (row < 0 || column < 0) return;
  const int64_t at = static_cast<int64_t>(row) * width + column;
#pragma unroll
  for (int s = 0; s < S; ++s) values[s * (G + 1)] = widen(src[s][at]);
#pragma unroll
  for (int g = 0; g < G; ++g) {
    const compute_t<T> colour = colours[g * plane + at];
#pragma unroll
    for (int s = 0; s < S; ++s) values[s * (G + 1) + 1 + g] = product(colour, values[s * (G + 1)]);
  }
}

// Moments: means of p and I p over windows are the result.
template <typename T, int G, bool Moments>
__global__ void __launch_bounds__(largest_cta, 1) slide(GuidedFilterPlanes args, Tiling tiling) {
  using C = compute_t<T>;
  constexpr int S = group_of<C, G>, K = G + 1, N = S * K;
  const Line rows = tiling.rows, columns = tiling.columns;
  const int width = columns.size, t = threadIdx.x;
  const int64_t plane = static_cast<int64_t>(rows.size) * width;
  int64_t cta = tiling.first + blockIdx.x;  // groups of channels beside each other read the same of the guide
  const int group = static_cast<int>(cta % tiling.groups);
  cta /= tiling.groups;
  const int strip = static_cast<int>(cta % tiling.strips);
  cta /= tiling.strips;
  const int band = static_cast<int>(cta % tiling.bands);
  const int64_t n = cta / tiling.bands;

  const T* src[S];
#pragma unroll
  for (int s = 0; s < S; ++s) {
    const int64_t channel = min(static_cast<int64_t>(group) * S + s, args.channels - 1);
    src[s] = static_cast<const T*>(args.src.data) + n * args.src.batch_stride + channel * args.src.channel_stride;
  }
  const C* colours = static_cast<const C*>(args.colours) + n * G * plane;
  const C* statistics = static_cast<const C*>(args.statistics) + (Moments ? 0 : n * (G + factors_of<G>)*plane);

  // Rows and columns that a result looks to either side, and those that it needs to come first.
  const int windows = Moments ? 1 : 2;
  const int place = strip * tiling.strip_columns - windows * columns.radius + t;
  const int column = columns.pixel(place);
  // A part of a window would be divided by eps as if it were a covariance, and stay in later sums as their rounding.
  const int fitted = t >= 2 * columns.radius ? columns.pixel(place - columns.radius) : -1;
  const int written = place - windows * columns.radius;
  const bool writes = t >= 2 * windows * columns.radius && written < width;
  const int first = band * tiling.band_rows, last = min(first + tiling.band_rows, rows.size);
  const int begin = first - windows * rows.radius;
  const int span_x = 2 * columns.radius + 1, span_y = 2 * rows.radius + 1;
  const C share_of_fitted = fitted < 0 ? C(0) : C(1) / static_cast<C>(columns.count(fitted));
  const C share_of_written = writes ? C(1) / static_cast<C>(columns.count(written)) : C(0);

  C* lead_lines = reinterpret_cast<C*>(shared_memory());
  C* trail_lines = lead_lines + N * blockDim.x;
  C* couple_lines = trail_lines + N * blockDim.x;
  RunningSum<C> lead[N], trail[N], couple[N];

  for (int j = begin; j < last + windows * rows.radius; ++j) {
    // What was never in a sum does not leave it.
    const int middle_row = j - span_y >= begin ? rows.pixel(j - span_y) : -1;
    C coming[N], middle[N];
    load_row<T, G, S>(src, colours, plane, rows.pixel(j), column, width, coming);
    load_row<T, G, S>(src, colours, plane, middle_row, column, width, middle);
    C columns_of_lead[N], columns_of_trail[N];
#pragma unroll
    for (int i = 0; i < N; ++i) {
      lead[i].add(coming[i] - middle[i]);
      columns_of_lead[i] = lead[i].sum;
      lead_lines[i * blockDim.x + t] = lead[i].sum;
    }
    if constexpr (!Moments) {
      const int old_row = j - 2 * span_y >= begin ? rows.pixel(j - 2 * span_y) : -1;
      C old[N];
      load_row<T, G, S>(src, colours, plane, old_row, column, width, old);
#pragma unroll
      for (int i = 0; i < N; ++i) {
        trail[i].add(middle[i] - old[i]);
        columns_of_trail[i] = trail[i].sum;
        trail_lines[i * blockDim.x + t] = trail[i].sum;
      }
    }
    __syncthreads();

    if constexpr (Moments) {
      const int y = j - rows.radius;
      if (y >= first) {
        C sums[N];
        window_sums(columns_of_lead, lead_lines, span_x, sums);
        const C share = share_of_written / static_cast<C>(rows.count(y));
        C* to = static_cast<C*>(args.dst.data) + n * args.dst.batch_stride + static_cast<int64_t>(y) * width + written;
#pragma unroll
        for (int i = 0; i < N; ++i) {
          const int64_t channel = static_cast<int64_t>(group) * N + i;
          if (writes && channel < args.channels * K) to[channel * args.dst.channel_stride] = sums[i] * share;
        }
      }
      __syncthreads();  // lines are read before the next row's are written
    } else {
      const int come = j >= first ? rows.pixel(j - rows.radius) : -1;
      const int go = j - span_y >= first ? rows.pixel(j - rows.radius - span_y) : -1;
      C change[N];
#pragma unroll
      for (int i = 0; i < N; ++i) change[i] = 0;
      if (come >= 0) {
        C sums[N];
        window_sums(columns_of_lead, lead_lines, span_x, sums);
        if (fitted >= 0) {
          const Statistics<C, G> of_window(statistics, plane, static_cast<int64_t>(come) * width + fitted,
                                           share_of_fitted / static_cast<C>(rows.count(come)));
#pragma unroll
          for (int s = 0; s < S; ++s) of_window.fit(sums + s * K, change + s * K);
        }
      }
      if (go >= 0) {
        C sums[N];
        window_sums(columns_of_trail, trail_lines, span_x, sums);
        if (fitted >= 0) {
          const Statistics<C, G> of_window(statistics, plane, static_cast<int64_t>(go) * width + fitted,
                                           share_of_fitted / static_cast<C>(rows.count(go)));
#pragma unroll
          for (int s = 0; s < S; ++s) {
            C ba[K];
            of_window.fit(sums + s * K, ba);
#pragma unroll
            for (int k = 0; k < K; ++k) change[s * K + k] -= ba[k];
          }
        }
      }
#pragma unroll
      for (int i = 0; i < N; ++i) {
        couple[i].add(change[i]);
        change[i] = couple[i].sum;
        couple_lines[i * blockDim.x + t] = couple[i].sum;
      }
      __syncthreads();

      const int y = j - 2 * rows.radius;
      if (y >= first) {
        C sums[N];
        window_sums(change, couple_lines, span_x, sums);
        if (writes) {
          const C share = share_of_written / static_cast<C>(rows.count(y));
          const int64_t at = static_cast<int64_t>(y) * width + written;
          T* to = static_cast<T*>(args.dst.data) + n * args.dst.batch_stride + at;
#pragma unroll
          for (int g = 0; g < G; ++g) {
            const C colour = colours[g * plane + at];
#pragma unroll
            for (int s = 0; s < S; ++s) sums[s * K] = fma(sums[s * K + 1 + g], colour, sums[s * K]);
          }
#pragma unroll
          for (int s = 0; s < S; ++s) {
            const int64_t channel = static_cast<int64_t>(group) * S + s;
            if (channel < args.channels) to[channel * args.dst.channel_stride] = narrow<T>(sums[s * K] * share);
          }
        }
      }
    }
  }
}

int64_t parts(int64_t whole, int64_t part) { return (whole + part - 1) / part; }

template <typename T, int G, bool Moments>
void run(const GuidedFilterPlanes& args, void* stream, Site site) {
  using C = compute_t<T>;
  constexpr int S = group_of<C, G>;
  const auto line = [&](int64_t size) {
    const int64_t radius = args.border == Border::truncate ? std::min(args.radius, size - 1) : args.radius;
    return Line{static_cast<int>(size), static_cast<int>(radius), args.border};
  };
  Tiling tiling = {line(args.height), line(args.width)};
  if (tiling.columns.radius > guided_filter_largest_radius) {
    throw std::runtime_error("guided_filter: radius is " + std::to_string(args.radius) + ", expected at most " +
                             std::to_string(guided_filter_largest_radius));
  }
  site.kernel = Moments ? "for moments of the guide" : "by sliding windows";
  const KernelLimits limits = kernel_limits(reinterpret_cast<const void*>(slide<T, G, Moments>), largest_cta, site);

  // As few columns beside those of the image as can be.
  const int lost = 2 * (Moments ? 1 : 2) * tiling.columns.radius;
  int threads = largest_cta;
  for (int fewer = largest_cta / 2; fewer > lost && fewer >= warp_size; fewer /= 2) {
    if (parts(args.width, fewer - lost) * fewer < parts(args.width, threads - lost) * threads) threads = fewer;
  }
  tiling.strip_columns = threads - lost;
  tiling.strips = static_cast<int>(parts(args.width, tiling.strip_columns));
  tiling.groups = static_cast<int>(parts(args.channels, S));
  const int64_t beside = args.batch * tiling.groups * tiling.strips;
  // Bands by the rows that CTAs walk down one after another, of which each band has more than it writes.
  const int64_t at_once = int64_t(limits.multiprocessors) * (largest_cta / threads);
  const int64_t more_rows = 4 * int64_t(tiling.rows.radius);
  int64_t least = std::numeric_limits<int64_t>::max();
  for (int64_t bands = 1; bands == 1 || bands * least_rows <= args.height; ++bands) {
    const int64_t rows = parts(args.height, bands), steps = parts(beside * bands, at_once) * (rows + more_rows);
    if (steps >= least) continue;
    least = steps;
    tiling.band_rows = static_cast<int>(rows);
  }
  tiling.bands = static_cast<int>(parts(args.height, tiling.band_rows));

  LaunchShape shape = {0, threads, int64_t(sizeof(C)) * (Moments ? 1 : 3) * S * (G + 1) * threads};
  const int64_t ctas = beside * tiling.bands;
  for (tiling.first = 0; tiling.first < ctas; tiling.first += shape.ctas) {
    shape.ctas = std::min(ctas - tiling.first, max_grid);
    launch(slide<T, G, Moments>, shape, stream, site, args, tiling);
  }
}

}  // namespace

void guided_filter(const GuidedFilterPlanes& args, void* stream) {
  const Site site = {"guided_filter", args.batch, args.channels, args.height * args.width};
  if (args.batch * args.channels * args.height * args.width == 0) return;
  if (args.statistics == nullptr) {  // in float64, as products of the guide cancel
    if (args.src.type != Pixel::float64) throw std::runtime_error("guided_filter: moments are those of float64 planes");
    return args.guide_channels == 1 ? run<double, 1, true>(args, stream, site)
                                    : run<double, 3, true>(args, stream, site);
  }
  for_any_pixel(args.src.type, [&](auto type) {
    using T = typename decltype(type)::type;
    args.guide_channels == 1 ? run<T, 1, false>(args, stream, site) : run<T, 3, false>(args, stream, site);
  });
}

}  // namespace fastseg::cuda
