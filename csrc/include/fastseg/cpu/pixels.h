// Pixels of images: bytes beside the floating point types of vec.h, and rows with edges.
#pragma once
#include "fastseg/cpu/vec.h"
#include "fastseg/images.h"

namespace fastseg::FASTSEG_ISA {

// Calls body with a value of the pixel's type.
template <class Body>
inline void with_pixel(Pixel type, const Body& body) {
  if (type == Pixel::uint8)
    body(uint8_t{});
  else
    with_element(static_cast<Element>(type), body);
}

typedef uint8_t ByteVec __attribute__((vector_size(vector_bytes / 4)));

inline float load_one(const uint8_t* p) { return float(*p); }
// Compilers widen bytes one by one.
inline Vec<float> load(const uint8_t* p) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)));
#elif defined(__AVX2__)
  return (Vec<float>)_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)));
#else
  ByteVec bytes;
  std::memcpy(&bytes, p, sizeof bytes);
  return __builtin_convertvector(__builtin_convertvector(bytes, WordVec), Vec<float>);
#endif
}

// For values that bytes have.
inline void store_one(uint8_t* p, float value) { *p = uint8_t(value); }

// Rounded to the nearest (even) number and clipped.
inline void store(uint8_t* p, Vec<float> v) {
  const Vec<float> zero = {}, most = zero + 255.0f;
  const Vec<float> clipped = v > zero ? v < most ? v : most : zero;
  const float shift = 12582912.0f;  // adding it rounds to an integer, which stands in the last bits then
  const WordVec words = (WordVec)(clipped + shift) & 0xff;
  const ByteVec bytes = __builtin_convertvector(words, ByteVec);
  std::memcpy(p, &bytes, sizeof bytes);
}

// One channel of an image. Reads beyond the edges give zeros, writes there do nothing.
template <class T>
struct ImageRows {
  using A = compute_t<T>;
  T* data;
  int64_t height, width;

  Vec<A> read(int64_t y, int64_t x) const {
    constexpr int L = lanes<A>;
    if (y >= height || x >= width) return Vec<A>{};
    const T* from = data + y * width + x;
    if (x + L <= width) return load(from);
    T part[L] = {};
    std::memcpy(part, from, size_t(width - x) * sizeof(T));
    return load(part);
  }

  void write(int64_t y, int64_t x, Vec<A> v) const {
    constexpr int L = lanes<A>;
    if (y >= height || x >= width) return;
    T* to = data + y * width + x;
    if (x + L <= width) return store(to, v);
    T part[L];
    store(part, v);
    std::memcpy(to, part, size_t(width - x) * sizeof(T));
  }
};

}  // namespace fastseg::FASTSEG_ISA
