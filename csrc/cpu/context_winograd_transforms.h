// The transforms of Winograd's minimal filtering F(2, 3), one vector of channels at a time.
#pragma once
#include "context_winograd_tiles.h"
#include "fastseg/cpu/partial.h"

namespace fastseg::FASTSEG_ISA {

// Four vectors by their names: arrays of them would go through memory.
template <class V>
struct Four {
  V a, b, c, d;
};

template <class V>
struct Two {
  V a, b;
};

// Four neighbours to four points.
template <class V>
[[gnu::always_inline]] inline Four<V> source_points(V a, V b, V c, V d) {
  return {a - c, b + c, c - b, b - d};
}

// Three taps to four points.
template <class V>
[[gnu::always_inline]] inline Four<V> weight_points(V a, V b, V c) {
  const V ends = (a + c) * 0.5f, middle = b * 0.5f;
  return {a, ends + middle, ends - middle, c};
}

// Four points to two targets.
template <class V>
[[gnu::always_inline]] inline Two<V> target_pair(V a, V b, V c, V d) {
  return {a + b + c, b - c - d};
}

// Two gradients to four points: target_pair transposed.
template <class V>
[[gnu::always_inline]] inline Four<V> gradient_points(V a, V b) {
  return {a, a + b, a - b, -b};
}

// Four sums at points to those of three taps: weight_points transposed.
template <class V>
[[gnu::always_inline]] inline void tap_sums(V a, V b, V c, V d, V (&to)[3]) {
  const V sum = (b + c) * 0.5;
  to[0] = a + sum, to[1] = (b - c) * 0.5, to[2] = sum + d;
}

template <class V, class A>
[[gnu::always_inline]] inline void store_points(const Four<V>& points, A* to, int64_t stride) {
  store(to, points.a);
  store(to + stride, points.b);
  store(to + 2 * stride, points.c);
  store(to + 3 * stride, points.d);
}

// The numbers of one column that tiles find: four rows of each plane.
template <bool Volume, class A>
struct TileColumn {
  const A *a, *b, *c, *d;                  // of the first plane
  const A *a_too, *b_too, *c_too, *d_too;  // of the second one

  TileColumn(const TileRows<A>& rows, int64_t column, const A* zeros) {
    const int64_t x = rows.first + column * rows.step;
    const bool inside = x >= 0 && x < rows.columns;
    const auto at = [&](int plane, int i) {
      return inside && rows.at[plane][i] ? rows.at[plane][i] + x * rows.pitch : zeros;
    };
    a = at(0, 0), b = at(0, 1), c = at(0, 2), d = at(0, 3);
    a_too = at(1, 0), b_too = at(1, 1), c_too = at(1, 2), d_too = at(1, 3);
  }

  // A vector of channels at four points along height, `count` channels where it is not `Whole`.
  template <bool Whole>
  [[gnu::always_inline]] inline Four<Vec<A>> points(int64_t channel, int64_t count, Vec<A> sign) const {
    const auto read = [&](const A* first, const A* second) __attribute__((always_inline)) {
      const Vec<A> v = Whole ? load(first + channel) : load_first(first + channel, count);
      if constexpr (Volume) return v + sign * (Whole ? load(second + channel) : load_first(second + channel, count));
      return v;
    };
    return source_points(read(a, a_too), read(b, b_too), read(c, c_too), read(d, d_too));
  }
};

// A row of tiles to [points][tiles], `pitch` from tile to tile. `zeros`: as many as channels; `kept` has room for eight
// times as many numbers.
template <bool Volume, class A>
inline void transform_sources(const TileRows<A>& rows, int64_t channels, int64_t tiles, const A* zeros, A* kept, A* to,
                              int64_t pitch, int64_t stride) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  using Column = TileColumn<Volume, A>;
  const V sign = broadcast<V>(rows.sign);
  // The last two columns of a tile are the first two of the next one.
  const auto keep = [](const Four<V>& c, const Four<V>& d, A* to) __attribute__((always_inline)) {
    store_points(c, to, L);
    store_points(d, to + 4 * L, L);
  };
  const Column first(rows, 0, zeros), second(rows, 1, zeros);
  for (int64_t i = 0; i < channels; i += L)
    keep(first.template points<false>(i, channels - i, sign), second.template points<false>(i, channels - i, sign),
         kept + 8 * i);
  for (int64_t t = 0; t < tiles; ++t, to += pitch) {
    const Column third(rows, 2 * t + 2, zeros), fourth(rows, 2 * t + 3, zeros);
    const auto transform = [&](int64_t i, auto whole) __attribute__((always_inline)) {
      A *const now = kept + 8 * i, *const at = to + i;
      const Four<V> a{load(now), load(now + L), load(now + 2 * L), load(now + 3 * L)};
      const Four<V> b{load(now + 4 * L), load(now + 5 * L), load(now + 6 * L), load(now + 7 * L)};
      const Four<V> c = third.template points<whole()>(i, channels - i, sign);
      const Four<V> d = fourth.template points<whole()>(i, channels - i, sign);
      keep(c, d, now);
      store_points(source_points(a.a, b.a, c.a, d.a), at, stride);
      store_points(source_points(a.b, b.b, c.b, d.b), at + 4 * stride, stride);
      store_points(source_points(a.c, b.c, c.c, d.c), at + 8 * stride, stride);
      store_points(source_points(a.d, b.d, c.d, d.d), at + 12 * stride, stride);
    };
    int64_t i = 0;
    for (; i + L <= channels; i += L) transform(i, std::true_type{});
    if (i < channels) transform(i, std::false_type{});
  }
}

// Adds a slab's products [points][tiles][width] to sums [layers][2][2 * tiles][width], `column` and `row` from one to
// the next.
template <bool Volume, class A>
inline void add_targets(const A* products, int64_t stride, int64_t tiles, int64_t width, int slab, A* sums,
                        int64_t column, int64_t row) {
  using V = Vec<A>;
  constexpr int layers = Volume ? 2 : 1;
  for (int64_t t = 0; t < tiles; ++t)
    for (int64_t c = 0; c < width; c += lanes<A>) {
      const A* const from = products + t * width + c;
      const auto pair = [&](int x) __attribute__((always_inline)) {
        return target_pair(load(from + x * stride), load(from + (4 + x) * stride), load(from + (8 + x) * stride),
                           load(from + (12 + x) * stride));
      };
      const Two<V> p0 = pair(0), p1 = pair(1), p2 = pair(2), p3 = pair(3);
      const Two<V> first = target_pair(p0.a, p1.a, p2.a, p3.a), second = target_pair(p0.b, p1.b, p2.b, p3.b);
      for (int layer = 0; layer < layers; ++layer) {
        const A factor = Volume ? A(winograd_layers[layer][slab]) : A(1);
        if (factor == 0) continue;
        A* const to = sums + layer * 2 * row + 2 * t * column + c;
        const auto add = [&](A* at, V v) { store(at, load(at) + factor * v); };
        add(to, first.a);
        add(to + column, first.b);
        add(to + row, second.a);
        add(to + row + column, second.b);
      }
    }
}

// One vector of targets of one source: taps, `from_stride` apart, to the points of all slabs, `to_stride` apart.
template <bool Volume, class A>
inline void transform_weights(const A* from, int64_t from_stride, A* to, int64_t to_stride) {
  using V = Vec<A>;
  constexpr int depth = Volume ? 3 : 1;
  Four<V> planes[depth][4];
  for (int z = 0; z < depth; ++z) {
    Four<V> rows[3];
    for (int y = 0; y < 3; ++y) {
      const A* const row = from + (3 * z + y) * 3 * from_stride;
      rows[y] = weight_points(load(row), load(row + from_stride), load(row + 2 * from_stride));
    }
    planes[z][0] = weight_points(rows[0].a, rows[1].a, rows[2].a);
    planes[z][1] = weight_points(rows[0].b, rows[1].b, rows[2].b);
    planes[z][2] = weight_points(rows[0].c, rows[1].c, rows[2].c);
    planes[z][3] = weight_points(rows[0].d, rows[1].d, rows[2].d);
  }
  // planes[z][x] has a column's points.
  const auto line = [&](int x, auto point_of, A* at) {
    if constexpr (Volume) {
      const Four<V> slabs = weight_points(point_of(planes[0][x]), point_of(planes[1][x]), point_of(planes[2][x]));
      constexpr int slab = winograd_points;
      store(at, slabs.a);
      store(at + slab * to_stride, slabs.b);
      store(at + 2 * slab * to_stride, slabs.c);
      store(at + 3 * slab * to_stride, slabs.d);
    } else {
      store(at, point_of(planes[0][x]));
    }
  };
  for (int x = 0; x < 4; ++x) {
    line(x, [](const Four<V>& p) { return p.a; }, to + x * to_stride);
    line(x, [](const Four<V>& p) { return p.b; }, to + (4 + x) * to_stride);
    line(x, [](const Four<V>& p) { return p.c; }, to + (8 + x) * to_stride);
    line(x, [](const Four<V>& p) { return p.d; }, to + (12 + x) * to_stride);
  }
}

// The numbers of one column of targets: two rows of each plane.
template <bool Volume, class A>
struct GradientColumn {
  const A *a, *b, *a_too, *b_too;

  GradientColumn(const TileGradients<A>& rows, int64_t column, const A* zeros) {
    const int64_t x = column * rows.step;
    const auto at = [&](int layer, int i) {
      return x < rows.columns && rows.at[layer][i] ? rows.at[layer][i] + x * rows.pitch : zeros;
    };
    a = at(0, 0), b = at(0, 1), a_too = at(1, 0), b_too = at(1, 1);
  }

  template <bool Whole>
  [[gnu::always_inline]] inline Four<Vec<A>> points(int64_t channel, int64_t count, Vec<A> factor, Vec<A> too) const {
    const auto read = [&](const A* first, const A* second) __attribute__((always_inline)) {
      const Vec<A> v = Whole ? load(first + channel) : load_first(first + channel, count);
      if constexpr (Volume)
        return factor * v + too * (Whole ? load(second + channel) : load_first(second + channel, count));
      return v;
    };
    return gradient_points(read(a, a_too), read(b, b_too));
  }
};

// Gradients of `channels` targets to [points][tiles][width], zeros beyond the last of them.
template <bool Volume, class A>
inline void transform_gradients(const TileGradients<A>& rows, int64_t channels, int64_t width, int64_t tiles,
                                const A* zeros, A* to, int64_t stride) {
  using V = Vec<A>;
  constexpr int L = lanes<A>;
  const V factor = broadcast<V>(rows.factor[0]), too = broadcast<V>(rows.factor[1]);
  for (int64_t t = 0; t < tiles; ++t, to += width) {
    const GradientColumn<Volume, A> first(rows, 2 * t, zeros), second(rows, 2 * t + 1, zeros);
    const auto transform = [&](int64_t i, auto whole) __attribute__((always_inline)) {
      const Four<V> a = first.template points<whole()>(i, channels - i, factor, too);
      const Four<V> b = second.template points<whole()>(i, channels - i, factor, too);
      A* const at = to + i;
      store_points(gradient_points(a.a, b.a), at, stride);
      store_points(gradient_points(a.b, b.b), at + 4 * stride, stride);
      store_points(gradient_points(a.c, b.c), at + 8 * stride, stride);
      store_points(gradient_points(a.d, b.d), at + 12 * stride, stride);
    };
    int64_t i = 0;
    for (; i + L <= channels; i += L) transform(i, std::true_type{});
    if (i < channels) transform(i, std::false_type{}), i += L;
    for (; i < width; i += L)
      for (int point = 0; point < winograd_points; ++point) store(to + point * stride + i, V{});
  }
}

// Adds a slab's sums [points][numbers] to those of taps, [taps][numbers].
template <bool Volume>
inline void add_taps(const double* sums, int64_t numbers, int slab, double* to) {
  using V = Vec<double>;
  // weight_points along depth: what a slab gives to each plane of taps.
  constexpr double factors[3][winograd_slabs] = {{1, 0.5, 0.5, 0}, {0, 0.5, -0.5, 0}, {0, 0.5, 0.5, 1}};
  for (int64_t i = 0; i < numbers; i += lanes<double>) {
    V rows[4][3];
    for (int y = 0; y < 4; ++y) {
      V p[4];
      for (int x = 0; x < 4; ++x) p[x] = load(sums + (4 * y + x) * numbers + i);
      tap_sums(p[0], p[1], p[2], p[3], rows[y]);
    }
    for (int x = 0; x < 3; ++x) {
      V taps[3];
      tap_sums(rows[0][x], rows[1][x], rows[2][x], rows[3][x], taps);
      for (int z = 0; z < (Volume ? 3 : 1); ++z)
        for (int y = 0; y < 3; ++y) {
          double* const at = to + ((z * 3 + y) * 3 + x) * numbers + i;
          const double factor = Volume ? factors[z][slab] : 1;
          if (factor != 0) store(at, load(at) + broadcast<V>(factor) * taps[y]);
        }
    }
  }
}

}  // namespace fastseg::FASTSEG_ISA
