// What products read of weights: blocks of targets.
#pragma once
#include "context_packed.h"
#include "context_taps.h"

namespace fastseg::FASTSEG_ISA {

// Weights of a branch as [block of targets][taps][sources][context_block], zeros beyond the last target. Targets are
// outputs, or transposed the inputs. Taps that find nothing but padding in images of `size` are left out.
template <class T>
class BranchWeights {
 public:
  using A = compute_t<T>;

  BranchWeights() = default;
  BranchWeights(const AsppBranch& branch, const int64_t (&size)[3], int64_t inputs, bool transposed,
                Workspace& workspace)
      : from_(static_cast<const T*>(branch.weight)),
        taps_(branch.taps()),
        targets_(transposed ? inputs : branch.outputs),
        sources_(transposed ? branch.outputs : inputs),
        target_stride_(transposed ? branch.input_stride : inputs * taps_),
        source_stride_(transposed ? inputs * taps_ : branch.input_stride),
        tap_stride_(branch.tap_stride),
        packed_(workspace.take<A>(blocks() * block_size())) {
    for (int64_t t = 0; t < least(taps_, 64); ++t) {
      const TapOffset tap(branch, t);
      const int64_t offset[] = {tap.z, tap.y, tap.x};
      for (int axis = Z; axis <= X; ++axis)
        if (most(offset[axis], -offset[axis]) >= size[axis]) unused_ |= uint64_t(1) << t;
    }
  }

  int64_t blocks() const { return ceil_div(targets_, context_block<A>); }
  int64_t targets() const { return targets_; }
  int64_t sources() const { return sources_; }
  const A* at(int64_t block, int64_t tap) const {
    return packed_ + block * block_size() + tap * sources_ * context_block<A>;
  }

  // Packing is cut into this many tasks: sources whose part of a block stays in the cache.
  int64_t tasks() const { return blocks() * ceil_div(sources_, together); }
  void pack(int64_t task) const {
    const int64_t runs = ceil_div(sources_, together), block = task / runs, first = task % runs * together;
    const int64_t count = least(together, sources_ - first), target = block * context_block<A>;
    A* const to = packed_ + block * block_size() + first * context_block<A>;
    const T* const from = from_ + target * target_stride_ + first * source_stride_;
    for (int64_t i = 0; i < context_block<A>; i += lanes<A>) {
      const T* const row = from + i * target_stride_;
      const auto at = [&](int64_t s, int64_t t) {
        return unused(t) ? nullptr : to + (t * sources_ + s) * context_block<A> + i;
      };
      const int64_t rows = least(targets_ - target - i, lanes<A>);
      if (source_stride_ == 1) {
        for (int64_t t = 0; t < taps_; ++t)
          if (!unused(t)) columns(row + t * tap_stride_, rows, count, [&](int64_t s) { return at(s, t); });
      } else if (tap_stride_ == 1 && source_stride_ == taps_) {
        int64_t s = 0, t = 0;
        columns(row, rows, count * taps_, [&](int64_t) {
          A* const place = at(s, t);
          if (++t == taps_) t = 0, ++s;
          return place;
        });
      } else {
        for (int64_t s = 0; s < count; ++s)
          if (target_stride_ == 1)
            for (int64_t t = 0; t < taps_; ++t)
              targets_beside_each_other(row + s * source_stride_ + t * tap_stride_, rows, at(s, t));
          else
            columns(row + s * source_stride_, rows, taps_, [&](int64_t t) { return at(s, t); });
      }
    }
  }

 private:
  static constexpr int64_t together = 16;

  // Numbers beside each other of `rows` targets, target_stride_ apart: each column of them to place(column), a vector
  // with zeros beyond the last target, or nowhere. Columns are asked for in order.
  template <class Place>
  void columns(const T* from, int64_t rows, int64_t count, const Place& place) const {
    constexpr int L = lanes<A>;
    const T* const end = from_ + weight_size();
    for (int64_t j = 0; j < count; j += L) {
      Vec<A> v[L] = {};
      for (int i = 0; i < L && i < rows; ++i) {
        const T* p = from + i * target_stride_ + j;
        if (end - p >= L)  // numbers beyond the last column are read, and not used
          v[i] = load(p);
        else
          for (int64_t k = 0; k < least(L, count - j); ++k) v[i][k] = load_one(p + k);
      }
      transpose(v);
      for (int64_t k = 0; k < least(L, count - j); ++k)
        if (A* const to = place(j + k)) store(to, v[k]);
    }
  }
  static void targets_beside_each_other(const T* from, int64_t rows, A* to) {
    if (!to) return;
    if (rows >= lanes<A>) return store(to, load(from));
    for (int64_t i = 0; i < lanes<A>; ++i) to[i] = i < rows ? A(load_one(from + i)) : A(0);
  }

  bool unused(int64_t tap) const { return tap < 64 && unused_ >> tap & 1; }
  int64_t weight_size() const { return targets_ * sources_ * taps_; }
  int64_t block_size() const { return taps_ * sources_ * context_block<A>; }

  const T* from_ = nullptr;
  int64_t taps_ = 0, targets_ = 0, sources_ = 0, target_stride_ = 0, source_stride_ = 0, tap_stride_ = 0;
  uint64_t unused_ = 0;  // a bit for each of the first taps
  A* packed_ = nullptr;
};

}  // namespace fastseg::FASTSEG_ISA
