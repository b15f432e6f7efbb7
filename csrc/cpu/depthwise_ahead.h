// Memory that a depthwise convolution will read next, brought into the cache while it computes.
//
// A few lines between multiply-adds at a time: many at once take all buffers that loads of the window need, too, and
// gain nothing. Fetches never fault, so they may go past the end of a tensor.
#pragma once
#include <cstdint>

namespace fastseg::FASTSEG_ISA {

// Rows of pixels; strides in bytes.
struct Ahead {
  const char* at = nullptr;  // nullptr: nothing is known of what comes next
  int64_t row = 0, pixel = 0, element = 0;

  // N pixels of a row from x on, `apart` pixels from one to the next.
  template <int N>
  __attribute__((always_inline)) void fetch(int64_t r, int64_t x, int64_t apart, int64_t channel = 0) const {
    if (!at) return;
    const char* from = at + r * row + x * pixel + channel * element;
#pragma GCC unroll 8
    for (int i = 0; i < N; ++i, from += apart * pixel) __builtin_prefetch(from, 0, 2);
  }

  // The same from another row on.
  Ahead from(int64_t r) const { return at ? Ahead{at + r * row, row, pixel, element} : Ahead{}; }
};

// From `first` on, if that is not nullptr; strides in elements.
template <class T>
inline Ahead ahead(const T* first, int64_t row, int64_t pixel) {
  constexpr int64_t size = sizeof(T);
  return {reinterpret_cast<const char*>(first), row * size, pixel * size, size};
}

}  // namespace fastseg::FASTSEG_ISA
