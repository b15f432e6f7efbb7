// A product in registers that is added to sums: a few pixels of adjacent channels by a block of targets. It begins at
// zero: many short sums lose less than one long one.
#pragma once
#include <utility>

#include "pointwise_pixels.h"

namespace fastseg::FASTSEG_ISA {

// Targets of a block, and so the pitch of packed weights and of sums.
template <class A>
constexpr int64_t context_block = tile_output_lanes<A>;

// Pixels whose sums for `vectors` vectors of targets stay in registers beside the weights.
constexpr int product_pixels(int vectors) { return vectors == 1 || (vectors == 2 && vector_bytes == 64) ? 12 : 6; }

// One number in all lanes by a single load. x - 0 is x; the compiler must keep 0 + x, which makes a 0 of -0.
template <class A>
inline Vec<A> load_to_all(const A* p) {
  return *p - Vec<A>{};
}

// sums [Pixels][context_block] += x [Pixels][sources] * weights [sources][context_block].
template <int Pixels, int Vectors, class A>
inline void add_product(const A* x, int64_t pitch, int64_t sources, const A* weights, A* sums) {
  constexpr int L = lanes<A>;
  constexpr int64_t block = context_block<A>;
  Vec<A> sum[Pixels][Vectors] = {};
  for (int64_t s = 0; s < sources; ++s, weights += block) {
    Vec<A> w[Vectors];
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) w[v] = load(weights + v * L);
#pragma GCC unroll 12
    for (int p = 0; p < Pixels; ++p) {
      const Vec<A> value = load_to_all(x + p * pitch + s);
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[p][v] += value * w[v];
    }
  }
#pragma GCC unroll 12
  for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) {
      A* const to = sums + p * block + v * L;
      store(to, load(to) + sum[p][v]);
    }
}

template <class A>
using Product = void (*)(const A* x, int64_t pitch, int64_t sources, const A* weights, A* sums);

template <int Vectors, class A, int... I>
inline Product<A> product_of(int64_t pixels, std::integer_sequence<int, I...>) {
  static constexpr Product<A> of[] = {add_product<I + 1, Vectors, A>...};
  return of[pixels - 1];
}

// The product of a run of neighbouring pixels.
template <int Vectors, class A>
inline void add_product_of_run(const A* x, int64_t pitch, int64_t pixels, int64_t sources, const A* weights, A* sums) {
  constexpr int most = product_pixels(Vectors);
  using Counts = std::make_integer_sequence<int, most>;
  while (pixels > 0) {
    // One pixel alone has too few sums under way to keep the multipliers busy.
    const int64_t now = pixels <= most ? pixels : pixels == most + 1 ? most - 1 : most;
    product_of<Vectors, A>(now, Counts{})(x, pitch, sources, weights, sums);
    x += now * pitch;
    sums += now * context_block<A>;
    pixels -= now;
  }
}

// For a block with targets in `vectors` of its vectors.
template <class A>
using RunProduct = void (*)(const A* x, int64_t pitch, int64_t pixels, int64_t sources, const A* weights, A* sums);
template <class A>
inline RunProduct<A> run_product(int64_t targets) {
  const int64_t vectors = (targets + lanes<A> - 1) / lanes<A>;
  if (vectors == 1) return add_product_of_run<1, A>;
  if (tile_output_vectors == 4 && vectors == 2) return add_product_of_run<2, A>;
  return add_product_of_run<tile_output_vectors, A>;
}

}  // namespace fastseg::FASTSEG_ISA
