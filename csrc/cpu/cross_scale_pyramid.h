// Levels of a pyramid combined in one pass over the result, row after row.
//
// A row of the result needs one row of each coarser level, which other rows need too: two rows and two disparities of
// a level share a row of the next one. So each thread keeps one row of every level as it is combined with the coarser
// ones, with each pixel twice, as the finer level reads it. From row to row a new one is made for the levels that move
// on: a quarter of the work on the finest level, as disparities that share a row make it again, and a twelfth more for
// all other levels. The finest level and the result are contiguous over rows. What is to be combined with them goes
// through a short queue, so that a vector of the result may be of two rows and none is stored in parts.
#pragma once
#include "cross_scale_levels.h"
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/transpose.h"

namespace fastseg::FASTSEG_ISA {

// Whether all numbers are finite, in one operation: zero times infinity or NaN is NaN, and stays so in a sum.
template <class A>
class FiniteCheck {
 public:
  void add(Vec<A> v) { sum_ += v * A(0); }
  void add(const FiniteCheck& other) { sum_ += other.sum_; }
  void report(bool* finite) const {
    if (!(add_lanes(sum_) == 0)) __atomic_store_n(finite, false, __ATOMIC_RELAXED);
  }

 private:
  Vec<A> sum_{};
};

// Rows of the coarser levels, combined, each pixel twice.
template <class T>
class CoarserRows {
 public:
  using A = compute_t<T>;

  CoarserRows(const CrossScale& args, const PyramidShape& shape, const Coupling<A>& coupling)
      : args_(args), shape_(shape), coupling_(coupling), memory_(elements(args, shape)) {
    A* row = memory_.get();
    for (int64_t s = 1; s < args.levels.count; ++s) {
      rows_[s] = row;
      held_[s] = -1;
      row += doubled(shape.width(s));
    }
  }

  // Level 1 as row y of disparity d of volume n reads it; whole vectors.
  const A* row(int64_t n, int64_t d, int64_t y) { return row_of(1, n, d, y); }

 private:
  static int64_t doubled(int64_t width) { return 2 * ((width + lanes<A> - 1) / lanes<A> * lanes<A>); }
  static int64_t elements(const CrossScale& args, const PyramidShape& shape) {
    int64_t sum = 0;
    for (int64_t s = 1; s < args.levels.count; ++s) sum += doubled(shape.width(s));
    return sum;
  }

  const A* row_of(int64_t s, int64_t n, int64_t d, int64_t y) {
    const CrossScaleLevels::Level& level = args_.levels.level[s];
    const int64_t row = (n * level.disparities + shape_.place(s, d)) * shape_.height(s) + (y >> s);
    if (held_[s] == row) return rows_[s];
    held_[s] = row;
    const int64_t width = shape_.width(s);
    const ImageRows<T> costs = line_of(static_cast<T*>(level.data) + row * width, width);
    const A* coarser = s + 1 < args_.levels.count ? row_of(s + 1, n, d, y) : nullptr;
    for (int64_t x = 0; x < width; x += lanes<A>) {
      Vec<A> u = costs.read(0, x);
      if (coarser) {
        const Vec<A> c = u;
        u = load(coarser + x);
        u += coupling_.gain[s] * (c - u);
      }
      store(rows_[s] + 2 * x, interleave<false>(u, u, Lanes{}));
      store(rows_[s] + 2 * x + lanes<A>, interleave<true>(u, u, Lanes{}));
    }
    return rows_[s];
  }

  using Lanes = std::make_integer_sequence<int, lanes<A>>;

  const CrossScale& args_;
  const PyramidShape& shape_;
  const Coupling<A>& coupling_;
  Scratch<A> memory_;
  A* rows_[CrossScaleLevels::most];
  int64_t held_[CrossScaleLevels::most];  // the row of its level that lies in rows_
};

// The finest level with what is queued, in whole vectors; returns how many elements those are.
template <bool Stream, class T, class A>
inline int64_t combine_vectors(const A* queue, const T* costs, T* result, int64_t count, A gain,
                               FiniteCheck<A>& check) {
  constexpr int L = lanes<A>;
  const Vec<A> gains = broadcast<Vec<A>>(gain);
  FiniteCheck<A> sum;  // in a register, as the other one's address is known to others
  int64_t i = 0;
  for (; i + L <= count; i += L) {
    Vec<A> u = load(queue + i);
    u += gains * (load(costs + i) - u);
    sum.add(u);
    store<Stream>(result + i, u);
  }
  check.add(sum);
  return i;
}

template <class T, bool Stream>
void combine_pyramid(const CrossScale& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const int64_t height = args.height, width = args.width, disparities = args.levels.level[0].disparities;
  const PyramidShape shape(args);
  const Coupling<A> coupling(args.levels.count, args.lambda);
  const A gain = coupling.gain[0];
  parallel_spans(threads, args.batch * disparities * height, [&](int64_t first, int64_t last) {
    CoarserRows<T> coarser(args, shape, coupling);
    FiniteCheck<A> check;
    constexpr int64_t enough = 512;  // elements; short rows gather in the queue first
    const Scratch<A> queue(enough + width + L);
    int64_t queued = 0;
    T* costs = static_cast<T*>(args.levels.level[0].data) + first * width;
    T* result = static_cast<T*>(args.result) + first * width;
    const auto pop = [&](int64_t count) {  // less than a vector
      const Vec<A> u = line_of(queue.get(), count).read(0, 0);
      const Vec<A> v = u + gain * (line_of(costs, count).read(0, 0) - u);
      for (int64_t i = 0; i < queued - count; ++i) queue[i] = queue[i + count];
      line_of(result, count).write(0, 0, v);
      check.add(v);
      costs += count, result += count, queued -= count;
    };
    bool aligned = false;
    for (int64_t r = first; r < last; ++r) {
      const A* row = coarser.row(r / height / disparities, r / height % disparities, r % height);
      std::memcpy(queue.get() + queued, row, size_t(width) * sizeof(A));
      queued += width;
      if (r + 1 < last && queued < enough) continue;
      if (!aligned) {
        const int64_t head = misaligned_elements(result, queued);
        if (head > 0) pop(head);
        aligned = true;
      }
      const int64_t i = combine_vectors<Stream>(queue.get(), costs, result, queued, gain, check);
      costs += i, result += i, queued -= i;
      store(queue.get(), load(queue.get() + i));
    }
    if (queued > 0) pop(queued);
    check.report(args.finite);
    if constexpr (Stream) stream_fence();
  });
}

}  // namespace fastseg::FASTSEG_ISA
