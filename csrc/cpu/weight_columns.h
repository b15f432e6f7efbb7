// Weights as products read them: those of neighbouring targets beside each other.
#pragma once
#include "fastseg/cpu/transpose.h"
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// `count` columns of a matrix of `rows` rows, row_stride apart and at most a vector, whose memory ends at `end`:
// each column to place(column), a vector with zeros beyond the last row, or nowhere. Columns are asked for in order.
template <class T, class Place>
inline void pack_columns(const T* from, const T* end, int64_t row_stride, int64_t rows, int64_t count,
                         const Place& place) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  // Rows are more than the processor follows by itself: columns that come next are fetched.
  constexpr int ahead = 256 / int(sizeof(T));
  for (int64_t j = 0; j < count; j += L) {
    const int64_t here = count - j < L ? count - j : L;
    Vec<A> v[L] = {};
    for (int i = 0; i < L && i < rows; ++i) {
      const T* p = from + i * row_stride + j;
      __builtin_prefetch(p + ahead);
      if (end - p >= L)  // numbers beyond the last column are read, and not used
        v[i] = load(p);
      else
        for (int64_t k = 0; k < here; ++k) v[i][k] = load_one(p + k);
    }
    transpose(v);
    for (int64_t k = 0; k < here; ++k)
      if (A* const to = place(j + k)) store(to, v[k]);
  }
}

// A column whose `rows` numbers, at most a vector, lie beside each other.
template <class T, class A>
inline void pack_column(const T* from, int64_t rows, A* to) {
  if (rows >= lanes<A>) return store(to, load(from));
  for (int64_t i = 0; i < lanes<A>; ++i) to[i] = i < rows ? A(load_one(from + i)) : A(0);
}

}  // namespace fastseg::FASTSEG_ISA
