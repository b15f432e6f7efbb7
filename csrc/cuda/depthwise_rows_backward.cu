// Backward of depthwise convolutions of rows on CUDA, without strides: dx and the weights' partial sums in one pass.
//
// Floors, with u = one pass over the tensor: 3u of bytes (grad and x read, dx written), and twice as many multiply-adds
// an element as there are taps: up to 3x3x3 memory and arithmetic take about the same, from 5x5x5 on arithmetic
// decides.
//
//   dx[q] = sum over taps k of w[k] * grad[q + padding - k]        dw[k] = sum over q of x[q] * grad[q + padding - k]
//
// Both take the same number of grad. So the forward kernel's march through grad, with the weights turned round, serves
// both: a number of grad is read from shared memory once for all targets and taps of its column, and x needs no halo. A
// thread keeps x of the planes in flight in registers beside the sums of dx. What it gathers for the taps of a column
// it adds to totals of its own in shared memory, four at a time: that takes fewer instructions than sums over the warp,
// and these come once, at the end of the march. The order of every sum is fixed.
#include "fastseg/cuda/depthwise_launch.h"
#include "fastseg/cuda/depthwise_march.cuh"

namespace fastseg::cuda {
namespace {

// How the taps of a column are added up: as many planes of them at a time as registers hold, and of 7x7x7, whose totals
// would take all of shared memory, lanes halve them among each other first.
constexpr int planes_of(int depth, int height) { return std::min(depth, 32 / height); }
constexpr int halvings_of(int depth, int height) { return depth * height > 32 ? 2 : 0; }
constexpr int shares_of(int depth, int height) {
  return static_cast<int>(ceil_div(planes_of(depth, height) * height, int64_t{1} << halvings_of(depth, height)));
}
constexpr int packs_of(int depth, int height) { return static_cast<int>(ceil_div(shares_of(depth, height), 4)); }
constexpr int runs_of(int depth, int height) { return static_cast<int>(ceil_div(depth, planes_of(depth, height))); }

template <int KD, int KH>
struct Totals {
  static constexpr int planes = planes_of(KD, KH), halvings = halvings_of(KD, KH), shares = shares_of(KD, KH);
  static constexpr int packs = packs_of(KD, KH), runs = runs_of(KD, KH);  // packs of a run of planes
};

// Calls use(sums) with the lane's share of the values' sums over 2^kHalvings neighbouring lanes: lane l has values
// from l % 2^kHalvings * (N >> kHalvings) on.
template <int kHalvings, int N, typename F>
__device__ inline void share_sums(const float (&values)[N], F use) {
  if constexpr (kHalvings == 0) {
    use(values);
  } else {
    constexpr int kOffset = 1 << (kHalvings - 1);
    const bool upper = (threadIdx.x & kOffset) != 0;
    float half[N / 2];
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      const float given = upper ? values[n] : values[n + N / 2];
      half[n] = (upper ? values[n + N / 2] : values[n]) + __shfl_xor_sync(0xffffffffu, given, kOffset);
    }
    share_sums<kHalvings - 1>(half, use);
  }
}

template <int KD>
constexpr int ctas_at_once = KD == 1   ? 4
                             : KD == 3 ? 3
                                       : 2;

template <typename T, int KD, int KH>
__global__ void __launch_bounds__(depthwise_threads, ctas_at_once<KD>)
    backward_rows(const __grid_constant__ March march, int64_t first_group, View x_view, BiasCentre centre,
                  float* partials) {
  constexpr bool flat = KD == 1;
  constexpr int kPadded = padded<KH>;
  constexpr int kColumn = march_rows - 1 + KH;
  constexpr int kTaps = KD * KH;  // of one column of taps
  using Sums = Totals<KD, KH>;
  const Convolution& conv = march.conv;
  const MarchPlace place(march, first_group, flat);
  const MarchThread thread(march);
  // Totals of the taps, [column of taps][run of planes][pack][thread], and of the bias, [thread].
  auto* totals = reinterpret_cast<Pack<float, 4>*>(shared_memory());
  float* bias_sums = reinterpret_cast<float*>(totals + march.kernel_x * Sums::runs * Sums::packs * depthwise_threads);
  float* shared = bias_sums + depthwise_threads;
  const int weights_of_channel = march.kernel_x * KD * kPadded;
  int* channel_offsets = reinterpret_cast<int*>(shared + (weights_of_channel << march.planes_log));
  float* buffers = shared + (weights_of_channel << march.planes_log) + march.channels;
  load_weights<T, KD, KH>(march, place, shared);
  const float* weights = shared + thread.channel * weights_of_channel;

  TileLoader<T, held<KH>> loader(march, place, channel_offsets);
  for (int pack = 0; pack < march.kernel_x * Sums::runs * Sums::packs; ++pack) {
    totals[pack * depthwise_threads + threadIdx.x] = Pack<float, 4>();
  }

  const int length = place.end - place.begin;
  const int steps = length + KD - 1;
  auto y_tile_of = [&](int s) { return flat ? (place.begin + s) % march.y_tiles : opaque(place.y_tile); };
  auto z_of = [&](int s) {
    if (flat) return (place.begin + s) / march.y_tiles - static_cast<int>(conv.padding[0]);
    return place.z_class - static_cast<int>(conv.padding[0]) + (place.begin + s) * march.z_step;
  };
  auto exists = [&](int s) { return static_cast<unsigned>(z_of(s)) < static_cast<unsigned>(conv.in[0]); };
  auto ask = [&](int s) {
    const int first = place.y_class - static_cast<int>(conv.padding[1]);
    if (s < steps && exists(s)) loader.ask(z_of(s), first + y_tile_of(s) * march.rows * march.y_step);
  };
  auto store = [&](int s) {
    if (s < steps && exists(s)) loader.store(buffers + (s & 1) * march.tile_floats);
  };

  const int height = static_cast<int>(conv.out[1]), width = static_cast<int>(conv.out[2]);
  const int64_t row = place.first_row + thread.channel;
  const int column_x = place.x_tile * march.columns + thread.lane;
  const bool live = row < conv.batch * conv.channels && column_x < width;
  T* target = static_cast<T*>(conv.target.data) + (live ? row_offset(conv.target, conv.channels, row) + column_x : 0);
  const T* x_source =
      static_cast<const T*>(x_view.data) + (live ? row_offset(x_view, conv.channels, row) + column_x : 0);
  const bool wants_dx = conv.target.data != nullptr;
  const int column =
      (thread.channel * march.source_rows + thread.group * march_rows) * march.source_columns + thread.lane;
  // Target plane `i` of the march, and the first of a thread's rows in it.
  auto z_of_target = [&](int i) {
    return flat ? (place.begin + i) / march.y_tiles : place.z_class + (place.begin + i) * march.z_classes;
  };
  auto first_y_of = [&](int s) {
    return place.y_class + (y_tile_of(s) * march.rows + thread.group * march_rows) * march.y_classes;
  };
  T x_held[march_rows];
  auto ask_x = [&](int s) {
    const int first_y = first_y_of(s);
    const T* at = x_source + (static_cast<int64_t>(z_of_target(s)) * height + first_y) * width;
#pragma unroll
    for (int i = 0; i < march_rows; ++i) {
      x_held[i] = live && s < length && first_y + i * march.y_classes < height ? *at : narrow<T>(0);
      at += opaque(march.y_classes * width);
    }
  };

  float sums[KD][march_rows] = {}, x[KD][march_rows] = {};
  float bias_sum = 0;
  ask(0);
  ask_x(0);
  store(0);
  __syncthreads();
  for (int s = 0; s < steps; ++s) {
#pragma unroll
    for (int i = 0; i < march_rows; ++i) {
#pragma unroll
      for (int r = KD - 1; r > 0; --r) x[r][i] = x[r - 1][i];
      x[0][i] = widen(x_held[i]);
    }
    ask(s + 1);
    ask_x(s + 1);
    if (exists(s)) {
      const float* tile = buffers + (s & 1) * march.tile_floats + column;
#pragma unroll 1
      for (int kx = 0; kx < march.kernel_x; ++kx) {
        float values[kColumn];
#pragma unroll
        for (int i = 0; i < kColumn; ++i) values[i] = tile[i * march.source_columns + kx * march.dilation_x];
#pragma unroll
        for (int run = 0; run < Sums::runs; ++run) {
          float taps[Sums::shares << Sums::halvings] = {};
#pragma unroll
          for (int r = run * Sums::planes; r < KD && r < (run + 1) * Sums::planes; ++r) {
            float w[kPadded];
            read_weights<KH>(weights + (kx * KD + r) * kPadded, w);
#pragma unroll
            for (int i = 0; i < march_rows; ++i) {
#pragma unroll
              for (int k = 0; k < KH; ++k) {
                sums[r][i] = fmaf(w[k], values[i + k], sums[r][i]);
                float& tap = taps[(r - run * Sums::planes) * KH + k];
                tap = fmaf(x[r][i], values[i + k], tap);
              }
            }
          }
          auto* mine = totals + ((kx * Sums::runs + run) * Sums::packs) * depthwise_threads + threadIdx.x;
          share_sums<Sums::halvings>(taps, [&](const float (&share)[Sums::shares]) {
#pragma unroll
            for (int pack = 0; pack < Sums::packs; ++pack) {
              Pack<float, 4> four = mine[pack * depthwise_threads];
#pragma unroll
              for (int i = 0; i < 4 && pack * 4 + i < Sums::shares; ++i) four.lane[i] += share[pack * 4 + i];
              mine[pack * depthwise_threads] = four;
            }
          });
        }
      }
      if (centre.wanted && s >= centre.at[0] && s < centre.at[0] + length) {
        const float* centred = tile + centre.at[1] * march.source_columns + centre.at[2] * march.dilation_x;
#pragma unroll
        for (int i = 0; i < march_rows; ++i) bias_sum += centred[i * march.source_columns];
      }
    }
    const int done = s - (KD - 1);
    if (wants_dx && done >= 0) {
      const int first_y = first_y_of(s);
      T* at = target + (static_cast<int64_t>(z_of_target(done)) * height + first_y) * width;
#pragma unroll
      for (int i = 0; i < march_rows; ++i) {
        if (live && first_y + i * march.y_classes < height) *at = narrow<T>(sums[KD - 1][i]);
        at += opaque(march.y_classes * width);
      }
    }
#pragma unroll
    for (int i = 0; i < march_rows; ++i) {
#pragma unroll
      for (int r = KD - 1; r > 0; --r) sums[r][i] = sums[r - 1][i];
      sums[0][i] = 0;
    }
    store(s + 1);
    __syncthreads();
  }

  bias_sums[threadIdx.x] = bias_sum;
  __syncthreads();
  const int of_channel = depthwise_threads >> march.planes_log;  // threads
  const int values = march.kernel_x * kTaps + 1;                 // of a channel, the last one the bias
  const float* of_taps = reinterpret_cast<const float*>(totals);
  for (int index = threadIdx.x; index < values << march.planes_log; index += depthwise_threads) {
    const int channel = index / values, value = index % values;
    const int64_t row_of_value = place.first_row + channel;
    if (row_of_value >= conv.batch * conv.channels) break;
    const bool is_bias = value == values - 1;
    const int kx = value / kTaps, k = value % kTaps;
    constexpr int kOfRun = Sums::planes * KH;
    const int of_run = k % kOfRun, share = of_run % Sums::shares;
    const int pack = ((kx * Sums::runs + k / kOfRun) * Sums::packs) + share / 4;
    // Every thread of a channel has a total of the bias, and every 2^halvings-th one of a tap. Values begin with
    // different threads, in different banks.
    const int apart = is_bias ? 0 : Sums::halvings, count = of_channel >> apart;
    const int first = channel * of_channel + (is_bias ? 0 : of_run / Sums::shares);
    float sum = 0;
    for (int n = 0; n < count; ++n) {
      const int from = first + (((n + value / 4) & (count - 1)) << apart);
      sum += is_bias ? bias_sums[from] : of_taps[(pack * depthwise_threads + from) * 4 + share % 4];
    }
    // [kx][turned kz][turned ky] to the taps as the user has them.
    const int at = is_bias ? value : values - 2 - (k * march.kernel_x + kx);
    const int64_t slot = row_of_value / conv.channels * march.slots + place.slot;
    partials[(slot * conv.channels + row_of_value % conv.channels) * values + at] = sum;
  }
}

}  // namespace

int64_t backward_march_shared_floats(const March& march) {
  const int depth = static_cast<int>(march.conv.kernel[0]), height = static_cast<int>(march.conv.kernel[1]);
  const int64_t packs = march.conv.kernel[2] * runs_of(depth, height) * packs_of(depth, height);
  return march.shared_floats + depthwise_threads * (packs * 4 + 1);
}

void backward_march(const March& march, const View& x, const BiasCentre& centre, void* partials, void* stream,
                    Site site) {
  site.kernel = "of rows, backward";
  for_float_element(x.type, [&](auto element) {
    using T = typename decltype(element)::type;
    for_march_kernel(march.conv, [&](auto kernel) {
      using K = decltype(kernel);
      if constexpr (K::z_stride == 1 && K::y_stride == 1) {
        const auto run = backward_rows<T, K::depth, K::height>;
        kernel_limits(reinterpret_cast<const void*>(run), depthwise_threads, site);
        const int64_t most = max_grid / march.slots;
        for (int64_t first = 0; first < march.groups; first += most) {
          const int64_t groups = std::min(most, march.groups - first);
          const LaunchShape shape = {groups * march.slots, depthwise_threads, backward_march_shared_floats(march) * 4};
          launch(run, shape, stream, site, march, first, x, centre, static_cast<float*>(partials));
        }
      }
    });
  });
}

}  // namespace fastseg::cuda
