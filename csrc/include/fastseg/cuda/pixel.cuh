// Pixels on the device: the elements of element.cuh, and bytes.
#pragma once
#include "fastseg/cuda/element.cuh"
#include "fastseg/images.h"

namespace fastseg::cuda {

__device__ inline float widen(uint8_t value) { return static_cast<float>(value); }

template <>
__device__ inline uint8_t narrow<uint8_t>(float value) {
  return static_cast<uint8_t>(fminf(fmaxf(rintf(value), 0.0f), 255.0f));
}

// Calls f(Type<T>) for a pixel type.
template <typename F>
void for_any_pixel(Pixel type, F f) {
  if (type == Pixel::uint8) return f(Type<uint8_t>());
  for_any_element(static_cast<Element>(type), f);
}

}  // namespace fastseg::cuda
