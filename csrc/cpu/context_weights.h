// What products read of weights: blocks of targets.
#pragma once
#include "context_packed.h"
#include "context_taps.h"
#include "weight_columns.h"

namespace fastseg::FASTSEG_ISA {

// Weights of a branch as [block of targets][taps][sources][width], zeros beyond the last target. Targets are
// outputs, or transposed the inputs, with taps from the last to the first: sources are always walked upwards. Taps that
// find nothing but padding are left out.
template <class T>
class BranchWeights {
 public:
  using A = compute_t<T>;

  BranchWeights() = default;
  // `by_panel`: products take all taps together, those that find nothing too.
  BranchWeights(const ContextBranch& branch, const ImageBands& bands, int64_t inputs, bool transposed, bool by_panel,
                Workspace& workspace)
      : from_(static_cast<const T*>(branch.weight)),
        transposed_(transposed),
        taps_(branch.taps()),
        targets_(transposed ? inputs : branch.outputs),
        sources_(transposed ? branch.outputs : inputs),
        width_(block_width<A>(targets_)),
        target_stride_(transposed ? branch.input_stride : inputs * taps_),
        source_stride_(transposed ? inputs * taps_ : branch.input_stride),
        tap_stride_(branch.tap_stride),
        packed_(workspace.take<A>(blocks() * block_size())) {
    for (int64_t t = 0; !by_panel && t < least(taps_, 64); ++t) {
      const TapOffset tap(branch, t);
      if (!bands.finds_some(transposed ? tap.reversed() : tap)) unused_ |= uint64_t(1) << t;
    }
  }

  int64_t blocks() const { return ceil_div(targets_, context_block<A>); }
  int64_t targets() const { return targets_; }
  int64_t sources() const { return sources_; }
  int64_t width() const { return width_; }
  // Where the sources of packed tap number `tap` lie.
  TapOffset offset(const ContextBranch& branch, int64_t tap) const {
    return transposed_ ? TapOffset(branch, taps_ - 1 - tap).reversed() : TapOffset(branch, tap);
  }
  const A* at(int64_t block, int64_t tap) const { return packed_ + block * block_size() + tap * sources_ * width_; }

  // Packing is cut into this many tasks: sources whose part of a block stays in the cache.
  int64_t tasks() const { return blocks() * runs(); }
  int64_t block_of(int64_t task) const { return task / runs(); }
  int64_t first_source(int64_t task) const { return task % runs() * together; }
  int64_t end_source(int64_t task) const { return least(first_source(task) + together, sources_); }
  void pack(int64_t task) const {
    const int64_t block = block_of(task), first = first_source(task), count = end_source(task) - first;
    const int64_t target = block * context_block<A>;
    A* const to = packed_ + block * block_size() + first * width_;
    const T* const from = from_ + target * target_stride_ + first * source_stride_;
    for (int64_t i = 0; i < width_; i += lanes<A>) {
      const T* const row = from + i * target_stride_;
      const auto at = [&](int64_t s, int64_t t) {
        return unused(t) ? nullptr : to + ((transposed_ ? taps_ - 1 - t : t) * sources_ + s) * width_ + i;
      };
      const int64_t rows = least(targets_ - target - i, lanes<A>);
      const auto columns = [&](const T* first_row, int64_t n, const auto& place) {
        pack_columns(first_row, from_ + weight_size(), target_stride_, rows, n, place);
      };
      if (source_stride_ == 1) {
        for (int64_t t = 0; t < taps_; ++t)
          if (!unused(t)) columns(row + t * tap_stride_, count, [&](int64_t s) { return at(s, t); });
      } else if (tap_stride_ == 1 && source_stride_ == taps_) {
        int64_t s = 0, t = 0;
        columns(row, count * taps_, [&](int64_t) {
          A* const place = at(s, t);
          if (++t == taps_) t = 0, ++s;
          return place;
        });
      } else {
        for (int64_t s = 0; s < count; ++s) {
          const T* const at_source = row + s * source_stride_;
          if (target_stride_ != 1) {
            columns(at_source, taps_, [&](int64_t t) { return at(s, t); });
            continue;
          }
          for (int64_t t = 0; t < taps_; ++t)
            if (A* const place = at(s, t)) pack_column(at_source + t * tap_stride_, rows, place);
        }
      }
    }
  }

 private:
  static constexpr int64_t together = 16;

  int64_t runs() const { return ceil_div(sources_, together); }
  bool unused(int64_t tap) const { return tap < 64 && unused_ >> tap & 1; }
  int64_t weight_size() const { return targets_ * sources_ * taps_; }
  int64_t block_size() const { return taps_ * sources_ * width_; }

  const T* from_ = nullptr;
  bool transposed_ = false;
  int64_t taps_ = 0, targets_ = 0, sources_ = 0, width_ = 0, target_stride_ = 0, source_stride_ = 0, tap_stride_ = 0;
  uint64_t unused_ = 0;  // a bit for each of the first taps
  A* packed_ = nullptr;
};

}  // namespace fastseg::FASTSEG_ISA
