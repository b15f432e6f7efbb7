// Winograd's minimal filtering F(2, 3) (Lavin and Gray 2016, arXiv:1509.09308): two targets of three taps take four
// products instead of six, along each axis. Which convolutions it takes, and the tiles that they are cut into.
//
// With a dilation of d every d-th pixel of an axis is a convolution without one: d phases, each of which has tiles of
// its own. d tiles beside each other have 2d neighbouring targets.
#pragma once
#include "context_packed.h"
#include "context_taps.h"

namespace fastseg::FASTSEG_ISA {

// Points along height and width; and slabs of these, along depth, of kernels that have three taps there.
constexpr int winograd_points = 16, winograd_slabs = 4;
// What a slab of points is taken times in either layer of targets, and these in the slab.
constexpr int winograd_layers[2][winograd_slabs] = {{1, 1, 1, 0}, {0, 1, -1, -1}};

// Rows of sources of a row of tiles: four of each of the two planes that a slab adds up, of images of one. Null where
// they lie outside of the image.
template <class A>
struct TileRows {
  const A* at[2][4];
  A sign;  // of the second plane
  // The first tile's first column, which may lie outside, and the columns from one of a tile to the next; how many
  // columns there are, and how far apart.
  int64_t first, step, columns, pitch;
};

// Rows of gradients of a row of tiles: two of each of the planes that a slab adds up, `factor` times. Null as above.
template <class A>
struct TileGradients {
  const A* at[2][2];
  A factor[2];
  int64_t step, pitch, columns;  // as above; columns that are left of the image
};

// Targets of a convolution, or of its gradient of x (`transposed`), as tiles of 2x2 of an image or 2x2x2 of a volume.
// Depth and height are one axis of rows of tiles, in the order of their first targets; a row has all phases of its
// columns.
struct WinogradTiles {
  int64_t targets[3], sources[3], dilation[3], across[3];
  int64_t before[3];  // source of a target's first tap: target - before
  bool volume;

  WinogradTiles(const ContextConv& args, bool transposed) {
    const ContextBranch& branch = args.branches.branch[0];
    volume = branch.kernel[Z] > 1;
    for (int axis = Z; axis <= X; ++axis) {
      targets[axis] = transposed ? args.size[axis] : args.output_size[axis];
      sources[axis] = transposed ? args.output_size[axis] : args.size[axis];
      dilation[axis] = branch.kernel[axis] > 1 ? branch.dilation[axis] : 1;
      const int64_t last = (branch.kernel[axis] - 1) * dilation[axis];
      before[axis] = transposed ? last - branch.before[axis] : branch.before[axis];
      const int64_t together = 2 * dilation[axis];
      across[axis] = targets[axis] / together * dilation[axis] + least(targets[axis] % together, dilation[axis]);
    }
    if (!volume) across[Z] = targets[Z];
    across[X] = round_up(across[X], dilation[X]);
  }

  // Whether there are such tiles: of float32 alone, for float64 is asked for where digits count.
  template <class A>
  static bool takes(const ContextConv& args) {
    if (!std::is_same_v<A, float> || args.branches.count != 1) return false;
    const ContextBranch& branch = args.branches.branch[0];
    bool fits = branch.kernel[Y] == 3 && branch.kernel[X] == 3 && (branch.kernel[Z] == 1 || branch.kernel[Z] == 3);
    for (int axis = Z; axis <= X; ++axis) fits = fits && args.stride[axis] == 1;
    return fits;
  }
  // Whether they are faster than products tap by tap, as measured on four cores with AVX-512. A vector has that many
  // channels; odd sizes leave tiles half empty, taps on padding are none of the direct products; and few tiles do not
  // outweigh the weights, which are more numbers here. Direct products are `tenths` tenths of those of tiles, at least.
  bool pays(const ContextConv& args, int64_t tenths) const {
    constexpr int64_t least_channels = 16, products_a_weight = 110;
    const int64_t tiled = args.batch * products() + products_a_weight * winograd_points * slabs();
    const int64_t direct = args.batch * direct_products() + products_a_weight * args.branches.branch[0].taps();
    return least(args.inputs, args.branches.branch[0].outputs) >= least_channels &&
           10 * direct_products() >= tenths * products() && 10 * direct >= 11 * tiled;
  }

  int64_t rows() const { return across[Z] * across[Y]; }
  int slabs() const { return volume ? winograd_slabs : 1; }
  int layers() const { return volume ? 2 : 1; }
  int64_t phases() const { return dilation[X]; }
  // The target number `i` of a row of tiles along depth or height.
  int64_t target(int64_t row, int axis, int64_t i) const {
    const int64_t tile = axis == Z ? row / across[Y] : row % across[Y], step = dilation[axis];
    return axis == Z && !volume ? tile : (tile / step * 2 + i) * step + tile % step;
  }

  // The rows of image n that a phase of row number `row` of tiles finds, from tile number `tile` and channel `channel`
  // on.
  template <class T>
  TileRows<compute_t<T>> rows_of(const Pixels<T>& source, int64_t n, int64_t row, int64_t tile, int64_t phase, int slab,
                                 int64_t channel) const {
    // d0 - d2, d1 + d2, d2 - d1, d1 - d3.
    constexpr int first_plane[] = {0, 1, 2, 1}, second_plane[] = {2, 2, 1, 3};
    TileRows<compute_t<T>> found{};
    for (int plane = 0; plane < layers(); ++plane) {
      const int64_t z = target(row, Z, plane ? second_plane[slab] : first_plane[slab]) - before[Z];
      for (int i = 0; i < 4; ++i) {
        const int64_t y = target(row, Y, i) - before[Y];
        if (z >= 0 && z < sources[Z] && y >= 0 && y < sources[Y])
          found.at[plane][i] = source.at(n, (z * sources[Y] + y) * sources[X]) + channel;
      }
    }
    found.sign = slab == 1 ? 1 : -1;
    found.first = 2 * tile + phase - before[X];
    found.step = dilation[X];
    found.columns = sources[X];
    found.pitch = source.pitch();
    return found;
  }

  // The gradients of the targets of the same tiles.
  template <class T>
  TileGradients<compute_t<T>> gradients_of(const Pixels<T>& grad, int64_t n, int64_t row, int64_t tile, int64_t phase,
                                           int slab, int64_t channel) const {
    const int64_t x = 2 * tile + phase;
    TileGradients<compute_t<T>> found{};
    for (int layer = 0; layer < layers(); ++layer) {
      found.factor[layer] = volume ? winograd_layers[layer][slab] : 1;
      for (int i = 0; i < 2; ++i) {
        const int64_t z = target(row, Z, layer), y = target(row, Y, i);
        if (found.factor[layer] != 0 && z < targets[Z] && y < targets[Y])
          found.at[layer][i] = grad.at(n, (z * targets[Y] + y) * targets[X] + x) + channel;
      }
    }
    found.step = dilation[X];
    found.pitch = grad.pitch();
    found.columns = targets[X] - x;
    return found;
  }

 private:
  // Products of a pair of channels in this way; and in the direct one, which leaves out taps on padding.
  int64_t products() const { return rows() * across[X] * winograd_points * slabs(); }
  int64_t direct_products() const {
    int64_t all = 1;
    for (int axis = Z; axis <= X; ++axis) {
      int64_t found = 0;
      for (int tap = 0; tap < (axis == Z && !volume ? 1 : 3); ++tap) {
        const int64_t offset = tap * dilation[axis] - before[axis];
        found += most(least(targets[axis], sources[axis] - offset) - most(-offset, 0), 0);
      }
      all *= found;
    }
    return all;
  }
};

// Numbers of all points lie this far apart: not at multiples of a page, where few of them fit the first-level cache.
template <class A>
inline int64_t point_stride(int64_t numbers) {
  const int64_t line = 64 / int64_t(sizeof(A)), lines = ceil_div(numbers, line);
  return (lines % 2 ? lines : lines + 1) * line;
}

}  // namespace fastseg::FASTSEG_ISA
