// Gradients of the weights of three taps along each axis by Winograd's minimal filtering: the same products as forward,
// read the other way. Sources and gradients of some tiles go to the points, their products are summed up there over all
// tiles, and the sums go back to taps once.
//
// Floor: as many multiply-adds as forward in this way.
#pragma once
#include <algorithm>

#include "context_correlation.h"
#include "context_winograd_transforms.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
class WinogradGradient {
 public:
  using A = compute_t<T>;

  // Tasks take at most `inputs` inputs.
  WinogradGradient(const ContextConv& args, const Pixels<T>& grad, const Pixels<T>& x, int64_t inputs, bool wanted,
                   int threads, Workspace& workspace)
      : args_(args), grad_(grad), x_(x), tiles_(args, false) {
    if (!wanted) return;
    pitch_ = round_up(inputs, lanes<A>);
    const int64_t across = tiles_.across[X];
    pieces_ = ceil_div(across, most_tiles);
    piece_ = round_up(ceil_div(across, pieces_), tiles_.phases());
    pieces_ = ceil_div(across, piece_);
    rows_ = least(most(most_tiles / piece_, 1), tiles_.rows());
    sources_size_ = winograd_points * point_stride<A>(rows_ * piece_ * pitch_);
    size_ = sources_size_ + winograd_points * point_stride<A>(rows_ * piece_ * context_block<A>);
    points_ = workspace.take<A>(threads * size_);
    sums_size_ = winograd_points * inputs * context_block<A>;
    scratch_size_ = 9 * most(pitch_, context_block<A>);
    scratch_ = workspace.take<A>(threads * scratch_size_);
    sums_ = workspace.take<double>(threads * sums_size_);
  }

  // Whether it takes the weights of this convolution, and is the faster way.
  static bool pays(const ContextConv& args) {
    constexpr int64_t tenths = 18;
    return WinogradTiles::takes<A>(args) && args.branches.branch[0].dweight &&
           WinogradTiles(args, false).pays(args, tenths);
  }

  // Groups of tiles of an image.
  int64_t groups() const { return ceil_div(tiles_.rows(), rows_) * pieces_; }

  // Adds what groups [begin, end) of all images give to the sums [taps][inputs][width] of `outputs` outputs from
  // `output` on, and `inputs` inputs from `input` on, `together` at a time.
  void add(int64_t begin, int64_t end, int64_t output, int64_t outputs, int vectors, int64_t input, int64_t inputs,
           int64_t together, int thread, double* to) const {
    if constexpr (std::is_same_v<A, float>) {
      const auto add = tiles_.volume ? &WinogradGradient::add_slabs<true> : &WinogradGradient::add_slabs<false>;
      (this->*add)(begin, end, output, outputs, vectors, input, inputs, together, thread, to);
    }
  }

 private:
  // Tiles whose points lie in the second-level cache, and few enough for sums in float32.
  static constexpr int64_t most_tiles = 64;

  template <bool Volume>
  void add_slabs(int64_t begin, int64_t end, int64_t output, int64_t outputs, int vectors, int64_t input,
                 int64_t inputs, int64_t together, int thread, double* to) const {
    A *const sources = points_ + thread * size_, *const grads = sources + sources_size_;
    A *const zeros = scratch_ + thread * scratch_size_, *const kept = zeros + most(pitch_, context_block<A>);
    std::fill_n(zeros, most(pitch_, context_block<A>), A(0));
    double* const sums = sums_ + thread * sums_size_;
    const int64_t width = vectors * lanes<A>, numbers = inputs * width, phases = tiles_.phases();
    const Correlation<A> correlate = correlation<A>(vectors, together);
    for (int slab = 0; slab < (Volume ? winograd_slabs : 1); ++slab) {
      std::fill_n(sums, winograd_points * numbers, 0.);
      for (int64_t group = begin; group < end; ++group) {
        const int64_t n = group / groups(), at = group % groups(), first_tile = at % pieces_ * piece_;
        const int64_t tiles = least(piece_, tiles_.across[X] - first_tile);
        const int64_t first_row = at / pieces_ * rows_, rows = least(rows_, tiles_.rows() - first_row);
        const int64_t source_stride = point_stride<A>(rows * tiles * pitch_);
        const int64_t grad_stride = point_stride<A>(rows * tiles * width);
        for (int64_t i = 0; i < rows * phases; ++i) {
          const int64_t row = first_row + i / phases, phase = i % phases, phase_tiles = tiles / phases;
          transform_sources<Volume>(tiles_.rows_of(x_, n, row, first_tile, phase, slab, input),
                                    least(inputs, args_.inputs - input), phase_tiles, zeros, kept,
                                    sources + i * phase_tiles * pitch_, pitch_, source_stride);
          transform_gradients<Volume>(tiles_.gradients_of(grad_, n, row, first_tile, phase, slab, output), outputs,
                                      width, phase_tiles, zeros, grads + i * phase_tiles * width, grad_stride);
        }
        for (int point = 0; point < winograd_points; ++point) {
          const GradientRun<A> run{grads + point * grad_stride, 0, rows * tiles};
          for (int64_t c = 0; c < inputs; c += together)
            correlate(&run, 1, sources + point * source_stride + c, pitch_, sums + point * numbers + c * width);
        }
      }
      add_taps<Volume>(sums, numbers, slab, to);
    }
  }

  const ContextConv& args_;
  const Pixels<T>&grad_, &x_;
  WinogradTiles tiles_;
  int64_t pitch_ = 0, pieces_ = 1, piece_ = 0, rows_ = 1, sources_size_ = 0, size_ = 0, sums_size_ = 0,
          scratch_size_ = 0;
  // A thread's sources and gradients at the points of a slab, zeros and shared columns, and sums at these points.
  A *points_ = nullptr, *scratch_ = nullptr;
  double* sums_ = nullptr;
};

}  // namespace fastseg::FASTSEG_ISA
