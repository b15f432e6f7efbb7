// Runs CUDA kernels on the host, for machines without a GPU: every thread of a cluster is a fiber, and a barrier or a
// shuffle yields to the others. It finds errors of indexing, partition and arithmetic, and code that not all threads
// of a barrier reach; it does not find races, since fibers only switch where the kernel synchronises.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#include <math.h>
#include <ucontext.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <vector>

#define __CUDA_ARCH__ 900  // after CUDA's headers, which would take it for a device compiler
#undef __global__
#undef __device__
#undef __launch_bounds__
#undef __grid_constant__
#define __global__
#define __device__
#define __launch_bounds__(...)
#define __grid_constant__

inline dim3 gridDim, blockDim;
using std::max;
using std::min;

namespace cuda_on_host {

// What the pretended device grants. Tests shrink it so that small rows take the paths of large ones.
struct Device {
  int number = 0, shared_bytes = 232448, shared_bytes_of_sm = 233472, multiprocessors = 132, cluster = 16;
};
inline Device device;

struct Launch {
  int cluster, shared_bytes;
};
inline std::vector<Launch> launches;  // since the test last cleared it

[[noreturn]] inline void fail(const char* why) {
  std::fprintf(stderr, "cuda_on_host: %s\n", why);
  std::exit(2);
}

struct Barrier {
  int members = 0, arrived = 0, generation = 0;
  void arrive() {
    if (++arrived == members) {
      arrived = 0;
      ++generation;
    }
  }
};
struct Warp {
  Barrier barrier;
  double lanes[32];
};
struct Cluster;
struct Cta {
  std::vector<unsigned char> shared;
  std::vector<Warp> warps;
  Barrier barrier;
  Cluster* cluster;
};
struct Cluster {
  std::vector<Cta> ctas;
  Barrier barrier;
};

struct Thread {
  ucontext_t context, *scheduler;
  std::unique_ptr<char[]> stack;
  Cta* cta;
  uint3 thread_index, block_index;
  int cluster_generation = -1;
  bool done = false;
  const std::function<void()>* body;

  void yield() { swapcontext(&context, scheduler); }
  void meet(Barrier& barrier) {
    const int generation = barrier.generation;
    barrier.arrive();
    while (barrier.generation == generation) yield();
  }
  void arrive() {
    if (cluster_generation >= 0) fail("two arrivals at the cluster's barrier without a wait");
    cluster_generation = cta->cluster->barrier.generation;
    cta->cluster->barrier.arrive();
  }
  void wait() {
    if (cluster_generation < 0) fail("a wait at the cluster's barrier without an arrival");
    while (cta->cluster->barrier.generation == cluster_generation) yield();
    cluster_generation = -1;
  }
  void* in_cta(int rank, void* address) {
    Cta& other = cta->cluster->ctas.at(rank);
    return other.shared.data() + (static_cast<unsigned char*>(address) - cta->shared.data());
  }
};
inline Thread* current = nullptr;

inline void enter() {
  (*current->body)();
  if (current->cluster_generation >= 0) fail("a thread left without waiting for its cluster");
  current->done = true;
  current->yield();
}

inline void run(const cudaLaunchConfig_t& config, const std::function<void()>& body) {
  const int size = config.numAttrs > 0 ? config.attrs[0].val.clusterDim.x : 1;
  const int threads = config.blockDim.x;
  if (size > device.cluster || config.gridDim.x % size != 0) fail("this cluster cannot be launched");
  if (static_cast<int>(config.dynamicSmemBytes) > device.shared_bytes) fail("too much shared memory");
  if (threads % 32 != 0 || threads > 1024 || config.gridDim.x == 0) fail("this grid cannot be launched");
  launches.push_back({size, static_cast<int>(config.dynamicSmemBytes)});
  gridDim = config.gridDim;
  blockDim = config.blockDim;
  constexpr size_t stack_bytes = 32 * 1024;
  ucontext_t scheduler;
  for (unsigned first = 0; first < config.gridDim.x; first += size) {
    Cluster cluster;
    cluster.ctas.resize(size);
    cluster.barrier.members = size * threads;
    std::vector<Thread> fibers(static_cast<size_t>(size) * threads);
    for (int rank = 0; rank < size; ++rank) {
      Cta& cta = cluster.ctas[rank];
      cta.shared.assign(config.dynamicSmemBytes, 0xff);  // NaN
      cta.warps.resize(threads / 32);
      for (Warp& warp : cta.warps) warp.barrier.members = 32;
      cta.barrier.members = threads;
      cta.cluster = &cluster;
      for (int t = 0; t < threads; ++t) {
        Thread& fiber = fibers[rank * threads + t];
        fiber.cta = &cta;
        fiber.thread_index = {static_cast<unsigned>(t), 0, 0};
        fiber.block_index = {first + rank, 0, 0};
        fiber.body = &body;
        fiber.scheduler = &scheduler;
        fiber.stack.reset(new char[stack_bytes]);
        getcontext(&fiber.context);
        fiber.context.uc_stack.ss_sp = fiber.stack.get();
        fiber.context.uc_stack.ss_size = stack_bytes;
        fiber.context.uc_link = nullptr;
        makecontext(&fiber.context, enter, 0);
      }
    }
    size_t left = fibers.size();
    for (int round = 0; left > 0; ++round) {
      if (round > 100000) fail("some threads wait at a barrier that the others never reach");
      for (Thread& fiber : fibers) {
        if (fiber.done) continue;
        current = &fiber;
        swapcontext(&scheduler, &fiber.context);
        if (fiber.done) --left;
      }
    }
  }
}

template <typename... Parameters, typename... Arguments>
cudaError_t launch(const cudaLaunchConfig_t* config, void (*kernel)(Parameters...), Arguments&&... arguments) {
  run(*config, [&] { kernel(arguments...); });
  return cudaSuccess;
}

template <typename T>
T shuffle_xor(T value, int offset) {
  const int lane = current->thread_index.x % 32;
  Warp& warp = current->cta->warps[current->thread_index.x / 32];
  warp.lanes[lane] = value;
  current->meet(warp.barrier);
  const T other = static_cast<T>(warp.lanes[lane ^ offset]);
  current->meet(warp.barrier);
  return other;
}

template <typename T>
T shuffle_up(T value, int offset) {
  const int lane = current->thread_index.x % 32;
  Warp& warp = current->cta->warps[current->thread_index.x / 32];
  warp.lanes[lane] = value;
  current->meet(warp.barrier);
  const T other = lane < offset ? value : static_cast<T>(warp.lanes[lane - offset]);
  current->meet(warp.barrier);
  return other;
}

}  // namespace cuda_on_host

#define threadIdx (cuda_on_host::current->thread_index)
#define blockIdx (cuda_on_host::current->block_index)
#define __syncthreads() cuda_on_host::current->meet(cuda_on_host::current->cta->barrier)
#define __syncwarp() cuda_on_host::current->meet(cuda_on_host::current->cta->warps[threadIdx.x / 32].barrier)
#define __shfl_xor_sync(mask, value, offset) cuda_on_host::shuffle_xor(value, offset)
#define __shfl_up_sync(mask, value, offset) cuda_on_host::shuffle_up(value, offset)
#define cudaLaunchKernelEx cuda_on_host::launch

inline float __fmul_rn(float a, float b) { return a * b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

// The runtime API, as far as fastseg/cuda/launch.h asks it.
extern "C" {
inline cudaError_t cudaGetDevice(int* number) { return *number = cuda_on_host::device.number, cudaSuccess; }
inline cudaError_t cudaGetLastError() { return cudaSuccess; }
inline const char* cudaGetErrorString(cudaError_t) { return "error"; }
inline cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
inline cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
inline cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  attributes->sharedSizeBytes = 0;
  attributes->ptxVersion = 90;
  return cudaSuccess;
}
inline cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  switch (attribute) {
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = cuda_on_host::device.shared_bytes;
      break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor:
      *value = cuda_on_host::device.shared_bytes_of_sm;
      break;
    case cudaDevAttrReservedSharedMemoryPerBlock:
      *value = 1024;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = cuda_on_host::device.multiprocessors;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = 9;
      break;
    case cudaDevAttrClusterLaunch:
      *value = 1;
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaSuccess;
}
inline cudaError_t cudaOccupancyMaxActiveClusters(int* count, const void*, const cudaLaunchConfig_t* config) {
  *count = static_cast<int>(config->attrs[0].val.clusterDim.x) <= cuda_on_host::device.cluster ? 1 : 0;
  return cudaSuccess;
}
}
