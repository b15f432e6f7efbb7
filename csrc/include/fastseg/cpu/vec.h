// Vectors over GCC/Clang vector extensions, one width per instruction set.
//
// Every CPU kernel file is compiled once per instruction set, with FASTSEG_ISA naming the namespace. Whatever a
// kernel file defines must live in that namespace: a template instantiated outside it (std::vector's, say) has one
// symbol for all three builds, and the linker may keep the AVX-512 one for a processor that has none.
#pragma once
#include <cstdint>
#include <cstring>
#include <type_traits>
#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

#include "fastseg/tensor.h"

#ifndef FASTSEG_ISA
#error "FASTSEG_ISA names the namespace of this build: baseline, avx2 or avx512"
#endif

namespace fastseg::FASTSEG_ISA {

#if defined(__AVX512F__)
constexpr int vector_bytes = 64;
#elif defined(__AVX2__)
constexpr int vector_bytes = 32;
#else
constexpr int vector_bytes = 16;
#endif

struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

// Calls body with a value of the element's type.
template <class Body>
inline void with_element(Element type, const Body& body) {
  switch (type) {
    case Element::float32:
      return body(float{});
    case Element::float64:
      return body(double{});
    case Element::bfloat16:
      return body(bfloat16{});
    case Element::float16:
      return body(float16{});
  }
}

// The type in which an element is computed with.
template <class T>
struct Compute {
  using type = float;
};
template <>
struct Compute<double> {
  using type = double;
};
template <class T>
using compute_t = typename Compute<T>::type;

template <class A>
struct VecOf;
template <>
struct VecOf<float> {
  typedef float type __attribute__((vector_size(vector_bytes)));
};
template <>
struct VecOf<double> {
  typedef double type __attribute__((vector_size(vector_bytes)));
};
template <class A>
using Vec = typename VecOf<A>::type;

template <class A>
constexpr int lanes = vector_bytes / int(sizeof(A));

typedef uint32_t WordVec __attribute__((vector_size(vector_bytes)));
typedef uint16_t HalfVec __attribute__((vector_size(vector_bytes / 2)));

// One number in all lanes. x - 0 is x, so a number in memory takes a load and no more; 0 + x makes a 0 of -0, so the
// compiler must keep that addition, which takes a turn from the multipliers.
template <class V, class A>
inline V broadcast(A value) {
  return value - V{};
}

// Halves are added to each other: a chain over all lanes would wait for every one of its additions.
template <class V>
inline auto add_lanes(V v) {
  using A = std::remove_cv_t<std::remove_reference_t<decltype(v[0])>>;
  if constexpr (sizeof(V) == 2 * sizeof(A)) {
    return A(v[0] + v[1]);
  } else {
    typedef A Half __attribute__((vector_size(sizeof(V) / 2)));
    Half halves[2];
    std::memcpy(halves, &v, sizeof halves);
    return add_lanes(halves[0] + halves[1]);
  }
}

// The lower and the upper half of a vector in float64. GCC makes of __builtin_convertvector here what four narrower
// instructions do.
struct WideHalves {
  Vec<double> low, high;
};
inline WideHalves widen(Vec<float> v) {
#if defined(__AVX512F__)
  return {(Vec<double>)_mm512_cvtps_pd(_mm512_castps512_ps256((__m512)v)),
          (Vec<double>)_mm512_cvtps_pd(_mm512_extractf32x8_ps((__m512)v, 1))};
#elif defined(__AVX2__)
  return {(Vec<double>)_mm256_cvtps_pd(_mm256_castps256_ps128((__m256)v)),
          (Vec<double>)_mm256_cvtps_pd(_mm256_extractf128_ps((__m256)v, 1))};
#elif defined(__SSE2__)
  return {(Vec<double>)_mm_cvtps_pd((__m128)v), (Vec<double>)_mm_cvtps_pd(_mm_movehl_ps((__m128)v, (__m128)v))};
#else
  typedef float Half __attribute__((vector_size(vector_bytes / 2)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof halves);
  return {__builtin_convertvector(halves[0], Vec<double>), __builtin_convertvector(halves[1], Vec<double>)};
#endif
}

inline void add_in_memory(double* to, Vec<double> v) {
  Vec<double> sum;
  std::memcpy(&sum, to, sizeof sum);
  sum += v;
  std::memcpy(to, &sum, sizeof sum);
}

// Sums in float64, to which vectors of short sums are added.
template <class A>
class WideSum;
template <>
class WideSum<double> {
 public:
  void add(Vec<double> v) { sum_ += v; }
  double total() const { return add_lanes(sum_); }
  // Adds each lane's sum to a number of its own.
  void add_to(double* to) const { add_in_memory(to, sum_); }

 private:
  Vec<double> sum_{};
};
template <>
class WideSum<float> {
 public:
  void add(Vec<float> v) {
    const WideHalves wide = widen(v);
    low_ += wide.low;
    high_ += wide.high;
  }
  double total() const { return add_lanes(low_ + high_); }
  void add_to(double* to) const {
    add_in_memory(to, low_);
    add_in_memory(to + lanes<double>, high_);
  }

 private:
  Vec<double> low_{}, high_{};
};

// Sums of products of vectors in float64: products of floats are exact. The factor is widened once for many sums.
template <class A>
struct WideFactor;
template <>
struct WideFactor<double> {
  Vec<double> wide;
  explicit WideFactor(Vec<double> v) : wide(v) {}
};
template <>
struct WideFactor<float> {
  WideHalves wide;
  explicit WideFactor(Vec<float> v) : wide(widen(v)) {}
};

template <class A>
class WideProducts;
template <>
class WideProducts<double> {
 public:
  void add(Vec<double> v, const WideFactor<double>& factor) { sum_ += v * factor.wide; }
  double total() const { return add_lanes(sum_); }

 private:
  Vec<double> sum_{};
};
template <>
class WideProducts<float> {
 public:
  void add(Vec<float> v, const WideFactor<float>& factor) {
    const WideHalves wide = widen(v);
    low_ += wide.low * factor.wide.low;
    high_ += wide.high * factor.wide.high;
  }
  double total() const { return add_lanes(low_ + high_); }

 private:
  Vec<double> low_{}, high_{};
};

// Adds a vector to float64 sums, one a lane.
template <class A>
inline void add_to_sums(Vec<A> v, double* to) {
  if constexpr (sizeof(A) == sizeof(double)) {
    add_in_memory(to, v);
  } else {
    const WideHalves wide = widen(v);
    add_in_memory(to, wide.low);
    add_in_memory(to + lanes<double>, wide.high);
  }
}

// ---- loads: sixteen-bit elements are widened in registers

inline Vec<float> load(const float* p) {
  Vec<float> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Vec<double> load(const double* p) {
  Vec<double> v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
inline Vec<float> load(const bfloat16* p) {
#if defined(__AVX512F__)  // GCC widens by halves and puts them together
  return (Vec<float>)_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16);
#else
  HalfVec half;
  std::memcpy(&half, p, sizeof half);
  return (Vec<float>)(__builtin_convertvector(half, WordVec) << 16);
#endif
}

inline float load_one(const float* p) { return *p; }
inline double load_one(const double* p) { return *p; }
inline float load_one(const bfloat16* p) {
  uint32_t word = uint32_t(p->bits) << 16;
  float value;
  std::memcpy(&value, &word, 4);
  return value;
}
inline float load_one(const float16* p) {
  // Multiplying by 2^112 moves a half's exponent bias to a float's and makes subnormals right by itself.
  uint32_t word = uint32_t(p->bits & 0x7fff) << 13;
  float value;
  std::memcpy(&value, &word, 4);
  value *= 0x1p112f;
  std::memcpy(&word, &value, 4);
  if (value >= 65536.0f) word |= 0x7f800000u;  // infinity and NaN keep their mantissa
  word |= uint32_t(p->bits & 0x8000) << 16;
  std::memcpy(&value, &word, 4);
  return value;
}
inline Vec<float> load(const float16* p) {
#if defined(__AVX512F__)
  return (Vec<float>)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p));
#elif defined(__F16C__) && defined(__AVX2__)
  return (Vec<float>)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p));
#else
  Vec<float> v;
  for (int i = 0; i < lanes<float>; ++i) v[i] = load_one(p + i);
  return v;
#endif
}

// ---- stores: round to nearest even. Stream = past the caches; p must then be aligned to the vector stored.

template <bool Stream, int Bytes>
inline void store_bytes(void* p, const void* value) {
#if defined(__AVX512F__)
  if constexpr (Stream && Bytes == 64) {
    _mm512_stream_si512((__m512i*)p, _mm512_loadu_si512(value));
    return;
  }
#endif
#if defined(__AVX2__)
  if constexpr (Stream && Bytes == 32) {
    _mm256_stream_si256((__m256i*)p, _mm256_loadu_si256((const __m256i*)value));
    return;
  }
#endif
#if defined(__SSE2__)
  if constexpr (Stream && Bytes == 16) {
    _mm_stream_si128((__m128i*)p, _mm_loadu_si128((const __m128i*)value));
    return;
  }
#endif
  std::memcpy(p, value, Bytes);
}

template <bool Stream = false>
inline void store(float* p, Vec<float> v) {
  store_bytes<Stream, vector_bytes>(p, &v);
}
template <bool Stream = false>
inline void store(double* p, Vec<double> v) {
  store_bytes<Stream, vector_bytes>(p, &v);
}
template <bool Stream = false>
inline void store(bfloat16* p, Vec<float> v) {
  const WordVec word = (WordVec)v;
  const WordVec rounded = (word + 0x7fff + ((word >> 16) & 1)) >> 16;
  const WordVec quiet_nan = WordVec{} + 0x7fc0;
  const HalfVec half = __builtin_convertvector(v == v ? rounded : quiet_nan, HalfVec);
  store_bytes<Stream, vector_bytes / 2>(p, &half);
}

inline void store_one(float* p, float value) { *p = value; }
inline void store_one(double* p, double value) { *p = value; }
inline void store_one(bfloat16* p, float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  p->bits = value == value ? uint16_t((word + 0x7fff + ((word >> 16) & 1)) >> 16) : uint16_t(0x7fc0);
}
inline void store_one(float16* p, float value) {
  uint32_t word;
  std::memcpy(&word, &value, 4);
  const uint16_t sign = uint16_t((word >> 16) & 0x8000);
  word &= 0x7fffffffu;
  if (word > 0x7f800000u) {
    p->bits = sign | 0x7e00;
  } else if (word >= 0x477ff000u) {  // rounds past the largest half, 65504
    p->bits = sign | 0x7c00;
  } else if (word < 0x38800000u) {  // subnormal: let float addition do the rounding
    float magnitude;
    std::memcpy(&magnitude, &word, 4);
    magnitude += 0.5f;
    std::memcpy(&word, &magnitude, 4);
    p->bits = uint16_t(sign | (word - 0x3f000000u));
  } else {
    p->bits = uint16_t(sign | ((word - 0x38000000u + 0xfff + ((word >> 13) & 1)) >> 13));
  }
}
template <bool Stream = false>
inline void store(float16* p, Vec<float> v) {
#if defined(__AVX512F__)
  const __m256i half = _mm512_cvtps_ph((__m512)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  store_bytes<Stream, 32>(p, &half);
#elif defined(__F16C__) && defined(__AVX2__)
  const __m128i half = _mm256_cvtps_ph((__m256)v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  store_bytes<Stream, 16>(p, &half);
#else
  for (int i = 0; i < lanes<float>; ++i) store_one(p + i, v[i]);
#endif
}

// `count` elements from p on, 0 behind them; and a store of as many.
template <class T>
inline Vec<compute_t<T>> load_part(const T* p, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
  if constexpr (sizeof(T) == 8) return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p);
  if constexpr (sizeof(T) == 2) {
    const __m256i part = _mm256_maskz_loadu_epi16(__mmask16((1u << count) - 1), p);
    return load(reinterpret_cast<const T*>(&part));
  }
#endif
  if (count == lanes<compute_t<T>>) return load(p);
  T part[lanes<compute_t<T>>] = {};
  std::memcpy(part, p, size_t(count) * sizeof(T));
  return load(part);
}
template <bool Stream = false, class T>
inline void store_part(T* p, Vec<compute_t<T>> v, int64_t count) {
  if (count == lanes<compute_t<T>>) return store<Stream>(p, v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 4) return _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
  if constexpr (sizeof(T) == 8) return _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), (__m512d)v);
#endif
  T part[lanes<compute_t<T>>];
  store(part, v);
#if defined(__AVX512F__)
  if constexpr (sizeof(T) == 2)
    return _mm256_mask_storeu_epi16(p, __mmask16((1u << count) - 1), _mm256_loadu_si256((const __m256i*)part));
#endif
  std::memcpy(p, part, size_t(count) * sizeof(T));
}

// Elements before p is aligned to a vector's store.
template <class T>
inline int64_t misaligned_elements(const T* p, int64_t n) {
  const uintptr_t width = sizeof(T) * lanes<compute_t<T>>;
  const int64_t head = int64_t((width - reinterpret_cast<uintptr_t>(p) % width) % width / sizeof(T));
  return head < n ? head : n;
}

// Streaming stores need every line's vectors aligned.
template <class T>
inline bool lines_aligned(const View& v, int64_t pitch) {
  const int64_t bytes = int64_t(sizeof(T)) * lanes<compute_t<T>>;
  const int64_t size = int64_t(sizeof(T));
  return reinterpret_cast<uintptr_t>(v.data) % uintptr_t(bytes) == 0 && pitch * size % bytes == 0 &&
         v.batch_stride * size % bytes == 0;
}

// Makes a thread's streaming stores visible before the parallel region's barrier lets others read them.
inline void stream_fence() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}

// An affine parameter, whatever its element type.
template <class A>
inline A load_parameter(const Vector& v, int64_t i, A otherwise) {
  if (!v) return otherwise;
  const int64_t at = i * v.stride;
  switch (v.type) {
    case Element::float32:
      return A(load_one((const float*)v.data + at));
    case Element::float64:
      return A(load_one((const double*)v.data + at));
    case Element::bfloat16:
      return A(load_one((const bfloat16*)v.data + at));
    default:
      return A(load_one((const float16*)v.data + at));
  }
}

}  // namespace fastseg::FASTSEG_ISA
