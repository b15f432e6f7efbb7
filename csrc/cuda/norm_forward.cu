// Forward of the norm family on CUDA: y = act((x - mean) * rstd * weight + bias + residual), rows layout.
//
// Floors, with u = one pass over the tensor: 2u of bytes (x read, y written; 3u with a residual), and about 12
// operations an element, a third of what an H100 can issue while 2 bytes of it move: memory decides.
//
//   variant    a row is held by                       statistics meet in        moves
//   registers  a warp or less (up to 2 KB)            shuffles                  2u
//   shared     a CTA (up to ~200 KB)                  shared memory             2u
//              a cluster of 2..16 CTAs (up to ~3 MB)  distributed shared memory 2u
//              the same, up to a quarter more         likewise                  2u, the excess twice more from L2
//   stream     nobody                                 slots of partials         3u, less what apply finds in L2
//
// Streaming takes three plain kernels over all rows: moments per part, their combination per row, apply. Apply walks
// in reverse order, so that it starts with what moments left in L2. Launching such a triple for every group of rows
// that fits L2 was rejected by arithmetic: 25 MB, half of an H100's L2, take 8 us a pass at 3 TB/s, so that a group
// saves at most 8 us of 25, and draining and filling the device three times costs about as much. Plain kernels need no
// co-residency, cannot deadlock, and record into CUDA graphs.
//
// Variance: the mean first, then squares of differences, of a part that is still on chip; parts combine by count, mean
// and squares (Chan). Sums run over x - x[0], so that a mean far from zero costs no digits before it is rounded.
#include "fastseg/cuda/norm_launch.h"
#include "fastseg/cuda/norm_rows.cuh"

namespace fastseg::cuda {
namespace {

// A row's weight and bias, loaded before its statistics are known so that nothing waits for them afterwards.
template <typename C>
struct Channel {
  C weight, bias;

  __device__ Channel(const InstanceNormActForward& args, int64_t row)
      : weight(load_element(args.weight, row % args.channels, C(1))),
        bias(load_element(args.bias, row % args.channels, C(0))) {}
};

// From the statistics of one row, `delta` its mean less its first element and `squares` the sum of squared differences:
// writes mean and rstd from one thread, returns what normalises the row from all.
template <typename C>
__device__ Affine<C> finish_row(const InstanceNormActForward& args, int64_t row, const Channel<C>& channel, C shift,
                                C delta, C squares, bool writes) {
  const C mean = shift + delta;
  const C rstd = C(1) / sqrt(squares / static_cast<C>(args.spatial) + static_cast<C>(args.eps));
  if (writes) {
    static_cast<C*>(args.mean)[row] = mean;
    static_cast<C*>(args.rstd)[row] = rstd;
  }
  return {mean, rstd * channel.weight, channel.bias};
}

template <typename T, int N>
struct Inputs {
  Pack<T, N> x, residual;
};

template <typename T, int N, typename C>
__device__ Pack<T, N> normalise(const Inputs<T, N>& in, bool has_residual, const Affine<C>& affine,
                                const ActivationOf<C>& activation) {
  C y[N];
#pragma unroll
  for (int n = 0; n < N; ++n) {
    C z = affine(in.x[n]);
    if (has_residual) z += in.residual[n];
    y[n] = activation.branch(z, z);
  }
  return Pack<T, N>::of(y);
}

// Sum of (x - shift) over a pack, and of its squares about delta.
template <typename C, typename T, int N>
__device__ C sum_of(const Pack<T, N>& x, C shift) {
  C sum = 0;
#pragma unroll
  for (int n = 0; n < N; ++n) sum += x[n] - shift;
  return sum;
}
template <typename C, typename T, int N>
__device__ C squares_of(const Pack<T, N>& x, C shift, C delta) {
  C squares = 0;
#pragma unroll
  for (int n = 0; n < N; ++n) {
    const C difference = (x[n] - shift) - delta;
    squares = fma(difference, difference, squares);
  }
  return squares;
}

// One row per `lanes` neighbouring lanes, each of which holds up to register_packs packs of it.
template <typename T, int N>
__global__ void __launch_bounds__(register_threads, 2)
    forward_in_registers(InstanceNormActForward args, int64_t first_row, int64_t end_row, int lanes) {
  using C = compute_t<T>;
  using P = Pack<T, N>;
  const int64_t mine = first_row + (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;
  const bool live = mine < end_row;
  const int64_t row = live ? mine : end_row - 1;  // lanes past the end stay for the shuffles, with no packs
  const int64_t batch = row / args.channels, channel = row % args.channels;
  const int packs = live ? static_cast<int>(args.spatial / N) : 0;
  const int lane = threadIdx.x % lanes;
  const P* x = row_of<const P, const T>(args.x, batch, channel);
  const bool has_residual = args.residual.data != nullptr;
  const P* residual = has_residual ? row_of<const P, const T>(args.residual, batch, channel) : nullptr;
  P* y = row_of<P, T>(args.y, batch, channel);

  constexpr int kHeld = register_packs<sizeof(T), N>;
  Inputs<T, N> held[kHeld];
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int index = lane + k * lanes;
    if (index < packs) {
      held[k].x = x[index];
      if (has_residual) held[k].residual = residual[index];
    }
  }
  const C shift = widen(*reinterpret_cast<const T*>(x));
  const Channel<C> weight_and_bias(args, row);
  C sum = 0;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    if (lane + k * lanes < packs) sum += sum_of(held[k].x, shift);
  }
  const C delta = lane_sum(sum, lanes) / static_cast<C>(args.spatial);
  C squares = 0;
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    if (lane + k * lanes < packs) squares += squares_of(held[k].x, shift, delta);
  }
  squares = lane_sum(squares, lanes);

  const Affine<C> affine = finish_row(args, row, weight_and_bias, shift, delta, squares, lane == 0 && live);
  const ActivationOf<C> activation(args.activation, args.negative_slope);
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    const int index = lane + k * lanes;
    if (index < packs) y[index] = normalise(held[k], has_residual, affine, activation);
  }
}

// One row per CTA, or per cluster of `parts` CTAs. With `partials` the kernel only measures: it writes each part's
// delta and squares to slots 2 * (row * parts + part) and leaves the rest to combine_moments and forward_stream.
template <typename T, int N>
__global__ void __launch_bounds__(largest_cta, ctas_at_once<T>)
    forward_in_shared(InstanceNormActForward args, Partition partition, compute_t<T>* partials) {
  using C = compute_t<T>;
  using P = Pack<T, N>;
  Scratch<C>& scratch = *reinterpret_cast<Scratch<C>*>(shared_memory());
  P* held = reinterpret_cast<P*>(shared_memory() + sizeof(Scratch<C>));
  const int part = blockIdx.x % partition.parts;
  const int64_t row = partition.first_row + blockIdx.x / partition.parts;
  const int64_t batch = row / args.channels, channel = row % args.channels;
  const int packs = partition.packs_of(part);
  const int64_t start = static_cast<int64_t>(part) * partition.part_packs;
  const P* x = row_of<const P, const T>(args.x, batch, channel) + start;
  const C shift = widen(*row_of<const T, const T>(args.x, batch, channel));  // the same for all parts of a row
  const Channel<C> weight_and_bias(args, row);

  // A thread reads back only what it wrote itself, so `held` needs no barrier.
  auto held_or_again = [&](int index) { return index < partition.resident_packs ? held[index] : x[index]; };
  C sum = 0;
  for_each_pack<batch_of_one<N>>(
      threadIdx.x, blockDim.x, packs, [&](int index) { return x[index]; },
      [&](int index, const P& pack) {
        if (index < partition.resident_packs) held[index] = pack;
        sum += sum_of(pack, shift);
      });
  C delta = block_sum(sum, scratch) / static_cast<C>(packs > 0 ? packs * N : 1);
  C squares = 0;
  for_each_pack<batch_of_one<N>>(threadIdx.x, blockDim.x, packs, held_or_again,
                                 [&](int, const P& pack) { squares += squares_of(pack, shift, delta); });
  squares = block_sum(squares, scratch);

  if (partials != nullptr) {
    if (threadIdx.x == 0) {
      C* slot = partials + 2 * (row * partition.parts + part);
      slot[0] = delta;
      slot[1] = squares;
    }
    return;
  }
  if (partition.parts > 1) {
    cluster_exchange(delta, squares, partition.parts, scratch);
    delta = 0;
    squares = 0;
    for (int p = 0; p < partition.parts; ++p) {
      delta += scratch.cluster[p][0] * (partition.elements_of<C>(p) / static_cast<C>(args.spatial));
    }
    for (int p = 0; p < partition.parts; ++p) {
      const C between = scratch.cluster[p][0] - delta;
      squares += scratch.cluster[p][1] + partition.elements_of<C>(p) * between * between;
    }
  }

  const bool writes = part == 0 && threadIdx.x == 0;
  const Affine<C> affine = finish_row(args, row, weight_and_bias, shift, delta, squares, writes);
  const ActivationOf<C> activation(args.activation, args.negative_slope);
  const bool has_residual = args.residual.data != nullptr;
  const P* residual = has_residual ? row_of<const P, const T>(args.residual, batch, channel) + start : nullptr;
  P* y = row_of<P, T>(args.y, batch, channel) + start;
  for_each_pack<batch_of_several<N>>(
      threadIdx.x, blockDim.x, packs,
      [&](int index) {
        Inputs<T, N> in;
        in.x = held_or_again(index);
        if (has_residual) in.residual = residual[index];
        return in;
      },
      [&](int index, const Inputs<T, N>& in) { y[index] = normalise(in, has_residual, affine, activation); });
  if (partition.parts > 1) cluster_leave();
}

// One CTA per row: mean and rstd from the slots of its parts.
template <typename T>
__global__ void __launch_bounds__(largest_cta)
    combine_moments(InstanceNormActForward args, Partition partition, const compute_t<T>* partials) {
  using C = compute_t<T>;
  Scratch<C>& scratch = *reinterpret_cast<Scratch<C>*>(shared_memory());
  const int64_t row = partition.first_row + blockIdx.x;
  const C* slots = partials + 2 * row * partition.parts;
  C delta = 0;
  for (int p = threadIdx.x; p < partition.parts; p += blockDim.x) {
    delta += slots[2 * p] * (partition.elements_of<C>(p) / static_cast<C>(args.spatial));
  }
  delta = block_sum(delta, scratch);
  C squares = 0;
  for (int p = threadIdx.x; p < partition.parts; p += blockDim.x) {
    const C between = slots[2 * p] - delta;
    squares += slots[2 * p + 1] + partition.elements_of<C>(p) * between * between;
  }
  squares = block_sum(squares, scratch);
  const C shift = widen(*row_of<const T, const T>(args.x, row / args.channels, row % args.channels));
  finish_row(args, row, Channel<C>(args, row), shift, delta, squares, threadIdx.x == 0);
}

// One CTA per part, the last part first.
template <typename T, int N>
__global__ void __launch_bounds__(largest_cta, ctas_at_once<T>)
    forward_stream(InstanceNormActForward args, Partition partition) {
  using C = compute_t<T>;
  using P = Pack<T, N>;
  const unsigned tile = gridDim.x - 1 - blockIdx.x;
  const int part = tile % partition.parts;
  const int64_t row = partition.first_row + tile / partition.parts;
  const int64_t batch = row / args.channels, channel = row % args.channels;
  const int64_t start = static_cast<int64_t>(part) * partition.part_packs;
  const P* x = row_of<const P, const T>(args.x, batch, channel) + start;
  const bool has_residual = args.residual.data != nullptr;
  const P* residual = has_residual ? row_of<const P, const T>(args.residual, batch, channel) + start : nullptr;
  P* y = row_of<P, T>(args.y, batch, channel) + start;
  const Channel<C> weight_and_bias(args, row);
  const Affine<C> affine = {static_cast<const C*>(args.mean)[row],
                            static_cast<const C*>(args.rstd)[row] * weight_and_bias.weight, weight_and_bias.bias};
  const ActivationOf<C> activation(args.activation, args.negative_slope);
  for_each_pack<batch_of_several<N>>(
      threadIdx.x, blockDim.x, partition.packs_of(part),
      [&](int index) {
        Inputs<T, N> in;
        in.x = x[index];
        if (has_residual) in.residual = residual[index];
        return in;
      },
      [&](int index, const Inputs<T, N>& in) { y[index] = normalise(in, has_residual, affine, activation); });
}

// y from statistics that another kernel gathered: the last kernel of a streamed row alone.
template <typename T, int N>
void apply_rows(const InstanceNormActForward& args, void* stream, Site site) {
  site.kernel = "with given statistics";
  Partition partition;
  partition.packs = args.spatial / N;
  partition.part_packs = static_cast<int>(stream_part_bytes / sizeof(Pack<T, N>));
  partition.parts = static_cast<int>(divide_up(partition.packs, partition.part_packs));
  partition.resident_packs = 0;
  partition.pack_elements = N;
  const int threads = threads_for(std::min<int64_t>(partition.packs, partition.part_packs));
  for_row_groups(args.batch * args.channels, partition.parts, [&](int64_t first, int64_t count) {
    partition.first_row = first;
    const LaunchShape shape = {count * partition.parts, threads};
    launch(forward_stream<T, N>, shape, stream, site, args, partition);
  });
}

}  // namespace

void instance_norm_act_forward(const InstanceNormActForward& args, void* workspace, void* stream) {
  const Site site = {"instance_norm_act_forward", args.batch, args.channels, args.spatial};
  const int64_t rows = args.batch * args.channels;
  if (rows == 0) return;
  if (args.spatial == 0 && args.statistics_given) return;
  if (args.spatial == 0) {  // the statistics of nothing are NaN: all bits set, in either type
    const size_t bytes = static_cast<size_t>(rows) * (args.x.type == Element::float64 ? 8 : 4);
    check(cudaMemsetAsync(args.mean, 0xff, bytes, static_cast<cudaStream_t>(stream)), site);
    check(cudaMemsetAsync(args.rstd, 0xff, bytes, static_cast<cudaStream_t>(stream)), site);
    return;
  }
  check_layout(args, site, {args.x, args.residual, args.y});
  const bool packs = rows_take_packs(args.batch, args.channels, args.spatial, {args.x, args.residual, args.y});
  for_element(args.x.type, packs, [&](auto element, auto width) {
    using T = typename decltype(element)::type;
    constexpr int N = decltype(width)::value;
    if (args.statistics_given) return apply_rows<T, N>(args, stream, site);
    const Kernels<InstanceNormActForward, compute_t<T>> kernels = {
        forward_in_registers<T, N>, forward_in_shared<T, N>, combine_moments<T>, forward_stream<T, N>, 1, true};
    run_rows<T, N>(args, kernels, workspace, stream, site);
  });
}

// Two numbers for each part of each row that is streamed. Rows of up to 16 KB never are: three tensors of them fit the
// shared memory that any device grants a CTA.
int64_t instance_norm_act_workspace(int64_t batch, int64_t channels, int64_t spatial, Element type) {
  const int64_t row_bytes = spatial * element_size(type);
  if (row_bytes <= 16 * 1024) return 0;
  return batch * channels * divide_up(row_bytes, stream_part_bytes) * 2 * (type == Element::float64 ? 8 : 4);
}

}  // namespace fastseg::cuda
