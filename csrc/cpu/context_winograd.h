// Dense convolutions of three taps along each axis by Winograd's minimal filtering, forward or for the gradient of x,
// with any dilation.
//
// Floor: inputs * outputs * 16 multiply-adds for 2x2 targets of images, instead of 36; 64 for 2x2x2 of volumes, instead
// of 216. A vector of sources takes 32 additions a tile and slab, one of targets as many: a few percent of the products
// from 32 channels on. Sources of some tiles at all points, their products and the sums of their targets lie in the
// second-level cache; one slab of points comes after the other, so that there is room for tiles enough to read the
// weights for.
#pragma once

#include <algorithm>

#include "context_targets.h"
#include "context_weights.h"
#include "context_winograd_transforms.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
class WinogradConvolution {
 public:
  using A = compute_t<T>;

  // `transposed`: from y to dx, else from x to y. `adds`: to what dx has, of the compute type.
  WinogradConvolution(const ContextConv& args, const Pixels<T>& source, bool transposed, bool adds, bool stream,
                      bool wanted, int threads, Workspace& workspace)
      : args_(args), source_(source), transposed_(transposed), adds_(adds), stream_(stream), tiles_(args, transposed) {
    if (!wanted) return;
    const ImageBands bands(args, transposed, 1);
    constexpr bool all_taps = true;
    weights_ = BranchWeights<T>(branch(), bands, args.inputs, transposed, all_taps, workspace);
    points_ = workspace.take<A>(weights_.blocks() * block_size());
    source_pitch_ = round_up(weights_.sources(), lanes<A>);
    cut(threads);
    sources_size_ = winograd_points * point_stride<A>(rows_ * piece_ * source_pitch_);
    products_size_ = winograd_points * point_stride<A>(rows_ * piece_ * weights_.width());
    sums_size_ = rows_ * row_pixels() * weights_.width();
    sources_ = workspace.take<A>(threads * sources_size_);
    scratch_size_ = 9 * source_pitch_;
    scratch_ = workspace.take<A>(threads * scratch_size_);
    products_ = workspace.take<A>(threads * products_size_);
    sums_ = workspace.take<A>(threads * together_ * sums_size_);
  }

  // Whether it takes this convolution, and is the faster way.
  static bool pays(const ContextConv& args, bool transposed) {
    constexpr int64_t tenths = 12;
    return WinogradTiles::takes<A>(args) && (!transposed || args.dx) &&
           WinogradTiles(args, transposed).pays(args, tenths);
  }

  int64_t weight_tasks() const { return weights_.tasks(); }
  void pack_weights(int64_t task) const {
    weights_.pack(task);
    if constexpr (std::is_same_v<A, float>) transform(task);
  }

  int64_t tasks() const { return block_groups_ * args_.batch * row_groups_ * pieces_; }
  void run(int64_t task, int thread) const {
    if constexpr (std::is_same_v<A, float>)
      tiles_.volume ? run_tiles<true>(task, thread) : run_tiles<false>(task, thread);
  }

 private:
  // Of the second-level cache, for what lies there of a task; and tiles that are enough to read weights for.
  static constexpr int64_t bytes = 512 * 1024, most_tiles = 64, least_tiles = 12, tasks_each = 8;
  // Sources whose weights stay in the first-level cache.
  static constexpr int64_t weights_together = 128;

  // Packed weights to points.
  void transform(int64_t task) const {
    const int64_t block = weights_.block_of(task), width = weights_.width(), sources = weights_.sources();
    for (int64_t s = weights_.first_source(task); s < weights_.end_source(task); ++s)
      for (int64_t i = 0; i < width; i += lanes<A>) {
        const A* const from = weights_.at(block, 0) + s * width + i;
        A* const to = at_point(block, 0, 0) + s * width + i;
        if (tiles_.volume)
          transform_weights<true>(from, sources * width, to, weight_stride());
        else
          transform_weights<false>(from, sources * width, to, weight_stride());
      }
  }

  const ContextBranch& branch() const { return args_.branches.branch[0]; }
  int64_t weight_stride() const { return point_stride<A>(weights_.sources() * weights_.width()); }
  int64_t block_size() const { return tiles_.slabs() * winograd_points * weight_stride(); }
  A* at_point(int64_t block, int slab, int point) const {
    return points_ + block * block_size() + (slab * winograd_points + point) * weight_stride();
  }
  // Targets of a row of tiles, in the order of the image.
  int64_t row_pixels() const { return tiles_.layers() * 4 * piece_; }

  // Into pieces of rows of tiles, or groups of rows, and groups of blocks of targets.
  void cut(int threads) {
    const int64_t width = weights_.width(), across = tiles_.across[X];
    const auto tiles_for = [&](int64_t blocks) {
      const int64_t numbers = winograd_points * (source_pitch_ + width) + 4 * tiles_.layers() * width * blocks;
      return least(most(bytes / (numbers * int64_t(sizeof(A))), least_tiles), most_tiles);
    };
    const auto set = [&](int64_t blocks) {
      together_ = blocks;
      const int64_t tiles = tiles_for(blocks);
      pieces_ = ceil_div(across, tiles);
      piece_ = ceil_div(across, pieces_);
      // Pieces have all phases, and begin at whole vectors where they can.
      if (pieces_ > 1) piece_ = round_up(piece_, 8 % tiles_.phases() ? tiles_.phases() : 8);
      pieces_ = ceil_div(across, piece_);
      rows_ = least(most(tiles / piece_, 1), tiles_.rows());
      row_groups_ = ceil_div(tiles_.rows(), rows_);
      rows_ = ceil_div(tiles_.rows(), row_groups_);
      block_groups_ = ceil_div(weights_.blocks(), blocks);
    };
    set(weights_.blocks());
    while (together_ > 1 && block_groups_ * args_.batch * row_groups_ * pieces_ < threads * tasks_each)
      set(together_ - 1);
  }

  template <bool Volume>
  void run_tiles(int64_t task, int thread) const {
    A *const sources = sources_ + thread * sources_size_, *const products = products_ + thread * products_size_;
    A *const sums = sums_ + thread * together_ * sums_size_, *const zeros = scratch_ + thread * scratch_size_,
             *const kept = zeros + source_pitch_;
    std::fill_n(zeros, source_pitch_, A(0));
    const int64_t first_tile = task % pieces_ * piece_, tiles = least(piece_, tiles_.across[X] - first_tile);
    task /= pieces_;
    const int64_t first_row = task % row_groups_ * rows_, rows = least(rows_, tiles_.rows() - first_row);
    task /= row_groups_;
    const int64_t n = task % args_.batch, width = weights_.width();
    const int64_t first_block = task / args_.batch * together_;
    const int64_t blocks = least(together_, weights_.blocks() - first_block);
    const int64_t source_stride = point_stride<A>(rows * tiles * source_pitch_);
    const int64_t stride = point_stride<A>(rows * tiles * width), pixels = tiles_.layers() * 4 * tiles;
    // Tiles of a row lie phase by phase.
    const int64_t phases = tiles_.phases(), phase_tiles = tiles / phases;
    const int64_t first_source = transposed_ ? branch().first : 0;
    for (int64_t b = 0; b < blocks; ++b) {
      const int64_t first = (first_block + b) * context_block<A>;
      start_sums(transposed_ ? args_.dx_bias : branch().bias, first, targets_of(first), width, rows * pixels,
                 sums + b * sums_size_);
      for (int64_t r = 0; adds_ && r < rows; ++r)
        for_pixels(first_row + r, first_tile, tiles, [&](int64_t pixel, int64_t count, int64_t sum) {
          read_sums(args_.dx, first, targets_of(first), n, pixel, count,
                    sums + b * sums_size_ + (r * pixels + sum) * width, width);
        });
    }
    for (int slab = 0; slab < (Volume ? winograd_slabs : 1); ++slab) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t phase = 0; phase < phases; ++phase)
          transform_sources<Volume>(tiles_.rows_of(source_, n, first_row + r, first_tile, phase, slab, first_source),
                                    weights_.sources(), phase_tiles, zeros, kept,
                                    sources + (r * tiles + phase * phase_tiles) * source_pitch_, source_pitch_,
                                    source_stride);
      for (int64_t b = 0; b < blocks; ++b) {
        for (int point = 0; point < winograd_points; ++point)
          multiply(sources + point * source_stride, rows * tiles, first_block + b, slab, point,
                   products + point * stride);
        for (int64_t r = 0; r < rows; ++r)
          for (int64_t phase = 0; phase < phases; ++phase)
            add_targets<Volume>(products + (r * tiles + phase * phase_tiles) * width, stride, phase_tiles, width, slab,
                                sums + b * sums_size_ + (r * pixels + phase) * width, phases * width,
                                2 * tiles * width);
      }
    }
    for (int64_t b = 0; b < blocks; ++b)
      for (int64_t r = 0; r < rows; ++r)
        write((first_block + b) * context_block<A>, n, first_row + r, first_tile, tiles,
              sums + b * sums_size_ + r * pixels * width);
  }

  int64_t targets_of(int64_t first) const { return least(weights_.targets() - first, context_block<A>); }

  // products [tiles][width] = sources [tiles][source_pitch] * weights of a point.
  void multiply(const A* sources, int64_t tiles, int64_t block, int slab, int point, A* products) const {
    const int64_t width = weights_.width(), count = weights_.sources();
    const int64_t at_once = ceil_div(count, ceil_div(count, weights_together));
    const Products<A> product(targets_of(block * context_block<A>));
    for (int64_t s = 0; s < count; s += at_once) {
      const A* const factors = at_point(block, slab, point) + s * width;
      for (int64_t i = 0, now; i < tiles; i += now) {
        now = product.next(tiles - i);
        A* const to = products + i * width;
        product(now, {sources + i * source_pitch_ + s, source_pitch_, 1, least(at_once, count - s), factors, width},
                {s ? to : nullptr, width}, {to, width});
      }
    }
  }

  // Calls body(pixel, count, sum) for the targets of a row of tiles, of which the last may lie outside: `count` from
  // `pixel` on, whose sums begin at number `sum`.
  template <class Body>
  void for_pixels(int64_t row, int64_t first_tile, int64_t tiles, const Body& body) const {
    const int64_t x = 2 * first_tile, count = least(2 * tiles, tiles_.targets[X] - x);
    for (int64_t layer = 0; layer < tiles_.layers(); ++layer)
      for (int64_t i = 0; i < 2; ++i) {
        const int64_t z = tiles_.target(row, Z, layer), y = tiles_.target(row, Y, i);
        if (z < tiles_.targets[Z] && y < tiles_.targets[Y])
          body((z * tiles_.targets[Y] + y) * tiles_.targets[X] + x, count, (layer * 2 + i) * 2 * tiles);
      }
  }

  void write(int64_t first, int64_t n, int64_t row, int64_t first_tile, int64_t tiles, const A* sums) const {
    const int64_t width = weights_.width(), channel = transposed_ ? first : branch().first + first;
    for_pixels(row, first_tile, tiles, [&](int64_t pixel, int64_t count, int64_t sum) {
      write_sums<T>(transposed_ ? args_.dx : args_.y, channel, targets_of(first), n, pixel, count, sums + sum * width,
                    width, stream_);
    });
  }

  const ContextConv& args_;
  const Pixels<T>& source_;
  bool transposed_, adds_, stream_;
  WinogradTiles tiles_;
  BranchWeights<T> weights_;
  // Tiles of a row that a task takes, rows, and blocks of targets; and how many of these there are.
  int64_t piece_ = 0, rows_ = 0, together_ = 0, pieces_ = 0, row_groups_ = 0, block_groups_ = 0;
  int64_t source_pitch_ = 0, sources_size_ = 0, products_size_ = 0, sums_size_ = 0, scratch_size_ = 0;
  A* points_ = nullptr;  // the weights at all points
  // A thread's sources and products at the points of a slab, zeros and shared columns, and sums of targets.
  A *sources_ = nullptr, *products_ = nullptr, *scratch_ = nullptr, *sums_ = nullptr;
};

}  // namespace fastseg::FASTSEG_ISA
