// Tridiagonal solves of many lines at a time. A bundle is `bundle` neighbouring lines, [pixels of a line][bundle]: a
// line is a lane, so that the recurrences run in vectors, several of them at a time to hide their latency.
//
// One line, with l_i = lambda * w_i between pixels i and i + 1, in sums and averages of positive numbers only (Gaussian
// elimination without its subtractions, which would cancel for large lambda):
//
//     e_0 = 1,  c_i = l_i / (e_i + l_i),  e_{i+1} = 1 + c_i e_i              factors, of the guide and lambda alone
//     z_i = z_{i-1} + (f_i - z_{i-1}) / e_i                                  forward
//     u_i = z_i + c_i (u_{i+1} - z_i)                                        backward
//
// z_i and u_i lie between numbers that went in: no overshoot, and a constant line stays as it is to the last bit.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/transpose.h"
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

constexpr int bundle_vectors = 2;
template <class A>
constexpr int bundle = bundle_vectors * lanes<A>;

// The forward sweep of a bundle in place, which finds the factors on its way: carry_i = c_i and, to be kept for other
// channels, gain_i = 1 / e_i.
template <bool Keep, class A>
inline void first_forward(const A* weights, int64_t count, A lambda, A* lines, A* gain, A* carry) {
  constexpr int G = bundle_vectors, L = lanes<A>;
  const Vec<A> one = broadcast<Vec<A>>(A(1));
  Vec<A> e[G], z[G];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) e[g] = one, z[g] = load(lines + g * L);
  for (int64_t i = 0; i < count * G * L; i += G * L) {
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      const Vec<A> l = load(weights + i + g * L) * lambda, c = l / (e[g] + l), k = one / e[g];
      z[g] += k * (load(lines + i + g * L) - z[g]);
      store(lines + i + g * L, z[g]);
      store(carry + i + g * L, c);
      if constexpr (Keep) store(gain + i + g * L, k);
      e[g] = c * e[g] + one;
    }
  }
}

template <class A>
inline void forward(A* lines, int64_t count, const A* gain) {
  constexpr int G = bundle_vectors, L = lanes<A>;
  Vec<A> z[G];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) z[g] = load(lines + g * L);
  for (int64_t i = G * L; i < count * G * L; i += G * L) {
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      z[g] += load(gain + i + g * L) * (load(lines + i + g * L) - z[g]);
      store(lines + i + g * L, z[g]);
    }
  }
}

template <class A>
inline void backward(A* lines, int64_t count, const A* carry) {
  constexpr int G = bundle_vectors, L = lanes<A>;
  Vec<A> u[G];
#pragma GCC unroll 8
  for (int g = 0; g < G; ++g) u[g] = load(lines + (count - 1) * G * L + g * L);
  for (int64_t i = (count - 2) * G * L; i >= 0; i -= G * L) {
#pragma GCC unroll 8
    for (int g = 0; g < G; ++g) {
      const Vec<A> z = load(lines + i + g * L);
      u[g] = z + load(carry + i + g * L) * (u[g] - z);
      store(lines + i + g * L, u[g]);
    }
  }
}

// Solves the bundles of several channels in place, one after another; those after the first find the factors there.
template <class A>
class Solver {
 public:
  Solver(const A* weights, int64_t count, A lambda, bool several, A* gain, A* carry)
      : weights_(weights), count_(count), lambda_(lambda), several_(several), gain_(gain), carry_(carry) {}

  void solve(A* lines, bool first) const {
    if (!first)
      forward(lines, count_, gain_);
    else if (several_)
      first_forward<true>(weights_, count_, lambda_, lines, gain_, carry_);
    else
      first_forward<false>(weights_, count_, lambda_, lines, gain_, carry_);
    backward(lines, count_, carry_);
  }

 private:
  const A* weights_;
  int64_t count_;
  A lambda_;
  bool several_;
  A *gain_, *carry_;
};

// An image as bundles of columns, [column bundles][rows][bundle], rows padded to whole bundles. What lies beyond the
// image's edges is there and means nothing.
template <class A>
struct ColumnBundles {
  A* data;
  int64_t pitch;  // from one bundle to the next

  A* at(int64_t y, int64_t x) const { return data + x / bundle<A> * pitch + y * bundle<A> + x % bundle<A>; }
  Vec<A> read(int64_t y, int64_t x) const { return load(at(y, x)); }
  void write(int64_t y, int64_t x, Vec<A> v) const { store(at(y, x), v); }
};

// Rows first_row to first_row + bundle to a bundle [columns][bundle], and back. `columns` is padded to whole vectors.
template <class A, class From>
inline void rows_to_bundle(const From& from, int64_t first_row, int64_t columns, A* to) {
  constexpr int L = lanes<A>;
  for (int64_t x = 0; x < columns; x += L)
    for (int g = 0; g < bundle<A>; g += L) {
      Vec<A> tile[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) tile[i] = from.read(first_row + g + i, x);
      transpose(tile);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(to + (x + i) * bundle<A> + g, tile[i]);
    }
}
template <class A, class To>
inline void bundle_to_rows(const A* from, int64_t first_row, int64_t columns, const To& to) {
  constexpr int L = lanes<A>;
  for (int64_t x = 0; x < columns; x += L)
    for (int g = 0; g < bundle<A>; g += L) {
      Vec<A> tile[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) tile[i] = load(from + (x + i) * bundle<A> + g);
      transpose(tile);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) to.write(first_row + g + i, x, tile[i]);
    }
}

}  // namespace fastseg::FASTSEG_ISA
