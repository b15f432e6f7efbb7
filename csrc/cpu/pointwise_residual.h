// A residual that is added to 1x1 convolutions while their products are in registers: as it is, or of half the size and
// up-sampled nearest.
//
// Floor: the residual once, u or a quarter of it (an eighth of a volume). Up-sampled and added on their own they are
// 4.25u: the up-sampled one is written and read, y read and written again.
#pragma once
#include "fastseg/cpu/vec.h"
#include "fastseg/pointwise.h"

namespace fastseg::FASTSEG_ISA {

// Adds it to pixels [first, first + count) of one sample; at most Most of them.
template <class T, int64_t Most>
class PixelResidual {
 public:
  using A = compute_t<T>;

  PixelResidual(const PointwiseConv& args, int64_t n, int64_t first, int64_t count)
      : from_(static_cast<const T*>(args.residual.data.data) + n * args.residual.data.batch_stride),
        channel_stride_(args.residual.data.channel_stride),
        outputs_(args.outputs),
        adjacent_(args.residual.scale == 1 && args.residual.depth_scale == 1),
        count_(count) {
    const PointwiseResidual& r = args.residual;
    const int64_t height = r.height / r.scale, width = r.width / r.scale;
    int64_t w = first % r.width, row = first / r.width, h = row % r.height, d = row / r.height;
    // Vectors of pixels may reach beyond the last one; what they add there is not stored.
    const int64_t filled = (count + lanes<A> - 1) / lanes<A> * lanes<A>;
    for (int64_t p = 0; p < filled; ++p) {
      if (p >= count) {
        offset_[p] = offset_[count - 1];
        continue;
      }
      offset_[p] = ((d / r.depth_scale * height + h / r.scale) * width + w / r.scale) * r.data.spatial_stride;
      if (++w < r.width) continue;
      w = 0;
      if (++h < r.height) continue;
      h = 0;
      ++d;
    }
  }

 protected:
  const T* from_;
  int64_t channel_stride_, outputs_;
  bool adjacent_;  // whether neighbours among pixels are neighbours here
  int64_t count_, offset_[Most];
};

// To vectors of outputs: channels-last.
template <class T, int64_t Most>
struct AddToOutputs : PixelResidual<T, Most> {
  using PixelResidual<T, Most>::PixelResidual;

  Vec<compute_t<T>> operator()(Vec<compute_t<T>> v, int64_t output, int64_t pixel) const {
    constexpr int64_t L = lanes<compute_t<T>>;
    const int64_t left = this->outputs_ - output;
    return v + load_part(this->from_ + this->offset_[pixel] + output, left < L ? left : L);
  }
};

// To vectors of pixels: rows.
template <class T, int64_t Most>
struct AddToPixels : PixelResidual<T, Most> {
  using PixelResidual<T, Most>::PixelResidual;

  Vec<compute_t<T>> operator()(Vec<compute_t<T>> v, int64_t output, int64_t pixel) const {
    using A = compute_t<T>;
    constexpr int64_t L = lanes<A>;
    const T* from = this->from_ + output * this->channel_stride_;
    const int64_t* offset = this->offset_ + pixel;
    if (this->adjacent_) {
      const int64_t left = this->count_ - pixel;
      return v + load_part(from + *offset, left < L ? left : L);
    }
    A gathered[L];
    for (int64_t i = 0; i < L; ++i) gathered[i] = load_one(from + offset[i]);
    return v + load(gathered);
  }
};

// Makes it for a chunk of pixels.
template <class Adder>
struct EachAdds {
  const PointwiseConv& args;

  Adder operator()(int64_t n, int64_t first, int64_t count) const { return Adder(args, n, first, count); }
};

}  // namespace fastseg::FASTSEG_ISA
