// Images as functions of the stereo side take them: bytes too, and rows that follow each other.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// The numbers of Element, and bytes.
enum class Pixel : int { float32 = 0, float64 = 1, bfloat16 = 2, float16 = 3, uint8 = 4 };

// A (batch, channels, height, width) tensor whose rows are dense and follow each other. Strides in elements.
struct Images {
  void* data = nullptr;
  Pixel type = Pixel::float32;
  int64_t batch_stride = 0;
  int64_t channel_stride = 0;
};

}  // namespace fastseg
