// What forward and backward of the norm family share on the device.
#pragma once
#include "fastseg/cuda/element.cuh"
#include "fastseg/cuda/reduce.cuh"
#include "fastseg/cuda/shared_memory.cuh"
#include "fastseg/norm.h"

namespace fastseg::cuda {

// Packs that a thread loads before it uses the first, by the tensors that are read: enough bytes in flight to hide the
// latency of device memory (two CTAs of 512 threads and two packs of 16 bytes are 32 KB a multiprocessor, an H100
// needs about 20), few enough to stay within 64 registers.
template <int N>
constexpr int batch_of_one = N == 1 ? 8 : 4;
template <int N>
constexpr int batch_of_several = N == 1 ? 4 : 2;

// CTAs of 512 threads that the compiler keeps a multiprocessor's registers free for. Doubles may take all of them.
template <typename T>
constexpr int ctas_at_once = sizeof(T) == 8 ? 1 : 2;

// How a kernel's CTAs share the rows: CTA i works on part i % parts of row first_row + i / parts.
struct Partition {
  int64_t first_row;
  int64_t packs;  // of one row
  int parts;
  int part_packs;
  int resident_packs;  // of a part: kept in shared memory
  int pack_elements;

  __device__ int packs_of(int part) const {
    const int64_t left = packs - static_cast<int64_t>(part) * part_packs;
    return static_cast<int>(left < 0 ? 0 : left < part_packs ? left : part_packs);
  }
  template <typename C>
  __device__ C elements_of(int part) const {
    return static_cast<C>(packs_of(part)) * static_cast<C>(pack_elements);
  }
};

// z of one channel. Forward and backward must agree to the last bit on where z <= 0, so both compute it here, from the
// mean and rstd that forward wrote, with the contraction spelled out.
template <typename C>
struct Affine {
  C mean, scale, bias;

  __device__ C operator()(C x) const { return fma(x - mean, scale, bias); }
};

// Comparisons are written so that NaN passes through.
template <typename C>
struct ActivationOf {
  bool relu;
  C slope;

  __device__ ActivationOf(Activation kind, double negative_slope)
      : relu(kind == Activation::relu), slope(kind == Activation::none ? C(1) : static_cast<C>(negative_slope)) {}

  // `value` as it leaves the branch that `sign` is on: forward act(z) = branch(z, z), backward g' = branch(g, z).
  // ReLU needs its own zero: a slope of 0 times an infinity would be NaN.
  __device__ C branch(C value, C sign) const { return sign <= C(0) ? (relu ? C(0) : value * slope) : value; }
};

}  // namespace fastseg::cuda
