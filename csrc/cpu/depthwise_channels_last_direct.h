// Depthwise convolution of images, channels-last, without a window: tiles of targets read the source where it lies.
//
// Floor as in depthwise_rows.h: 2u, and taps multiply-adds an element. Where the source is in a cache, copying it into
// a window takes as long as nine taps. Tiles at the borders of an image skip the columns that it does not have, and
// channels that fill no vector are masked. With a dilation, a tile's targets are as far apart as its taps, so that they
// share sources. For 32 registers and masks, which AVX-512 has.
#pragma once
#include "depthwise_channels_last_tile.h"

namespace fastseg::FASTSEG_ISA {

// A convolution of images by blocks of channels.
template <class T>
struct ImageConvolution : Convolution {
  using A = compute_t<T>;
  int64_t block, blocks;  // of channels
  bool stream;

  ImageConvolution(const DepthwiseShape& s, bool transposed, const View& source, const View& target, const void* weight,
                   const Vector& bias, bool stream_)
      : Convolution(s, transposed, source, target, weight, bias), stream(stream_) {
    // What a tile reads of a block, and the block's weights, stay in the first-level cache.
    constexpr int64_t near_bytes = 32 * 1024, most_sources = 8;
    const int64_t k = s.kernel[X], of_channel = (k + 3) * (k + most_sources) + k * k;
    const int64_t most_vectors = most(near_bytes / (of_channel * vector_bytes), 1);
    const int64_t vectors = ceil_div(s.channels, lanes<A>);
    blocks = ceil_div(vectors, most_vectors);
    block = ceil_div(vectors, blocks) * lanes<A>;
    blocks = ceil_div(s.channels, block);
  }
};

// What one thread needs to run tasks of an ImageConvolution.
template <class T, int K, int S, int R, int P>
class ImageConvolver {
  using A = compute_t<T>;
  static constexpr int L = lanes<A>;
  static constexpr int window = (R - 1) * S + K, columns = (P - 1) * S + K;

 public:
  explicit ImageConvolver(const ImageConvolution<T>& conv)
      : conv_(conv),
        kept_(keeps_all(conv) ? conv.blocks : 1),
        all_weights_(kept_ * K * K * conv.block),
        all_bias_(kept_ * conv.block),
        kept_blocks_(kept_) {
    for (int64_t i = 0; i < kept_; ++i) kept_blocks_[i] = -1;
  }

  // Whether the weights of all channels are little beside what a group of rows reads, and stay in the second-level
  // cache: then a group's blocks follow each other, and what lies together is touched together.
  static bool keeps_all(const ImageConvolution<T>& conv) {
    constexpr int64_t most_bytes = 128 * 1024;
    return K * K <= R * conv.x.targets && conv.blocks * conv.block * K * K * int64_t(sizeof(A)) <= most_bytes;
  }

  // Groups of rows of targets that are computed together.
  static int64_t groups(const ImageConvolution<T>& conv) {
    return conv.y.classes() * ceil_div(ceil_div(conv.y.targets, conv.y.classes()), R);
  }

  // Of one block of channels.
  static int64_t tasks(const ImageConvolution<T>& conv) { return conv.shape.batch * groups(conv); }

  void run(int64_t block, int64_t task) {
    take_block(block);
    const int64_t group = task % groups(conv_), n = task / groups(conv_), first = block * conv_.block;
    const AxisClass down = conv_.y.at(group % conv_.y.classes());
    const int64_t j = group / conv_.y.classes() * R;
    if (j >= down.count) return;
    const T* source = static_cast<const T*>(conv_.source.data) + n * conv_.source.batch_stride + first;
    const int64_t oy = down.first + down.spacing * j, pitch = conv_.source.spatial_stride;
    const int64_t row = down.in_first + down.in_spacing * S * j;
    for (int i = 0; i < window; ++i) {
      const int64_t at = row + down.in_spacing * i;
      rows_[i] = at >= 0 && at < conv_.y.sources ? source + at * conv_.x.sources * pitch : nullptr;
    }
    const int64_t out_pitch = conv_.target.spatial_stride;
    T* target =
        static_cast<T*>(conv_.target.data) + n * conv_.target.batch_stride + first + oy * conv_.x.targets * out_pitch;
    const int64_t tiles = ceil_div(ceil_div(conv_.x.targets, conv_.x.classes()), P);
    for (int64_t tile = 0; tile < tiles; ++tile)
      for (int64_t r = 0; r < conv_.x.classes(); ++r)
        run_tile(conv_.x.at(r), tile * P, least(R, down.count - j), target, down.spacing * conv_.x.targets * out_pitch);
  }

 private:
  void take_block(int64_t block) {
    const int64_t first = block * conv_.block, slot = block % kept_;
    channels_ = least(conv_.block, conv_.shape.channels - first);
    weights_ = all_weights_.get() + slot * K * K * conv_.block;
    bias_ = all_bias_.get() + slot * conv_.block;
    if (kept_blocks_[slot] == block) return;
    kept_blocks_[slot] = block;
    read_block<T>(conv_, first, channels_, conv_.block, weights_, bias_);
  }

  // The tile whose first target is number j of a class.
  void run_tile(const AxisClass& across, int64_t j, int64_t rows, T* target, int64_t target_row) const {
    if (j >= across.count) return;
    const int64_t pitch = conv_.source.spatial_stride, out_pitch = conv_.target.spatial_stride;
    const int64_t x = across.in_first + across.in_spacing * S * j, apart = across.in_spacing;
    const int64_t begin = x < 0 ? ceil_div(-x, apart) : 0;
    const int64_t end = least(columns, ceil_div(conv_.x.sources - x, apart));
    const TileSource<T> from{rows_, 1, apart * pitch, {}, begin, end};
    const int64_t ox = across.first + across.spacing * j, pixels = least(P, across.count - j);
    const TileTarget<T> to{target + ox * out_pitch, target_row, across.spacing * out_pitch, conv_.stream, rows, pixels};
    const bool whole = begin == 0 && end == columns && rows == R && pixels == P;
    const A* const weights = weights_;
    const auto run = [&](auto extent, int64_t c, int64_t channels) {
      convolve_tile<K, S, R, P, extent(), true>(from, to, x * pitch, 0, c, channels, &weights, conv_.block,
                                                load(bias_ + c));
    };
    for (int64_t c = 0; c < channels_; c += L) {
      const int64_t channels = least(L, channels_ - c);
      if (!whole)
        run(std::integral_constant<Extent, Extent::part>{}, c, channels);
      else if (channels < L)
        run(std::integral_constant<Extent, Extent::masked>{}, c, channels);
      else
        run(std::integral_constant<Extent, Extent::whole>{}, c, channels);
    }
  }

  const ImageConvolution<T>& conv_;
  // Weights and biases of all blocks, or of the present one, as far as they were read.
  int64_t kept_;
  Scratch<A> all_weights_, all_bias_;
  Scratch<int64_t> kept_blocks_;
  const T* rows_[window] = {};
  A *weights_ = nullptr, *bias_ = nullptr;  // of the present block
  int64_t channels_ = 0;
};

template <int K, int S, int R, int P, class T>
inline void convolve_images(const ImageConvolution<T>& conv, int threads) {
  using Convolver = ImageConvolver<T, K, S, R, P>;
  // Threads with rows of their own touch fewer pages than those with channels of their own, which few rows need.
  const int64_t tasks = Convolver::tasks(conv), blocks = conv.blocks, cuts = tasks < 4 * threads ? blocks : 1;
  parallel_spans(threads, cuts * tasks, [&](int64_t begin, int64_t end) {
    Convolver convolver(conv);
    const int64_t count = end - begin;
    if (cuts > 1) {
      for (int64_t task = begin; task < end; ++task) convolver.run(task / tasks, task % tasks);
    } else if (Convolver::keeps_all(conv)) {
      for (int64_t i = 0; i < count * blocks; ++i) convolver.run(i % blocks, begin + i / blocks);
    } else {
      for (int64_t i = 0; i < count * blocks; ++i) convolver.run(i / count, begin + i % count);
    }
    if (conv.stream) stream_fence();
  });
}

// How many taps the sources of neighbouring targets are apart, of images, of square kernels, along both axes; 0 for all
// other convolutions.
template <class T>
inline int64_t taps_apart(const ImageConvolution<T>& conv) {
  const DepthwiseShape& s = conv.shape;
  const bool image = s.input[Z] == 1 && s.output[Z] == 1 && s.kernel[Z] == 1 && s.padding[Z] == 0;
  if (!image || s.kernel[Y] != s.kernel[X] || !conv.y.takes_all_taps() || !conv.x.takes_all_taps()) return 0;
  const int64_t apart = conv.x.at(0).step();
  return conv.y.at(0).step() == apart ? apart : 0;
}

// Computes a convolution, or the gradient of an input, if it is one of images that needs no window; whether it is.
template <class T>
inline bool convolved_as_images(const ImageConvolution<T>& conv, int threads) {
  if constexpr (vector_bytes == 64) {
    const int64_t k = conv.shape.kernel[X], apart = taps_apart(conv);
    // Sixteen-bit sources are widened once for each row of targets, in a window once; they fill half a line of memory.
    constexpr bool narrow = sizeof(T) == 2;
    if (narrow && conv.stream) return false;
    if (apart == 1) {
      if (k == 3) return convolve_images<3, 1, 4, 4>(conv, threads), true;
      if constexpr (!narrow) {
        if (k == 5) return convolve_images<5, 1, 2, 8>(conv, threads), true;
        if (k == 7) return convolve_images<7, 1, 2, 8>(conv, threads), true;
      }
    }
    if (apart == 2) {
      if (k == 3) return convolve_images<3, 2, 4, 4>(conv, threads), true;
      if (k == 5) return convolve_images<5, 2, 2, 8>(conv, threads), true;
      if (k == 7) return convolve_images<7, 2, 2, 8>(conv, threads), true;
    }
  }
  return false;
}

}  // namespace fastseg::FASTSEG_ISA
