// y = (1 + sigmoid(mask)) * trunk with one mask for all channels, in blocks of pixels whose sigmoids stay in the cache.
//
// Floor: forward 2u + 1/channels (the mask), backward 3u + 2/channels, u being one pass over the trunk.
#pragma once
#include "soft_mask_attention_elements.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t mask_block = 1024;   // pixels; a few arrays of as many lie in the first-level cache
constexpr int channels_in_a_run = 16;  // whose products are added up before they join the others: less rounding

// The sigmoids of `count` pixels, and their derivatives where wanted.
template <class T>
inline void mask_of_block(const T* mask, int64_t count, compute_t<T>* factor, compute_t<T>* derivative) {
  constexpr int L = lanes<compute_t<T>>;
  for (int64_t i = 0; i < count; i += L) {
    const auto s = sigmoid(load_part(mask + i, count - i < L ? count - i : L));
    store(factor + i, s.value + 1);
    if (derivative) store(derivative + i, s.derivative);
  }
}

// Calls body(sample, first pixel, pixels) for blocks of pixels.
template <class Body>
inline void for_mask_blocks(int64_t batch, int64_t spatial, int threads, const Body& body) {
  const int64_t blocks = (spatial + mask_block - 1) / mask_block;
  parallel_spans(threads, batch * blocks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i % blocks * mask_block, left = spatial - first;
      body(i / blocks, first, left < mask_block ? left : mask_block);
    }
    stream_fence();
  });
}

template <class T>
inline T* pixel_of(const View& v, int64_t n, int64_t pixel) {
  return v ? static_cast<T*>(v.data) + n * v.batch_stride + pixel * v.spatial_stride : nullptr;
}

template <class T, bool Stream>
inline void attend_pixels(const SoftMaskAttentionForward& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const int64_t channels = args.channels;
  const View &x = args.trunk, &y = args.y;
  for_mask_blocks(args.batch, args.spatial, threads, [&](int64_t n, int64_t first, int64_t count) {
    alignas(64) A factor[mask_block];
    mask_of_block(pixel_of<const T>(args.mask, n, first), count, factor, static_cast<A*>(nullptr));
    const T* from = pixel_of<const T>(x, n, first);
    T* to = pixel_of<T>(y, n, first);
    if (x.spatial_stride == 1) {
      for (int64_t c = 0; c < channels; ++c, from += x.channel_stride, to += y.channel_stride)
        for_vectors(to, count, [&](int64_t i, int64_t part) __attribute__((always_inline)) {
          store_part<Stream>(to + i, load_part(from + i, part) * load_part(factor + i, part), part);
        });
      return;
    }
    for (int64_t p = 0; p < count; ++p, from += x.spatial_stride, to += y.spatial_stride) {
      int64_t c = 0;
      for (; c + L <= channels; c += L) store<Stream>(to + c, load(from + c) * factor[p]);
      for (; c < channels; ++c) store_one(to + c, load_one(from + c) * factor[p]);
    }
  });
}

template <class T, bool Stream>
inline void attend_pixels_backward(const SoftMaskAttentionBackward& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const int64_t channels = args.channels;
  const View &x = args.trunk, &g = args.grad, &dx = args.dtrunk;
  for_mask_blocks(args.batch, args.spatial, threads, [&](int64_t n, int64_t first, int64_t count) {
    alignas(64) A factor[mask_block], derivative[mask_block], sum[mask_block] = {};
    mask_of_block(pixel_of<const T>(args.mask, n, first), count, factor, derivative);
    const T *from = pixel_of<const T>(x, n, first), *grad = pixel_of<const T>(g, n, first);
    T *to = pixel_of<T>(dx, n, first), *dmask = pixel_of<T>(args.dmask, n, first);
    if (x.spatial_stride == 1) {
      for (int64_t c = 0; dx && c < channels; ++c) {
        T* out = to + c * dx.channel_stride;
        const T* in = grad + c * g.channel_stride;
        for_vectors(out, count, [&](int64_t i, int64_t part) __attribute__((always_inline)) {
          store_part<Stream>(out + i, load_part(in + i, part) * load_part(factor + i, part), part);
        });
      }
      for (int64_t c = 0; dmask && c < channels; c += channels_in_a_run) {
        const int64_t end = c + channels_in_a_run < channels ? c + channels_in_a_run : channels;
        for (int64_t i = 0; i < count; i += L) {
          const int64_t part = count - i < L ? count - i : L;
          Vec<A> run{};
          for (int64_t k = c; k < end; ++k)
            run += load_part(grad + k * g.channel_stride + i, part) * load_part(from + k * x.channel_stride + i, part);
          store(sum + i, load(sum + i) + run);
        }
      }
    } else {
      for (int64_t p = 0; p < count; ++p, from += x.spatial_stride, grad += g.spatial_stride) {
        Vec<A> wide{};
        A rest = 0;
        int64_t c = 0;
        for (; c + L <= channels; c += L) {
          const Vec<A> v = load(grad + c);
          wide += v * load(from + c);
          if (dx) store<Stream>(to + c, v * factor[p]);
        }
        for (; c < channels; ++c) {
          rest += load_one(grad + c) * load_one(from + c);
          if (dx) store_one(to + c, load_one(grad + c) * factor[p]);
        }
        sum[p] = add_lanes(wide) + rest;
        if (dx) to += dx.spatial_stride;
      }
    }
    for (int64_t i = 0; dmask && i < count; i += L)
      store_part<false>(dmask + i, load(sum + i) * load(derivative + i), count - i < L ? count - i : L);
  });
}

}  // namespace fastseg::FASTSEG_ISA
