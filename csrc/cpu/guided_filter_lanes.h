// Rows of as many channels as a vector has lanes, to and from [pixels][lanes].
#pragma once
#include "fastseg/cpu/pixels.h"
#include "fastseg/cpu/transpose.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
class LaneRows {
 public:
  using A = compute_t<T>;
  static constexpr int L = lanes<A>;

  // Row y of channels first, first + step, ... of image n; of those there are, up to L.
  LaneRows(const Images& images, int64_t n, int64_t first, int64_t step, int64_t channels, int64_t y, int64_t width)
      : width_(width), channels_(channels < L ? int(channels) : L) {
    T* row = static_cast<T*>(images.data) + n * images.batch_stride + first * images.channel_stride + y * width;
    for (int i = 0; i < L; ++i) rows_[i] = row + (i < channels_ ? i : 0) * step * images.channel_stride;
  }

  // Lanes without a channel get those of the first. `to` has room for whole tiles of L pixels. `ahead` elements on,
  // where src is asked for before it is needed: sixteen streams are more than processors foresee.
  void read(Vec<A> scale, int64_t ahead, A* to) const {
    for (int64_t x = 0; x < width_; x += L) {
      Vec<A> tile[L];
      if (x + L <= width_) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) tile[i] = load(rows_[i] + x);
        if (x * int64_t(sizeof(T)) % 64 == 0)
          for (int i = 0; i < channels_; ++i) __builtin_prefetch(rows_[i] + x + ahead);
      } else {
        for (int i = 0; i < L; ++i) {
          T part[L] = {};
          std::memcpy(part, rows_[i] + x, size_t(width_ - x) * sizeof(T));
          tile[i] = load(part);
        }
      }
      transpose(tile);
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) store(to + (x + i) * L, tile[i] * scale);
    }
  }

  void write(const A* from) const {
    for (int64_t x = 0; x < width_; x += L) {
      Vec<A> tile[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) tile[i] = load(from + (x + i) * L);
      transpose(tile);
      if (x + L <= width_ && channels_ == L) {
#pragma GCC unroll 16
        for (int i = 0; i < L; ++i) store(rows_[i] + x, tile[i]);
      } else {
        for (int i = 0; i < channels_; ++i) {
          T part[L];
          store(part, tile[i]);
          std::memcpy(rows_[i] + x, part, size_t(width_ - x < L ? width_ - x : L) * sizeof(T));
        }
      }
    }
  }

 private:
  int64_t width_;
  int channels_;
  T* rows_[L];
};

}  // namespace fastseg::FASTSEG_ISA
