// A square of vectors transposed in registers.
#pragma once
#include <utility>

#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// The lower (upper) halves of two vectors, an element of each in turn.
template <bool Upper, class V, int... I>
inline V interleave(V a, V b, std::integer_sequence<int, I...>) {
  constexpr int L = sizeof...(I);
#if defined(__clang__) || __GNUC__ >= 12
  return __builtin_shufflevector(a, b, (I / 2 + (Upper ? L / 2 : 0) + (I % 2 ? L : 0))...);
#else
  return V{(I % 2 ? b : a)[I / 2 + (Upper ? L / 2 : 0)]...};
#endif
}

// Each round interleaves the first half of the vectors with the second: one bit of an element's place goes from the
// vector's number to the lane's.
template <int Round = 1, class V, int L>
[[gnu::always_inline]] inline void transpose(V (&v)[L]) {
  if constexpr (Round < L) {
    using Lanes = std::make_integer_sequence<int, L>;
    V next[L];
#pragma GCC unroll 16
    for (int i = 0; i < L / 2; ++i) {
      next[2 * i] = interleave<false>(v[i], v[i + L / 2], Lanes{});
      next[2 * i + 1] = interleave<true>(v[i], v[i + L / 2], Lanes{});
    }
    transpose<2 * Round>(next);
#pragma GCC unroll 16
    for (int i = 0; i < L; ++i) v[i] = next[i];
  }
}

}  // namespace fastseg::FASTSEG_ISA
