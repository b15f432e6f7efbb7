// Loads and stores of the first elements of a vector: what is left at the end of a row.
#pragma once
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// The first `count` elements from p, zeros behind them. Nothing behind them is read.
template <class T>
inline Vec<compute_t<T>> load_first(const T* p, int64_t count) {
  constexpr int L = lanes<compute_t<T>>;
  if (count >= L) return load(p);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return (Vec<float>)_mm512_maskz_loadu_ps(__mmask16((1u << count) - 1), p);
  else if constexpr (std::is_same_v<T, double>)
    return (Vec<double>)_mm512_maskz_loadu_pd(__mmask8((1u << count) - 1), p);
#endif
  T part[L] = {};
  std::memcpy(part, p, size_t(count) * sizeof(T));
  return load(part);
}

template <class T>
inline void store_first(T* p, Vec<compute_t<T>> v, int64_t count) {
  constexpr int L = lanes<compute_t<T>>;
  if (count >= L) return store(p, v);
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>)
    return _mm512_mask_storeu_ps(p, __mmask16((1u << count) - 1), (__m512)v);
  else if constexpr (std::is_same_v<T, double>)
    return _mm512_mask_storeu_pd(p, __mmask8((1u << count) - 1), (__m512d)v);
#endif
  T part[L];
  store(part, v);
  std::memcpy(p, part, size_t(count) * sizeof(T));
}

// The same past the caches where the whole vector is stored; p must then be aligned to it.
template <bool Stream, class T>
inline void stream_first(T* p, Vec<compute_t<T>> v, int64_t count) {
  if (Stream && count >= lanes<compute_t<T>>)
    store<Stream>(p, v);
  else
    store_first(p, v, count);
}

}  // namespace fastseg::FASTSEG_ISA
