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
// thread keeps x of the planes in flight in registers beside the sums of dx. The taps of one column are summed over the
// warp as soon as their planes are done: the butterfly that hands each lane one tap costs a shuffle a tap. So the sums
// of all taps lie in shared memory, each with one owner, and the order of every sum is fixed.
#include "fastseg/cuda/depthwise_launch.h"
#include "fastseg/cuda/depthwise_march.cuh"
#include "fastseg/cuda/reduce.cuh"

namespace fastseg::cuda {
namespace {

constexpr int ahead = 10;  // as in the forward kernel

// Sums each of N values (a power of two) over the warp. Lane l gets the sum of value l / (32 / N).
template <int N, int kOffset = warp_size / 2>
__device__ inline float scatter_sums(const float (&values)[N]) {
  if constexpr (N == 1) {
    float sum = values[0];
#pragma unroll
    for (int offset = kOffset; offset > 0; offset /= 2) sum += __shfl_xor_sync(0xffffffffu, sum, offset);
    return sum;
  } else {
    const bool upper = (threadIdx.x & kOffset) != 0;
    float half[N / 2];
#pragma unroll
    for (int n = 0; n < N / 2; ++n) {
      const float given = upper ? values[n] : values[n + N / 2];
      half[n] = (upper ? values[n + N / 2] : values[n]) + __shfl_xor_sync(0xffffffffu, given, kOffset);
    }
    return scatter_sums<N / 2, kOffset / 2>(half);
  }
}

// Adds values[0..count), summed over groups of `lanes` neighbouring lanes, to the group's totals.
template <int N>
__device__ inline void add_sums(const float (&values)[N], int count, int lanes, float* totals) {
  const int lane = threadIdx.x % warp_size;
  if (lanes == warp_size) {
    const float sum = scatter_sums(values);
    constexpr int kOwners = warp_size / N;  // lanes that got the same sum
    if (lane % kOwners == 0 && lane / kOwners < count) totals[lane / kOwners] += sum;
    return;
  }
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const float sum = lane_sum(values[n], lanes);
    if (n < count && lane % lanes == n % lanes) totals[n] += sum;
  }
}

template <int kAtLeast>
constexpr int power_of_two = 1 << log2_up(kAtLeast);

template <int KD>
constexpr int ctas_at_once = KD == 1   ? 4
                             : KD == 3 ? 3
                                       : 2;

template <int KD, int KH>
__global__ void __launch_bounds__(depthwise_threads, ctas_at_once<KD>)
    backward_rows(const __grid_constant__ March march, int64_t first_group, View x_view, BiasCentre centre,
                  float* partials) {
  constexpr bool flat = KD == 1;
  constexpr int kPadded = padded<KH>;
  constexpr int kColumn = march_rows - 1 + KH;
  constexpr int kTaps = KD * KH;                                      // of one column of taps
  constexpr int kPlanes = KD < warp_size / KH ? KD : warp_size / KH;  // whose taps are summed over the warp at a time
  const Convolution& conv = march.conv;
  const MarchPlace place(march, first_group, flat);
  const MarchThread thread(march);
  float* shared = reinterpret_cast<float*>(shared_memory());
  const int weights_of_channel = march.kernel_x * KD * kPadded;
  int* channel_offsets = reinterpret_cast<int*>(shared + (weights_of_channel << march.planes_log));
  float* buffers = shared + (weights_of_channel << march.planes_log) + march.channels;
  load_weights<KD, KH>(march, place, shared);
  const float* weights = shared + thread.channel * weights_of_channel;

  TileLoader<ahead> loader(march, place, channel_offsets);
  const int of_tile = loader.elements();
  const int lanes = min(depthwise_threads >> march.planes_log, warp_size);  // that share a channel, in a warp
  const int of_group = march.kernel_x * kTaps + 1;                          // totals: the taps, and the bias
  float* totals = buffers + 2 * of_tile;
  for (int index = threadIdx.x; index < depthwise_threads / lanes * of_group; index += depthwise_threads) {
    totals[index] = 0;
  }
  float* mine = totals + static_cast<int>(threadIdx.x) / lanes * of_group;

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
    if (s < steps && exists(s)) loader.store(buffers + (s & 1) * of_tile);
  };

  const int height = static_cast<int>(conv.out[1]), width = static_cast<int>(conv.out[2]);
  const int64_t row = place.first_row + thread.channel;
  const int column_x = place.x_tile * march.columns + thread.lane;
  const bool live = row < conv.batch * conv.channels && column_x < width;
  const int64_t target = live ? row_offset(conv.target, conv.channels, row) + column_x : 0;
  const int64_t source_x = live ? row_offset(x_view, conv.channels, row) + column_x : 0;
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
  uint32_t x_held[march_rows];
  auto ask_x = [&](int s) {
    const int64_t plane = source_x + static_cast<int64_t>(z_of_target(s)) * height * width;
    const int first_y = first_y_of(s);
#pragma unroll
    for (int i = 0; i < march_rows; ++i) {
      const int y = first_y + i * march.y_classes;
      x_held[i] = live && s < length && y < height ? load_bits(x_view.data, plane + y * width, x_view.type) : 0;
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
      x[0][i] = widen_bits(x_held[i], x_view.type);
    }
    ask(s + 1);
    ask_x(s + 1);
    if (exists(s)) {
      const float* tile = buffers + (s & 1) * of_tile + column;
#pragma unroll 1
      for (int kx = 0; kx < march.kernel_x; ++kx) {
        float values[kColumn];
#pragma unroll
        for (int i = 0; i < kColumn; ++i) values[i] = tile[i * march.source_columns + kx * march.dilation_x];
#pragma unroll
        for (int first = 0; first < KD; first += kPlanes) {
          float taps[power_of_two<kPlanes * KH>] = {};
#pragma unroll
          for (int r = first; r < KD && r < first + kPlanes; ++r) {
            float w[kPadded];
            read_weights<KH>(weights + (kx * KD + r) * kPadded, w);
#pragma unroll
            for (int i = 0; i < march_rows; ++i) {
#pragma unroll
              for (int k = 0; k < KH; ++k) {
                sums[r][i] = fmaf(w[k], values[i + k], sums[r][i]);
                float& tap = taps[(r - first) * KH + k];
                tap = fmaf(x[r][i], values[i + k], tap);
              }
            }
          }
          const int count = (KD - first < kPlanes ? KD - first : kPlanes) * KH;
          add_sums(taps, count, lanes, mine + kx * kTaps + first * KH);
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
      const int64_t plane = target + static_cast<int64_t>(z_of_target(done)) * height * width;
      const int first_y = first_y_of(s);
#pragma unroll
      for (int i = 0; i < march_rows; ++i) {
        const int y = first_y + i * march.y_classes;
        if (live && y < height) {
          store_rounded(conv.target.data, plane + y * width, sums[KD - 1][i], conv.target.type);
        }
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

  bias_sum = lane_sum(bias_sum, lanes);
  if (threadIdx.x % lanes == 0) mine[of_group - 1] = bias_sum;
  __syncthreads();
  const int groups = (depthwise_threads >> march.planes_log) / lanes;  // that share a channel
  for (int index = threadIdx.x; index < of_group << march.planes_log; index += depthwise_threads) {
    const int channel = index / of_group, value = index % of_group;
    const int64_t of = place.first_row + channel;
    if (of >= conv.batch * conv.channels) break;
    float sum = 0;
    for (int group = 0; group < groups; ++group) sum += totals[(channel * groups + group) * of_group + value];
    // [kx][turned kz][turned ky] to the taps as the user has them; the bias stays the last.
    const int taps = of_group - 1;
    const int kx = value / kTaps, k = value % kTaps;
    const int at = value == taps ? taps : taps - 1 - (k * march.kernel_x + kx);
    const int64_t slot = of / conv.channels * march.slots + place.slot;
    partials[(slot * conv.channels + of % conv.channels) * of_group + at] = sum;
  }
}

}  // namespace

int64_t backward_march_shared_floats(const March& march) {
  const int64_t lanes = std::min(depthwise_threads >> march.planes_log, 32);
  return march.shared_floats + depthwise_threads / lanes * (march.conv.taps + 1);
}

void backward_march(const March& march, const View& x, const BiasCentre& centre, void* partials, void* stream,
                    Site site) {
  site.kernel = "of rows, backward";
  for_march_kernel(march.conv, [&](auto kernel) {
    using K = decltype(kernel);
    if constexpr (K::z_stride == 1 && K::y_stride == 1) {
      const auto run = backward_rows<K::depth, K::height>;
      kernel_limits(reinterpret_cast<const void*>(run), depthwise_threads, site);
      const int64_t most = max_grid / march.slots;
      for (int64_t first = 0; first < march.groups; first += most) {
        const int64_t groups = std::min(most, march.groups - first);
        const LaunchShape shape = {groups * march.slots, depthwise_threads, backward_march_shared_floats(march) * 4};
        launch(run, shape, stream, site, march, first, x, centre, static_cast<float*>(partials));
      }
    }
  });
}

}  // namespace fastseg::cuda
