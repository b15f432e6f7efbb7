// Elements on the device: 16-byte packs, and arithmetic in float (double for double).
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "fastseg/tensor.h"

namespace fastseg::cuda {

// The type in which an element is computed with.
template <typename T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <typename T>
using compute_t = typename Compute<T>::type;

__device__ inline float widen(float value) { return value; }
__device__ inline double widen(double value) { return value; }
__device__ inline float widen(__nv_bfloat16 value) { return __bfloat162float(value); }
__device__ inline float widen(__half value) { return __half2float(value); }

template <typename T>
__device__ inline T narrow(compute_t<T> value) {
  return static_cast<T>(value);
}
template <>
__device__ inline __nv_bfloat16 narrow<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}
template <>
__device__ inline __half narrow<__half>(float value) {
  return __float2half_rn(value);
}

// N neighbouring elements, moved by one load or store.
template <typename T, int N>
struct alignas(sizeof(T) * N) Pack {
  T lane[N];

  __device__ compute_t<T> operator[](int n) const { return widen(lane[n]); }
  static __device__ Pack of(const compute_t<T> (&values)[N]) {
    Pack pack;
#pragma unroll
    for (int n = 0; n < N; ++n) pack.lane[n] = narrow<T>(values[n]);
    return pack;
  }
};

// 16-bit elements stay two to a word until they are used: as single elements the compiler gives each a register.
template <>
struct alignas(16) Pack<__nv_bfloat16, 8> {
  uint32_t pair[4];

  __device__ float operator[](int n) const {
    return __uint_as_float(n % 2 == 0 ? pair[n / 2] << 16 : pair[n / 2] & 0xffff0000u);
  }
  static __device__ Pack of(const float (&values)[8]) {
    Pack pack;
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const __nv_bfloat162 both = __floats2bfloat162_rn(values[n], values[n + 1]);
      memcpy(&pack.pair[n / 2], &both, 4);
    }
    return pack;
  }
};
template <>
struct alignas(16) Pack<__half, 8> {
  uint32_t pair[4];

  __device__ float operator[](int n) const {
    const uint32_t bits = n % 2 == 0 ? pair[n / 2] & 0xffffu : pair[n / 2] >> 16;
    return __half2float(__ushort_as_half(static_cast<unsigned short>(bits)));
  }
  static __device__ Pack of(const float (&values)[8]) {
    Pack pack;
#pragma unroll
    for (int n = 0; n < 8; n += 2) {
      const __half2 both = __floats2half2_rn(values[n], values[n + 1]);
      memcpy(&pack.pair[n / 2], &both, 4);
    }
    return pack;
  }
};

// The elements of a 16-byte pack.
template <typename T>
constexpr int pack_size = 16 / static_cast<int>(sizeof(T));

template <typename T>
struct Type {
  using type = T;
};
// Calls f(Type<T>) for an element type.
template <typename F>
void for_any_element(Element type, F f) {
  switch (type) {
    case Element::float32:
      return f(Type<float>());
    case Element::float64:
      return f(Type<double>());
    case Element::bfloat16:
      return f(Type<__nv_bfloat16>());
    case Element::float16:
      return f(Type<__half>());
  }
}

// The same for the types that are computed with in float.
template <typename F>
void for_float_element(Element type, F f) {
  for_any_element(type, [&](auto element) {
    using T = typename decltype(element)::type;
    if constexpr (!std::is_same_v<T, double>) f(element);
  });
}

// Element `index` of a 1-D tensor of any type, `absent` where there is none.
template <typename C>
__device__ inline C load_element(const Vector& vector, int64_t index, C absent) {
  if (vector.data == nullptr) return absent;
  const int64_t offset = index * vector.stride;
  switch (vector.type) {
    case Element::float32:
      return static_cast<C>(static_cast<const float*>(vector.data)[offset]);
    case Element::float64:
      return static_cast<C>(static_cast<const double*>(vector.data)[offset]);
    case Element::bfloat16:
      return static_cast<C>(widen(static_cast<const __nv_bfloat16*>(vector.data)[offset]));
    case Element::float16:
      return static_cast<C>(widen(static_cast<const __half*>(vector.data)[offset]));
  }
  return absent;
}

// The row of one (batch, channel), as packs. Rows layout: spatial_stride is 1.
template <typename P, typename T>
__device__ inline P* row_of(const View& view, int64_t batch, int64_t channel) {
  return reinterpret_cast<P*>(static_cast<T*>(view.data) + batch * view.batch_stride + channel * view.channel_stride);
}

// Visits packs first, first + stride, ... below count: loads kBatch of them before it uses the first, so that their
// latencies overlap. load(index) returns what use(index, loaded) is given.
template <int kBatch, typename Load, typename Use>
__device__ inline void for_each_pack(int first, int stride, int count, Load load, Use use) {
  for (int start = first; start < count; start += kBatch * stride) {
    decltype(load(0)) loaded[kBatch];
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (start + k * stride < count) loaded[k] = load(start + k * stride);
    }
#pragma unroll
    for (int k = 0; k < kBatch; ++k) {
      if (start + k * stride < count) use(start + k * stride, loaded[k]);
    }
  }
}

}  // namespace fastseg::cuda
