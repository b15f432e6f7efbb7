// Gradients of cross-scale aggregation: the map's transpose.
//
// A level's gradient is its weight times the sum of the result's gradient over all that look an element up. In a
// pyramid the sums of a level are made of those of the level before, at most 2 x 2 x 2 of them each: every element
// gathers its own, in a fixed order.
//
// Floor, u = one pass over the finest level: full size (S + 1)u; in a pyramid 2u, a quarter for writing and reading the
// sums of the next level, and a seventh for the gradients of all others.
#pragma once
#include <utility>

#include "cross_scale_levels.h"
#include "fastseg/cpu/memory.h"
#include "fastseg/cpu/parallel.h"

namespace fastseg::FASTSEG_ISA {

template <class T, bool Stream>
void spread_full_size(const CrossScale& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const int64_t elements = args.batch * args.levels.level[0].disparities * args.height * args.width;
  const Coupling<A> coupling(args.levels.count, args.lambda);
  T* to[CrossScaleLevels::most];
  A weight[CrossScaleLevels::most];
  int wanted = 0;
  for (int64_t s = 0; s < args.levels.count; ++s) {
    if (!args.levels.level[s].data) continue;
    to[wanted] = static_cast<T*>(args.levels.level[s].data);
    weight[wanted++] = coupling.weight[s];
  }
  T* grad = static_cast<T*>(args.result);
  parallel_spans(threads, (elements + L - 1) / L, [&](int64_t first, int64_t last) {
    int64_t i = first * L;
    for (; i + L <= elements && i < last * L; i += L) {
      const Vec<A> g = load(grad + i);
      for (int w = 0; w < wanted; ++w) store<Stream>(to[w] + i, weight[w] * g);
    }
    if (i < last * L)
      for (int w = 0; w < wanted; ++w)
        line_of(to[w], elements).write(0, i, weight[w] * line_of(grad, elements).read(0, i));
    if constexpr (Stream) stream_fence();
  });
}

// A row of sums: its level's gradient, where that is wanted, and added to what the next level's row gathers.
template <bool Stream, class From, class T, class A>
inline void spread_row(From* sums, T* to, int64_t width, A weight, A* gathered, bool first) {
  constexpr int L = lanes<A>;
  const ImageRows<From> from = line_of(sums, width);
  for (int64_t x = 0; gathered && x < width; x += L) {
    const Vec<A> g = from.read(0, x);
    store(gathered + x, first ? g : load(gathered + x) + g);
  }
  if (!to) return;
  const int64_t head = Stream ? misaligned_elements(to, width) : 0;
  if (head > 0) line_of(to, head).write(0, 0, weight * from.read(0, 0));
  int64_t x = head;
  for (; x + L <= width; x += L) store<Stream>(to + x, weight * load(sums + x));
  line_of(to, width).write(0, x, weight * from.read(0, x));
}

// Level s of a pyramid: `sums` [batch, disparities that are looked up, height, width] are complete, `next` those of
// level s + 1, or nullptr.
template <class T, bool Stream, class From, class A>
void spread_level(const CrossScale& args, const PyramidShape& shape, int64_t s, A weight, From* sums, A* next,
                  int threads) {
  constexpr int L = lanes<A>;
  const CrossScaleLevels::Level& level = args.levels.level[s];
  const int64_t height = shape.height(s), width = shape.width(s), disparities = shape.disparities(s);
  const int64_t next_disparities = shape.disparities(s + 1), next_height = shape.height(s + 1);
  const int64_t next_width = shape.width(s + 1);
  T* to = static_cast<T*>(level.data);
  parallel_spans(threads, args.batch * next_disparities * next_height, [&](int64_t first, int64_t last) {
    const Scratch<A> row((width + L) / L * L);
    for (int64_t r = first; r < last; ++r) {
      const int64_t n = r / next_height / next_disparities, y = 2 * (r % next_height);
      const int64_t place = r / next_height % next_disparities;
      const int64_t last_child = 2 * (shape.first(s + 1) + place) - shape.first(s);
      bool begun = false;
      for (int64_t d = last_child - 1; d <= last_child; ++d) {
        if (d < 0 || d >= disparities) continue;
        for (int64_t child = y; child < y + 2 && child < height; ++child) {
          From* from = sums + ((n * disparities + d) * height + child) * width;
          T* out = to ? to + ((n * level.disparities + d) * height + child) * width : nullptr;
          spread_row<Stream>(from, out, width, weight, next ? row.get() : nullptr, !begun);
          begun = true;
        }
      }
      if (!next) continue;
      row[width] = 0;  // the last pixel may be alone
      A* gathered = next + r * next_width;
      for (int64_t x = 0; x < next_width; ++x) gathered[x] = row[2 * x] + row[2 * x + 1];
    }
    if constexpr (Stream) stream_fence();
  });
  if (!to) return;
  // Disparities that nobody looks up.
  const int64_t used = disparities * height * width, all = level.disparities * height * width;
  for (int64_t n = 0; n < args.batch; ++n) std::memset(to + n * all + used, 0, size_t(all - used) * sizeof(T));
}

template <class T, bool Stream>
void spread_pyramid(const CrossScale& args, int threads) {
  using A = compute_t<T>;
  const PyramidShape shape(args);
  const Coupling<A> coupling(args.levels.count, args.lambda);
  int64_t levels = args.levels.count;
  while (levels > 0 && !args.levels.level[levels - 1].data) --levels;  // the sums of the last ones are not needed
  const auto elements = [&](int64_t s) {
    return s < levels ? args.batch * shape.disparities(s) * shape.height(s) * shape.width(s) : 0;
  };
  const cpu::Block odd((elements(1) + 1) * int64_t(sizeof(A))), even((elements(2) + 1) * int64_t(sizeof(A)));
  A* sums = nullptr;
  for (int64_t s = 0; s < levels; ++s) {
    A* next = s + 1 < levels ? static_cast<A*>((s % 2 ? even : odd).data()) : nullptr;
    if (s == 0)
      spread_level<T, Stream>(args, shape, s, coupling.weight[s], static_cast<T*>(args.result), next, threads);
    else
      spread_level<T, false>(args, shape, s, coupling.weight[s], sums, next, threads);
    sums = next;
  }
}

}  // namespace fastseg::FASTSEG_ISA
