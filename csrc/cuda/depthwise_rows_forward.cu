// Depthwise convolutions of rows on CUDA: forward, and the gradient of the input where there is no stride.
//
// Floors, with u = one pass over the tensor: 2u of bytes, and as many multiply-adds an element as there are taps. An
// H100 issues about 37 float32 multiply-adds while 8 bytes move, so up to 3x3x3 memory decides and from 5x5x5 on
// arithmetic.
//
// A CTA marches through the planes of one channel with a tile of 32 columns by 32 rows (narrower and several channels
// where images are small). A tile of the source, halo included, comes once to one of two buffers in shared memory
// while the tile before is worked on. A thread has one column and 8 rows of targets: it reads the 8 + kernel - 1
// sources of a column of taps, neighbouring lanes from neighbouring banks whatever stride and dilation, and uses each
// for up to `kernel height x kernel depth` targets, whose sums for all planes in flight are a ring in registers. So
// shared memory serves (8 + KH - 1) * KW loads for 8 * taps multiply-adds: 30 for 216 with 3x3x3.
#include "fastseg/cuda/depthwise_launch.h"
#include "fastseg/cuda/depthwise_march.cuh"
#include "fastseg/cuda/depthwise_moments.cuh"

namespace fastseg::cuda {
namespace {

// The moments of a CTA's channels, each in the slot of its row, [row][slot].
__device__ void leave_moments(const March& march, const MarchPlace& place, const MarchThread& thread, Moments mine,
                              Moments* partials, float* shared) {
  const int of_channel = depthwise_threads >> march.planes_log;
  mine.merge_lanes(min(of_channel, warp_size));
  Moments* warps = reinterpret_cast<Moments*>(shared);
  __syncthreads();  // the last tile may still be being read
  if (threadIdx.x % warp_size == 0) warps[threadIdx.x / warp_size] = mine;
  __syncthreads();
  const int64_t row = place.first_row + thread.channel;
  if (threadIdx.x % of_channel != 0 || row >= march.conv.batch * march.conv.channels) return;
  for (int warp = 1; warp < of_channel / warp_size; ++warp) mine.merge(warps[threadIdx.x / warp_size + warp]);
  partials[row * march.slots + place.slot] = mine;
}

// CTAs on a multiprocessor that registers leave room for: one loads while another works.
template <int KD, int KH>
constexpr int ctas_at_once = KD == 1 && KH <= 3 ? 5
                             : KD <= 3          ? 4
                             : KD == 5          ? 3
                                                : 2;

template <typename T, int KD, int KH, int SZ, int SY>
__global__ void __launch_bounds__(depthwise_threads, ctas_at_once<KD, KH>)
    convolve_rows(const __grid_constant__ March march, int64_t first_group, Moments* partials) {
  constexpr bool flat = KD == 1;
  constexpr int kInFlight = (KD + SZ - 1) / SZ;  // target planes that one source plane adds to
  constexpr int kPadded = padded<KH>;
  constexpr int kColumn = (march_rows - 1) * SY + KH;
  const Convolution& conv = march.conv;
  const MarchPlace place(march, first_group, flat);
  const MarchThread thread(march);
  float* shared = reinterpret_cast<float*>(shared_memory());
  const int weights_of_channel = march.kernel_x * KD * kPadded;
  int* channel_offsets = reinterpret_cast<int*>(shared + (weights_of_channel << march.planes_log));
  float* buffers = shared + (weights_of_channel << march.planes_log) + march.channels;
  load_weights<T, KD, KH>(march, place, shared);
  const float* weights = shared + thread.channel * weights_of_channel;

  TileLoader<T, held<KH>> loader(march, place, channel_offsets);
  // Step s of the march: which source plane, and which row of it is the tile's first.
  const int steps = flat ? place.end - place.begin : (place.end - place.begin - 1) * SZ + KD;
  auto y_tile_of = [&](int s) { return flat ? (place.begin + s) % march.y_tiles : opaque(place.y_tile); };
  auto z_of = [&](int s) {
    if (flat) return (place.begin + s) / march.y_tiles * march.z_step - static_cast<int>(conv.padding[0]);
    return place.z_class - static_cast<int>(conv.padding[0]) + (place.begin * SZ + s) * march.z_step;
  };
  auto exists = [&](int s) { return static_cast<unsigned>(z_of(s)) < static_cast<unsigned>(conv.in[0]); };
  auto ask = [&](int s) {
    const int first = place.y_class - static_cast<int>(conv.padding[1]);
    if (s < steps && exists(s)) loader.ask(z_of(s), first + y_tile_of(s) * march.rows * SY * march.y_step);
  };
  auto store = [&](int s) {
    if (s < steps && exists(s)) loader.store(buffers + (s & 1) * march.tile_floats);
  };

  const int64_t row = place.first_row + thread.channel;
  const int x = place.x_tile * march.columns + thread.lane;
  const int height = static_cast<int>(conv.out[1]), width = static_cast<int>(conv.out[2]);
  const bool writes = row < conv.batch * conv.channels && x < width;
  T* target = static_cast<T*>(conv.target.data) + (writes ? row_offset(conv.target, conv.channels, row) + x : 0);
  const float bias = writes ? load_element(conv.bias, row % conv.channels, 0.0f) : 0.0f;
  const int column = (thread.channel * march.source_rows + thread.group * march_rows * SY) * march.source_columns +
                     thread.lane * march.stride_x;
  RunningMoments running;
  int count = 0;

  float sums[kInFlight][march_rows] = {};
  ask(0);
  store(0);
  __syncthreads();
  for (int s = 0; s < steps; ++s) {
    ask(s + 1);
    const int phase = SZ == 1 ? 0 : s % SZ;
    if (exists(s)) {
      const float* tile = buffers + (s & 1) * march.tile_floats + column;
#pragma unroll 1
      for (int kx = 0; kx < march.kernel_x; ++kx) {
        float values[kColumn];
#pragma unroll
        for (int i = 0; i < kColumn; ++i) values[i] = tile[i * march.source_columns + kx * march.dilation_x];
#pragma unroll
        for (int r = 0; r < kInFlight; ++r) {
          if (SZ > 1 && phase + r * SZ >= KD) continue;
          float w[kPadded];
          read_weights<KH>(weights + (kx * KD + phase + r * SZ) * kPadded, w);
#pragma unroll
          for (int i = 0; i < march_rows; ++i) {
#pragma unroll
            for (int k = 0; k < KH; ++k) sums[r][i] = fmaf(w[k], values[i * SY + k], sums[r][i]);
          }
        }
      }
    }
    if (SZ == 1 || phase == SZ - 1 || s == steps - 1) {
      const int done = place.begin + (flat ? s : s / SZ - (kInFlight - 1));
      if (done >= place.begin) {
        const int z = flat ? done / march.y_tiles : place.z_class + done * march.z_classes;
        const int first_y = place.y_class + (y_tile_of(s) * march.rows + thread.group * march_rows) * march.y_classes;
        T* at = target + (static_cast<int64_t>(z) * height + first_y) * width;
        T stored[march_rows];
#pragma unroll
        for (int i = 0; i < march_rows; ++i) {
          stored[i] = narrow<T>(sums[kInFlight - 1][i] + bias);
          if (writes && first_y + i * march.y_classes < height) *at = stored[i];
          at += opaque(march.y_classes * width);
        }
        if (partials != nullptr) {
#pragma unroll
          for (int i = 0; i < march_rows; ++i) {
            if (writes && first_y + i * march.y_classes < height) running.add(widen(stored[i]), count++);
          }
        }
      }
#pragma unroll
      for (int i = 0; i < march_rows; ++i) {
#pragma unroll
        for (int r = kInFlight - 1; r > 0; --r) sums[r][i] = sums[r - 1][i];
        sums[0][i] = 0;
      }
    }
    store(s + 1);
    __syncthreads();
  }
  if (partials != nullptr) leave_moments(march, place, thread, running.of(count), partials, shared);
}

}  // namespace

void convolve_march(const March& march, void* partials, void* stream, Site site) {
  site.kernel = "of rows";
  for_float_element(march.conv.source.type, [&](auto element) {
    using T = typename decltype(element)::type;
    for_march_kernel(march.conv, [&](auto kernel) {
      using K = decltype(kernel);
      const auto run = convolve_rows<T, K::depth, K::height, K::z_stride, K::y_stride>;
      kernel_limits(reinterpret_cast<const void*>(run), depthwise_threads, site);
      const int64_t most = max_grid / march.slots;
      for (int64_t first = 0; first < march.groups; first += most) {
        const int64_t groups = std::min(most, march.groups - first);
        const LaunchShape shape = {groups * march.slots, depthwise_threads, march.shared_floats * 4};
        launch(run, shape, stream, site, march, first, static_cast<Moments*>(partials));
      }
    });
  });
}

}  // namespace fastseg::cuda
