// A product in registers: a few pixels of adjacent channels by a block of targets, added to numbers that are there. It
// begins at zero: many short sums lose less than one long one.
#pragma once
#include <utility>

#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// Vectors of targets of a block, at most; and the targets in these.
constexpr int tile_output_vectors = vector_bytes == 64 ? 4 : 2;
template <class A>
constexpr int64_t tile_output_lanes = tile_output_vectors * lanes<A>;

// Pixels whose sums for `vectors` vectors of targets stay in registers, beside the weights and a number of x.
// Never more than most_product_pixels.
constexpr int most_product_pixels = 12;
constexpr int product_pixels(int vectors) {
  if (vector_bytes == 64) return vectors <= 2 ? 12 : vectors == 3 ? 8 : 6;
  return vectors == 1 ? 12 : 6;
}

// Targets of every pixel that are read or written: `pitch` from one pixel to the next, 0 where all read the same.
template <class A>
struct Targets {
  A* data;
  int64_t pitch;
};

// What a product reads: x [pixels][sources], `pitch` from pixel to pixel and `step` from source to source, and weights
// [sources][width].
template <class A>
struct Factors {
  const A* x;
  int64_t pitch, step, sources;
  const A* weights;
  int64_t width;
};

// to [Pixels][Vectors] = from + x * weights, or x * weights where `from` has no data.
template <int Pixels, int Vectors, class A>
inline void add_product(const Factors<A>& f, Targets<const A> from, Targets<A> to) {
  constexpr int L = lanes<A>;
  const A *x = f.x, *weights = f.weights;
  const int64_t pitch = f.pitch, step = f.step, width = f.width;
  Vec<A> sum[Pixels][Vectors] = {};
  constexpr int64_t line = 64 / int64_t(sizeof(A));
  // A pointer for three pixels, the others lie one and two pitches behind: for twelve there are not enough registers.
  constexpr int trios = (Pixels + 2) / 3;
  for (int64_t left = f.sources; left > 0; left -= line) {
    // The pixels after these, most likely next: their lines lie too far apart to be fetched unasked.
#pragma GCC unroll 12
    for (int p = 0; p < Pixels; ++p) __builtin_prefetch(x + (Pixels + p) * pitch);
    const A* trio[trios];
#pragma GCC unroll 4
    for (int i = 0; i < trios; ++i) {
      trio[i] = x + 3 * i * pitch;
      asm("" : "+r"(trio[i]));  // a number of its own, not one of many distances from x
    }
    const int64_t now = left < line ? left : line;
    x += now * step;
    for (int64_t s = now; s > 0; --s, weights += width) {
      Vec<A> w[Vectors];
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) w[v] = load(weights + v * L);
#pragma GCC unroll 12
      for (int p = 0; p < Pixels; ++p) {
        const Vec<A> value = broadcast<Vec<A>>(trio[p / 3][p % 3 * pitch]);
#pragma GCC unroll 4
        for (int v = 0; v < Vectors; ++v) sum[p][v] += value * w[v];
      }
#pragma GCC unroll 4
      for (int i = 0; i < trios; ++i) trio[i] += step;
    }
  }
  if (from.data)
#pragma GCC unroll 12
    for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 4
      for (int v = 0; v < Vectors; ++v) sum[p][v] += load(from.data + p * from.pitch + v * L);
#pragma GCC unroll 12
  for (int p = 0; p < Pixels; ++p)
#pragma GCC unroll 4
    for (int v = 0; v < Vectors; ++v) store(to.data + p * to.pitch + v * L, sum[p][v]);
}

template <class A>
using Product = void (*)(const Factors<A>&, Targets<const A> from, Targets<A> to);

template <int Vectors, class A, int... I>
inline const Product<A>* products_of(std::integer_sequence<int, I...>) {
  static constexpr Product<A> of[] = {add_product<I + 1, Vectors, A>...};
  return of;
}

// The products of 1, 2, ... pixels and a block of targets; what they write reaches to the end of the last vector.
template <class A>
class Products {
 public:
  explicit Products(int64_t targets) {
    const int64_t vectors = ceil_div(targets, lanes<A>);
    if (vectors == 1)
      set<1>();
    else if (vectors == 2)
      set<2>();
    else if (tile_output_vectors == 4 && vectors == 3)
      set<3>();
    else
      set<tile_output_vectors>();
  }

  // How many of `pixels` neighbouring pixels come next. The last two products are alike: one pixel alone has too few
  // sums under way to keep the multipliers busy.
  int64_t next(int64_t pixels) const {
    return pixels <= most_ ? pixels : pixels < 2 * most_ ? (pixels + 1) / 2 : most_;
  }
  void operator()(int64_t pixels, const Factors<A>& f, Targets<const A> from, Targets<A> to) const {
    of_[pixels - 1](f, from, to);
  }

 private:
  template <int Vectors>
  void set() {
    most_ = product_pixels(Vectors);
    of_ = products_of<Vectors, A>(std::make_integer_sequence<int, product_pixels(Vectors)>{});
  }

  int64_t most_;
  const Product<A>* of_;
};

}  // namespace fastseg::FASTSEG_ISA
