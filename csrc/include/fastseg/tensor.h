// What every kernel is told of a tensor: a pointer, an element type and 64-bit strides. No torch here.
#pragma once
#include <cstdint>

namespace fastseg {

// The numbers are those of fastseg/backends/views.py.
enum class Element : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3 };

inline int64_t element_size(Element type) { return type == Element::float64 ? 8 : type == Element::float32 ? 4 : 2; }

// A (batch, channels, spatial) tensor: all spatial axes folded into one. Strides in elements.
// Kernels take two layouts: rows (spatial_stride 1) and channels-last (channel_stride 1).
struct View {
  void* data = nullptr;  // nullptr: the optional tensor is absent
  Element type = Element::float32;
  int64_t batch_stride = 0;
  int64_t channel_stride = 0;
  int64_t spatial_stride = 0;

  explicit operator bool() const { return data != nullptr; }
};

// A 1-D tensor over channels, such as an affine weight. Stride in elements.
struct Vector {
  void* data = nullptr;
  Element type = Element::float32;
  int64_t stride = 0;

  explicit operator bool() const { return data != nullptr; }
};

}  // namespace fastseg
