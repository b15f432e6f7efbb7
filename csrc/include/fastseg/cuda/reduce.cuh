// Sums over lanes and CTAs, and the exchange of values between the CTAs of a cluster. The order of every sum is fixed
// by the launch alone, so results repeat bit for bit.
#pragma once
#include <cooperative_groups.h>

namespace fastseg::cuda {

constexpr int warp_size = 32;
constexpr int max_cluster = 16;

// Sums over groups of `lanes` neighbouring lanes (a power of two up to 32); every lane gets its group's sum. All 32
// lanes take part. Both partners of an exchange add the same two numbers, so all lanes hold the same bits.
template <typename C>
__device__ inline C lane_sum(C value, int lanes) {
  for (int offset = lanes / 2; offset > 0; offset /= 2) value += __shfl_xor_sync(0xffffffffu, value, offset);
  return value;
}

// What a CTA needs beside its rows, at the start of shared memory.
template <typename C>
struct alignas(16) Scratch {
  C warp[32][2];              // one pair per warp
  C own[2];                   // what this CTA tells its cluster
  C cluster[max_cluster][2];  // what the cluster's CTAs told, by rank
};

// Sums over the CTA; every thread gets all. blockDim.x is a multiple of 32, and all threads take part.
template <typename C, int K>
__device__ inline void block_sum(C (&values)[K], Scratch<C>& scratch) {
  static_assert(K <= 2, "Scratch holds pairs");
  const int warp = threadIdx.x / warp_size;
#pragma unroll
  for (int k = 0; k < K; ++k) values[k] = lane_sum(values[k], warp_size);
  __syncthreads();  // an earlier sum may still be being read
  if (threadIdx.x % warp_size == 0) {
#pragma unroll
    for (int k = 0; k < K; ++k) scratch.warp[warp][k] = values[k];
  }
  __syncthreads();
#pragma unroll
  for (int k = 0; k < K; ++k) values[k] = 0;
  for (int w = 0; w < static_cast<int>(blockDim.x) / warp_size; ++w) {
#pragma unroll
    for (int k = 0; k < K; ++k) values[k] += scratch.warp[w][k];
  }
}

template <typename C>
__device__ inline C block_sum(C value, Scratch<C>& scratch) {
  C values[1] = {value};
  block_sum(values, scratch);
  return values[0];
}

// Gives this CTA's pair to the cluster's `parts` CTAs and fills scratch.cluster with theirs. All threads of all CTAs
// of the cluster call it once, and cluster_leave() before they exit. Does nothing below sm_90: the host never launches
// a cluster there.
template <typename C>
__device__ inline void cluster_exchange(C first, C second, int parts, Scratch<C>& scratch) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  auto cluster = cooperative_groups::this_cluster();
  if (threadIdx.x == 0) {
    scratch.own[0] = first;
    scratch.own[1] = second;
  }
  __syncwarp();  // the barrier's instructions want whole warps
  cluster.sync();
  if (static_cast<int>(threadIdx.x) < parts) {
    const C* remote = cluster.map_shared_rank(scratch.own, threadIdx.x);
    scratch.cluster[threadIdx.x][0] = remote[0];
    scratch.cluster[threadIdx.x][1] = remote[1];
  }
  __syncthreads();
  cluster.barrier_arrive();  // this CTA has read what it needs; cluster_leave() waits for the others
#endif
}

// A CTA's shared memory must outlive its neighbours' reads.
__device__ inline void cluster_leave() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  __syncwarp();
  cooperative_groups::this_cluster().barrier_wait();
#endif
}

}  // namespace fastseg::cuda
