// Runs of pixels of up-convolutions and of their gradients, for PixelProducts.
#pragma once
#include "image_pixels.h"
#include "pixel_runs.h"
#include "up_conv_patches.h"

namespace fastseg::FASTSEG_ISA {

// From pixels to patches: y.
template <class T, bool Stream>
class UpConvRuns {
 public:
  using A = compute_t<T>;
  static constexpr bool streams = Stream;

  explicit UpConvRuns(const UpConv& args)
      : fine_(args.shape, args.fine),
        coarse_{args.coarse, args.shape.pixels()},
        columns_(args.shape.columns()),
        pieces_(columns_ / fine_.together() + ceil_div(columns_, lanes<A>)),
        pieces_before_(ceil_div(columns_, lanes<A>) + 1) {
    constexpr int L = lanes<A>;
    int64_t count = 0;
    for (int64_t c = 0, now; c < columns_; c += now) {
      now = std::min(std::min(fine_.together() - c % fine_.together(), L - c % L), columns_ - c);
      if (c % L == 0) pieces_before_[c / L] = count;
      pieces_[count++] = {c, now, fine_.offset_of_column(c)};
    }
    pieces_before_[ceil_div(columns_, L)] = count;
  }

  bool rows() const { return fine_.rows(); }
  int64_t scratch(int64_t together) const {
    return together * ((coarse_.as_they_lie() ? 0 : channels()) + (rows() ? columns_ : 0));
  }

  auto operator()(int64_t n, int64_t first, int64_t count, A* numbers) const {
    Run run{*this, n * coarse_.pixels + first, count, numbers, channels(), numbers, {}};
    if (coarse_.as_they_lie()) {
      run.x = reinterpret_cast<const A*>(coarse_.at(n, first));
      run.pitch = coarse_.view.spatial_stride;
    } else {
      coarse_.copy(run.first, count, 0, channels(), numbers, channels());
      run.products += count * channels();
    }
    int64_t* offset = run.offsets;
    if (!rows())
      fine_.rows_of(run.first, count, [&](int64_t start, int64_t pixels) {
        for (int64_t i = 0; i < pixels; ++i) *offset++ = start + i * fine_.patch_stride();
      });
    return run;
  }

 private:
  // Neighbouring columns of one vector that are neighbours in memory, at an offset in a patch.
  struct Piece {
    int64_t column, count, offset;
  };

  struct Run {
    const UpConvRuns& runs;
    int64_t first, count;
    const A* x;
    int64_t pitch;
    A* products;
    int64_t offsets[most_pixels_together];  // of patches

    void multiply(const PixelBlock<A>& block) const {
      constexpr int L = lanes<A>;
      if (runs.rows()) {
        multiply_pixels<false>(block, x, pitch, count, products, runs.columns_);
        return;
      }
      const int64_t first_column = block.first_output;
      const Piece* const begin = &runs.pieces_[runs.pieces_before_[first_column / L]];
      const Piece* const end = &runs.pieces_[0] + runs.pieces_before_[ceil_div(first_column + block.outputs, L)];
      multiply_block(block, x, pitch, count, [&](int64_t pixel, const A* row) {
        T* const to = runs.fine_.data() + offsets[pixel];
        for (const Piece* p = begin; p < end; ++p) {
          store_part<Stream>(to + p->offset, load_part(row + (p->column - first_column), p->count), p->count);
        }
      });
    }
    void finish() const {
      if (runs.rows()) runs.fine_.template write_rows<Stream>(first, count, products);
    }
  };

  int64_t channels() const { return fine_.shape().channels; }

  Patches<T> fine_;
  ImagePixels<T> coarse_;
  int64_t columns_;
  Scratch<Piece> pieces_;
  Scratch<int64_t> pieces_before_;  // of each vector of columns
};

// From patches to pixels: the gradient of x.
template <class T, bool Stream>
class UpConvGradientRuns {
 public:
  using A = compute_t<T>;
  static constexpr bool streams = Stream;

  explicit UpConvGradientRuns(const UpConv& args)
      : fine_(args.shape, args.fine), coarse_{args.coarse, args.shape.pixels()}, columns_(args.shape.columns()) {}

  bool rows() const { return in_rows(coarse_.view); }
  int64_t scratch(int64_t together) const { return together * (columns_ + (rows() ? channels() : 0)); }

  auto operator()(int64_t n, int64_t first, int64_t count, A* numbers) const {
    fine_.copy(n * coarse_.pixels + first, count, 0, columns_, numbers, columns_);
    return Run{*this, n, first, count, numbers};
  }

 private:
  struct Run {
    const UpConvGradientRuns& runs;
    int64_t n, first, count;
    A* patches;

    A* products() const { return patches + count * runs.columns_; }
    T* y() const { return runs.coarse_.at(n, first); }

    void multiply(const PixelBlock<A>& block) const {
      if (runs.rows())
        multiply_pixels<false>(block, patches, runs.columns_, count, products(), runs.channels());
      else
        multiply_pixels<Stream>(block, patches, runs.columns_, count, y(), runs.coarse_.view.spatial_stride);
    }
    void finish() const {
      const int64_t channels = runs.channels();
      if (runs.rows())
        rows_of_pixels<false>(products(), channels, channels, count, y(), runs.coarse_.view.channel_stride);
    }
  };

  int64_t channels() const { return fine_.shape().channels; }

  Patches<T> fine_;
  ImagePixels<T> coarse_;
  int64_t columns_;
};

}  // namespace fastseg::FASTSEG_ISA
