// Launching a kernel: what the device allows, the launch itself, and errors that name kernel and shape.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <utility>

namespace fastseg::cuda {

// Where an error happened: the op, the (batch, channels, spatial) it was called with, and its kernel if that is known.
struct Site {
  const char* op;
  int64_t batch, channels, spatial;
  const char* kernel = "before its launch";
};

inline void check(cudaError_t status, const Site& site) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the next call must not find this error again, where it can be cleared
  throw std::runtime_error(std::string(site.op) + " of (" + std::to_string(site.batch) + ", " +
                           std::to_string(site.channels) + ", " + std::to_string(site.spatial) + ") " + site.kernel +
                           ": " + cudaGetErrorString(status));
}

// What one kernel may use on the current device.
struct KernelLimits {
  int shared_bytes = 0;           // dynamic shared memory of one CTA
  int shared_bytes_of_sm = 0;     // of all CTAs on one multiprocessor
  int reserved_bytes_of_cta = 0;  // what the system takes of that for each CTA
  int multiprocessors = 0;
  int cluster = 1;  // the largest cluster whose CTAs all use shared_bytes: 1, 2, 4, 8 or 16
};

// Asked once per kernel and device. Raises the kernel's limit of dynamic shared memory to the device's as it does so.
// `largest_cta` is the most threads it will be launched with.
inline KernelLimits kernel_limits(const void* kernel, int largest_cta, const Site& site) {
  static std::mutex mutex;
  static std::map<std::pair<const void*, int>, KernelLimits> known;
  int device = 0;
  check(cudaGetDevice(&device), site);
  std::lock_guard<std::mutex> lock(mutex);
  const auto found = known.find({kernel, device});
  if (found != known.end()) return found->second;

  auto ask = [&](cudaDeviceAttr attribute) {
    int value = 0;
    check(cudaDeviceGetAttribute(&value, attribute, device), site);
    return value;
  };
  KernelLimits limits;
  cudaFuncAttributes attributes = {};
  check(cudaFuncGetAttributes(&attributes, kernel), site);
  limits.shared_bytes = ask(cudaDevAttrMaxSharedMemoryPerBlockOptin) - static_cast<int>(attributes.sharedSizeBytes);
  limits.shared_bytes_of_sm = ask(cudaDevAttrMaxSharedMemoryPerMultiprocessor);
  limits.reserved_bytes_of_cta = ask(cudaDevAttrReservedSharedMemoryPerBlock);
  limits.multiprocessors = ask(cudaDevAttrMultiProcessorCount);
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limits.shared_bytes), site);

  // Code built for sm_80 has no cluster instructions, also where a newer device runs it.
  if (ask(cudaDevAttrComputeCapabilityMajor) >= 9 && ask(cudaDevAttrClusterLaunch) && attributes.ptxVersion >= 90) {
    // Sizes above 8 need leave, and a device may refuse it.
    if (cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) != cudaSuccess) {
      cudaGetLastError();
    }
    for (int size = 16; size > 1 && limits.cluster == 1; size /= 2) {
      cudaLaunchAttribute cluster = {};
      cluster.id = cudaLaunchAttributeClusterDimension;
      cluster.val.clusterDim.x = size;
      cluster.val.clusterDim.y = 1;
      cluster.val.clusterDim.z = 1;
      cudaLaunchConfig_t config = {};
      config.gridDim = dim3(size);
      config.blockDim = dim3(largest_cta);
      config.dynamicSmemBytes = limits.shared_bytes;
      config.attrs = &cluster;
      config.numAttrs = 1;
      int resident = 0;
      if (cudaOccupancyMaxActiveClusters(&resident, kernel, &config) != cudaSuccess) {
        cudaGetLastError();
        resident = 0;
      }
      if (resident > 0) limits.cluster = size;
    }
  }
  known[{kernel, device}] = limits;
  return limits;
}

struct LaunchShape {
  int64_t ctas;
  int threads;
  int64_t shared_bytes = 0;
  int cluster = 1;  // CTAs of one cluster; divides `ctas`
};

// Grids run along x only, which allows 2^31 - 1 CTAs.
constexpr int64_t max_grid = 2147483647;

template <typename... Parameters, typename... Arguments>
void launch(void (*kernel)(Parameters...), const LaunchShape& shape, void* stream, const Site& site,
            Arguments&&... arguments) {
  cudaLaunchAttribute cluster = {};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim.x = shape.cluster;
  cluster.val.clusterDim.y = 1;
  cluster.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(shape.ctas));
  config.blockDim = dim3(static_cast<unsigned>(shape.threads));
  config.dynamicSmemBytes = static_cast<size_t>(shape.shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cluster;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  check(cudaLaunchKernelEx(&config, kernel, std::forward<Arguments>(arguments)...), site);
  check(cudaGetLastError(), site);
}

}  // namespace fastseg::cuda
