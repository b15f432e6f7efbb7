// Gradients of cross-scale aggregation: the map's transpose.
//
// A level's gradient is its weight times the sum of the result's gradient over all that look an element up. In a
// pyramid the sums of a level are made of those of the level before, at most 2 x 2 x 2 of them each: every element
// gathers its own, in a fixed order.
//
// Floor, u = one pass over the finest level: full size (S + 1)u; in a pyramid 2u, a quarter for writing and reading the
// sums of the next level, and a seventh for the gradients of all others.
#pragma once
#include "cross_scale_levels.h"
#include "fastseg/cpu/memory.h"
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/phases.h"

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

// One level of a pyramid after another: the sums of a level [batch, disparities that are looked up, height, width] are
// complete when its phase begins, and tasks are runs of the next level's rows. All phases are one parallel region.
template <class T, bool Stream>
class PyramidSpreader {
 public:
  using A = compute_t<T>;

  explicit PyramidSpreader(const CrossScale& args)
      : args_(args),
        shape_(args),
        coupling_(args.levels.count, args.lambda),
        levels_(last_wanted(args) + 1),
        odd_(elements(1) * int64_t(sizeof(A))),
        even_(elements(2) * int64_t(sizeof(A))) {}

  int64_t phases() const { return levels_; }
  int64_t tasks(int64_t s) const { return (rows(s) + run(s) - 1) / run(s); }

  void spread(int64_t s, int64_t task) const {
    const int64_t first = task * run(s), last = first + run(s) < rows(s) ? first + run(s) : rows(s);
    if (s == 0)
      spread_rows<Stream>(s, static_cast<T*>(args_.result), first, last);
    else
      spread_rows<false>(s, sums(s), first, last);
    if constexpr (Stream) stream_fence();
  }

  // Disparities that nobody looks up have a gradient of zero.
  void clear_unused() const {
    for (int64_t s = 0; s < levels_; ++s) {
      const CrossScaleLevels::Level& level = args_.levels.level[s];
      const int64_t plane = shape_.height(s) * shape_.width(s), used = shape_.disparities(s);
      if (!level.data || level.disparities == used) continue;
      for (int64_t n = 0; n < args_.batch; ++n)
        std::memset(static_cast<T*>(level.data) + (n * level.disparities + used) * plane, 0,
                    size_t((level.disparities - used) * plane) * sizeof(T));
    }
  }

 private:
  static int64_t last_wanted(const CrossScale& args) {
    int64_t s = args.levels.count - 1;
    while (s > 0 && !args.levels.level[s].data) --s;
    return s;
  }

  // Rows that gather from level s, and how many of them are a task.
  int64_t rows(int64_t s) const { return args_.batch * shape_.disparities(s + 1) * shape_.height(s + 1); }
  int64_t run(int64_t s) const { return 1 + (int64_t(1) << 14) / shape_.width(s); }
  int64_t elements(int64_t s) const {
    return s < levels_ ? args_.batch * shape_.disparities(s) * shape_.height(s) * shape_.width(s) : 1;
  }
  A* sums(int64_t s) const { return static_cast<A*>((s % 2 ? odd_ : even_).data()); }

  template <bool Past, class From>
  void spread_rows(int64_t s, From* from, int64_t first, int64_t last) const {
    constexpr int L = lanes<A>;
    const int64_t height = shape_.height(s), width = shape_.width(s), disparities = shape_.disparities(s);
    const int64_t next_disparities = shape_.disparities(s + 1), next_height = shape_.height(s + 1);
    const int64_t next_width = shape_.width(s + 1);
    const bool gathers = s + 1 < levels_;
    const CrossScaleLevels::Level& level = args_.levels.level[s];
    T* to = static_cast<T*>(level.data);
    const Scratch<A> row((width + L) / L * L);
    for (int64_t r = first; r < last; ++r) {
      const int64_t n = r / next_height / next_disparities, y = 2 * (r % next_height);
      const int64_t place = r / next_height % next_disparities;
      const int64_t last_child = 2 * (shape_.first(s + 1) + place) - shape_.first(s);
      bool begun = false;
      for (int64_t d = last_child - 1; d <= last_child; ++d) {
        if (d < 0 || d >= disparities) continue;
        for (int64_t child = y; child < y + 2 && child < height; ++child) {
          T* out = to ? to + ((n * level.disparities + d) * height + child) * width : nullptr;
          spread_row<Past>(from + ((n * disparities + d) * height + child) * width, out, width, coupling_.weight[s],
                           gathers ? row.get() : nullptr, !begun);
          begun = true;
        }
      }
      if (!gathers) continue;
      row[width] = 0;  // the last pixel may be alone
      A* gathered = sums(s + 1) + r * next_width;
      for (int64_t x = 0; x < next_width; ++x) gathered[x] = row[2 * x] + row[2 * x + 1];
    }
  }

  const CrossScale& args_;
  const PyramidShape shape_;
  const Coupling<A> coupling_;
  const int64_t levels_;         // up to the last one whose gradient is wanted
  const cpu::Block odd_, even_;  // sums of the levels but the finest, whose sums are the result's gradient
};

template <class T, bool Stream>
void spread_pyramid(const CrossScale& args, int threads) {
  const PyramidSpreader<T, Stream> spreader(args);
  spreader.clear_unused();
  parallel_phases(
      threads, spreader.phases(), [&](int64_t s) { return spreader.tasks(s); },
      [&](int64_t s, int64_t task, int) { spreader.spread(s, task); });
}

}  // namespace fastseg::FASTSEG_ISA
