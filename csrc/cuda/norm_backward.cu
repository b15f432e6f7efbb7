// Backward of the norm family on CUDA, rows layout. With g' = grad through the activation, xhat = (x - mean) * rstd:
//   dbias = sum g', dweight = sum g' * xhat, dx = weight * rstd * (g' - dbias / S - xhat * dweight / S),
//   dresidual = g'. S is the number of elements of a row.
//
// Floors, with u = one pass over the tensor: 3u of bytes (grad and x read, dx written; 1u more for y where it decides
// the branch, 1u for dresidual), and about 16 operations an element: memory decides.
//
//   variant    grad, x (and y) of a row are held by   sums meet in              moves
//   registers  a warp or less (up to 2 KB of each)    shuffles                  3u
//   shared     a CTA (up to ~200 KB in all)           shared memory             3u
//              a cluster of 2..16 CTAs (up to ~3 MB)  distributed shared memory 3u
//              the same, up to a quarter more         likewise                  3u, the excess again from L2
//   stream     nobody                                 slots of partials         5u, less what apply finds in L2
//
// Grad and x are held as they came, and the branch is taken again from them: g' rounded to 16 bits would put a second
// rounding into dx. Streaming is as in norm_forward.cu: three plain kernels, apply in reverse order.
#include "fastseg/cuda/norm_launch.h"
#include "fastseg/cuda/norm_rows.cuh"

namespace fastseg::cuda {
namespace {

template <typename T, int N>
struct Inputs {
  Pack<T, N> grad, x, y;
};

// Where a row's tensors are, from pack `start` of it on.
template <typename T, int N>
struct RowPointers {
  using P = Pack<T, N>;
  const P *grad, *x, *y;  // y: nullptr where z decides the branch
  P *dx, *dresidual;      // dresidual: nullptr where it is not wanted

  __device__ RowPointers(const InstanceNormActBackward& args, int64_t row, int64_t start) {
    const int64_t batch = row / args.channels, channel = row % args.channels;
    grad = row_of<const P, const T>(args.grad, batch, channel) + start;
    x = row_of<const P, const T>(args.x, batch, channel) + start;
    y = args.y.data != nullptr ? row_of<const P, const T>(args.y, batch, channel) + start : nullptr;
    dx = row_of<P, T>(args.dx, batch, channel) + start;
    dresidual = args.dresidual.data != nullptr ? row_of<P, T>(args.dresidual, batch, channel) + start : nullptr;
  }

  __device__ Inputs<T, N> load(int index) const {
    Inputs<T, N> in;
    in.grad = grad[index];
    in.x = x[index];
    if (y != nullptr) in.y = y[index];
    return in;
  }
};

// What backward needs to know of a row before its sums.
template <typename C>
struct Row {
  Affine<C> affine;
  C rstd;
  ActivationOf<C> activation;

  __device__ Row(const InstanceNormActBackward& args, int64_t row) : activation(args.activation, args.negative_slope) {
    const int64_t channel = row % args.channels;
    rstd = static_cast<const C*>(args.rstd)[row];
    affine = {static_cast<const C*>(args.mean)[row], rstd * load_element(args.weight, channel, C(1)),
              load_element(args.bias, channel, C(0))};
  }

  // g' of element n.
  template <typename T, int N>
  __device__ C through_activation(const Inputs<T, N>& in, int n, bool has_y) const {
    const C sign = has_y ? in.y[n] : affine(in.x[n]);
    return activation.branch(in.grad[n], sign);
  }

  // sums += {g', g' * (x - mean)}; the second times rstd is dweight.
  template <typename T, int N>
  __device__ void add(C (&sums)[2], const Inputs<T, N>& in, bool has_y) const {
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const C g = through_activation(in, n, has_y);
      sums[0] += g;
      sums[1] = fma(g, in.x[n] - affine.mean, sums[1]);
    }
  }
};

// dx and dresidual, once the sums of the row are known.
template <typename C>
struct Apply {
  const Row<C>& row;
  C mean_of_grad;  // dbias / S
  C slope_of_x;    // rstd * dweight / S

  __device__ Apply(const Row<C>& of, C dbias, C dweight, int64_t spatial)
      : row(of),
        mean_of_grad(dbias / static_cast<C>(spatial)),
        slope_of_x(of.rstd * (dweight / static_cast<C>(spatial))) {}

  template <typename T, int N>
  __device__ void operator()(const RowPointers<T, N>& at, int index, const Inputs<T, N>& in) const {
    C dx[N], dresidual[N];
#pragma unroll
    for (int n = 0; n < N; ++n) {
      const C g = row.through_activation(in, n, at.y != nullptr);
      const C difference = in.x[n] - row.affine.mean;
      dx[n] = row.affine.scale * fma(-difference, slope_of_x, g - mean_of_grad);
      dresidual[n] = g;
    }
    at.dx[index] = Pack<T, N>::of(dx);
    if (at.dresidual != nullptr) at.dresidual[index] = Pack<T, N>::of(dresidual);
  }
};

template <typename C>
__device__ void write_sums(const InstanceNormActBackward& args, int64_t row, C dbias, C dweight) {
  static_cast<C*>(args.dbias)[row] = dbias;
  static_cast<C*>(args.dweight)[row] = dweight;
}

// One row per `lanes` neighbouring lanes, each of which holds up to register_packs packs of every tensor.
template <typename T, int N>
__global__ void __launch_bounds__(register_threads, 2)
    backward_in_registers(InstanceNormActBackward args, int64_t first_row, int64_t end_row, int lanes) {
  using C = compute_t<T>;
  const int64_t mine = first_row + (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) / lanes;
  const bool live = mine < end_row;
  const int64_t row = live ? mine : end_row - 1;  // lanes past the end stay for the shuffles, with no packs
  const int packs = live ? static_cast<int>(args.spatial / N) : 0;
  const int lane = threadIdx.x % lanes;
  const RowPointers<T, N> at(args, row, 0);

  constexpr int kHeld = register_packs<sizeof(T), N>;
  Inputs<T, N> held[kHeld];
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    if (lane + k * lanes < packs) held[k] = at.load(lane + k * lanes);
  }
  const Row<C> state(args, row);
  C sums[2] = {0, 0};
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    if (lane + k * lanes < packs) state.add(sums, held[k], at.y != nullptr);
  }
  const C dbias = lane_sum(sums[0], lanes);
  const C dweight = lane_sum(sums[1], lanes) * state.rstd;
  if (lane == 0 && live) write_sums(args, row, dbias, dweight);

  const Apply<C> apply(state, dbias, dweight, args.spatial);
#pragma unroll
  for (int k = 0; k < kHeld; ++k) {
    if (lane + k * lanes < packs) apply(at, lane + k * lanes, held[k]);
  }
}

// One row per CTA, or per cluster of `parts` CTAs. With `partials` the kernel only sums: it writes each part's sums to
// slots 2 * (row * parts + part) and leaves the rest to combine_sums and backward_stream.
template <typename T, int N>
__global__ void __launch_bounds__(largest_cta, ctas_at_once<T>)
    backward_in_shared(InstanceNormActBackward args, Partition partition, compute_t<T>* partials) {
  using C = compute_t<T>;
  using P = Pack<T, N>;
  Scratch<C>& scratch = *reinterpret_cast<Scratch<C>*>(shared_memory());
  P* held_grad = reinterpret_cast<P*>(shared_memory() + sizeof(Scratch<C>));
  P* held_x = held_grad + partition.resident_packs;
  P* held_y = held_x + partition.resident_packs;
  const int part = blockIdx.x % partition.parts;
  const int64_t row = partition.first_row + blockIdx.x / partition.parts;
  const int packs = partition.packs_of(part);
  const RowPointers<T, N> at(args, row, static_cast<int64_t>(part) * partition.part_packs);
  const Row<C> state(args, row);
  const bool has_y = at.y != nullptr;

  // A thread reads back only what it wrote itself, so the held packs need no barrier.
  C sums[2] = {0, 0};
  for_each_pack<batch_of_several<N>>(
      threadIdx.x, blockDim.x, packs, [&](int index) { return at.load(index); },
      [&](int index, const Inputs<T, N>& in) {
        if (index < partition.resident_packs) {
          held_grad[index] = in.grad;
          held_x[index] = in.x;
          if (has_y) held_y[index] = in.y;
        }
        state.add(sums, in, has_y);
      });
  block_sum(sums, scratch);

  if (partials != nullptr) {
    if (threadIdx.x == 0) {
      C* slot = partials + 2 * (row * partition.parts + part);
      slot[0] = sums[0];
      slot[1] = sums[1];
    }
    return;
  }
  if (partition.parts > 1) {
    cluster_exchange(sums[0], sums[1], partition.parts, scratch);
    sums[0] = 0;
    sums[1] = 0;
    for (int p = 0; p < partition.parts; ++p) {
      sums[0] += scratch.cluster[p][0];
      sums[1] += scratch.cluster[p][1];
    }
  }
  const C dbias = sums[0], dweight = sums[1] * state.rstd;
  if (part == 0 && threadIdx.x == 0) write_sums(args, row, dbias, dweight);

  const Apply<C> apply(state, dbias, dweight, args.spatial);
  for_each_pack<batch_of_several<N>>(
      threadIdx.x, blockDim.x, packs,
      [&](int index) {
        if (index >= partition.resident_packs) return at.load(index);
        Inputs<T, N> in;
        in.grad = held_grad[index];
        in.x = held_x[index];
        if (has_y) in.y = held_y[index];
        return in;
      },
      [&](int index, const Inputs<T, N>& in) { apply(at, index, in); });
  if (partition.parts > 1) cluster_leave();
}

// One CTA per row: its sums from the slots of its parts.
template <typename C>
__global__ void __launch_bounds__(largest_cta)
    combine_sums(InstanceNormActBackward args, Partition partition, const C* partials) {
  Scratch<C>& scratch = *reinterpret_cast<Scratch<C>*>(shared_memory());
  const int64_t row = partition.first_row + blockIdx.x;
  const C* slots = partials + 2 * row * partition.parts;
  C sums[2] = {0, 0};
  for (int p = threadIdx.x; p < partition.parts; p += blockDim.x) {
    sums[0] += slots[2 * p];
    sums[1] += slots[2 * p + 1];
  }
  block_sum(sums, scratch);
  if (threadIdx.x == 0) write_sums(args, row, sums[0], sums[1] * static_cast<const C*>(args.rstd)[row]);
}

// One CTA per part, the last part first.
template <typename T, int N>
__global__ void __launch_bounds__(largest_cta, ctas_at_once<T>)
    backward_stream(InstanceNormActBackward args, Partition partition) {
  using C = compute_t<T>;
  const unsigned tile = gridDim.x - 1 - blockIdx.x;
  const int part = tile % partition.parts;
  const int64_t row = partition.first_row + tile / partition.parts;
  const RowPointers<T, N> at(args, row, static_cast<int64_t>(part) * partition.part_packs);
  const Row<C> state(args, row);
  const Apply<C> apply(state, static_cast<const C*>(args.dbias)[row], static_cast<const C*>(args.dweight)[row],
                       args.spatial);
  for_each_pack<batch_of_several<N>>(
      threadIdx.x, blockDim.x, partition.packs_of(part), [&](int index) { return at.load(index); },
      [&](int index, const Inputs<T, N>& in) { apply(at, index, in); });
}

}  // namespace

void instance_norm_act_backward(const InstanceNormActBackward& args, void* workspace, void* stream) {
  const Site site = {"instance_norm_act_backward", args.batch, args.channels, args.spatial};
  const int64_t rows = args.batch * args.channels;
  if (rows == 0) return;
  if (args.spatial == 0) {  // sums of nothing
    const size_t bytes = static_cast<size_t>(rows) * (args.x.type == Element::float64 ? 8 : 4);
    check(cudaMemsetAsync(args.dweight, 0, bytes, static_cast<cudaStream_t>(stream)), site);
    check(cudaMemsetAsync(args.dbias, 0, bytes, static_cast<cudaStream_t>(stream)), site);
    return;
  }
  InstanceNormActBackward used = args;
  if (args.activation == Activation::none) used.y = View();  // there is no branch to decide
  const auto views = {used.grad, used.x, used.y, used.dx, used.dresidual};
  check_layout(used, site, views);
  const bool packs = rows_take_packs(args.batch, args.channels, args.spatial, views);
  for_element(args.x.type, packs, [&](auto element, auto width) {
    using T = typename decltype(element)::type;
    constexpr int N = decltype(width)::value;
    const int held_tensors = used.y ? 3 : 2;
    // Sums need one pass, so that streaming has nothing to hold while it takes them.
    const Kernels<InstanceNormActBackward, compute_t<T>> kernels = {backward_in_registers<T, N>,
                                                                    backward_in_shared<T, N>,
                                                                    combine_sums<compute_t<T>>,
                                                                    backward_stream<T, N>,
                                                                    held_tensors,
                                                                    false};
    run_rows<T, N>(used, kernels, workspace, stream, site);
  });
}

}  // namespace fastseg::cuda
