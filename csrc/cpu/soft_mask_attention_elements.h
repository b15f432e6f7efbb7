// y = (1 + sigmoid(mask)) * trunk where the mask has the trunk's channels: element by element, whatever the layout.
//
// Floor: forward 3u (read trunk and mask, write y), backward 5u (read grad, trunk and mask, write dtrunk and dmask), u
// being one pass over the trunk. The sigmoid is computed again in backward: some twenty operations an element, which a
// processor does in far less time than it waits for 4 bytes more.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/vec_math.h"
#include "fastseg/soft_mask_attention.h"

namespace fastseg::FASTSEG_ISA {

// Calls body(i, elements) for [0, n) vector by vector; whole vectors begin where `out` is aligned.
template <class T, class Body>
[[gnu::always_inline]] inline void for_vectors(const T* out, int64_t n, const Body& body) {
  constexpr int L = lanes<compute_t<T>>;
  int64_t i = misaligned_elements(out, n);
  if (i > 0) body(int64_t(0), i);
  for (; i + L <= n; i += L) body(i, int64_t(L));
  if (i < n) body(i, n - i);
}

// How tensors of one shape and layout fall into runs of adjacent elements: as few as their strides allow.
struct Runs {
  static constexpr int64_t chunk = 16384;  // elements that a thread takes at a time
  int64_t batch, outer, inner;
  bool rows;

  // The Views must have the same shape and layout; absent ones are skipped.
  template <class... Views>
  Runs(int64_t batch_, int64_t channels, int64_t spatial, const View& trunk, const Views&... views)
      : batch(batch_), rows(trunk.spatial_stride == 1) {
    outer = rows ? channels : spatial;
    inner = rows ? spatial : channels;
    const View all[] = {trunk, views...};
    bool dense = true, dense_batch = true;
    for (const View& v : all) {
      dense &= !v || outer == 1 || stride(v) == inner;
      dense_batch &= !v || batch == 1 || v.batch_stride == outer * inner;
    }
    if (!dense) return;
    inner *= outer;
    outer = 1;
    if (!dense_batch) return;
    inner *= batch;
    batch = 1;
  }

  int64_t stride(const View& v) const { return rows ? v.channel_stride : v.spatial_stride; }
  int64_t chunks() const { return (inner + chunk - 1) / chunk; }
  int64_t count() const { return batch * outer * chunks(); }
  int64_t elements(int64_t i) const {
    const int64_t left = inner - i % chunks() * chunk;
    return left < chunk ? left : chunk;
  }
  template <class T>
  T* begin(const View& v, int64_t i) const {
    if (!v) return nullptr;
    const int64_t run = i / chunks();
    return static_cast<T*>(v.data) + run / outer * v.batch_stride + run % outer * stride(v) + i % chunks() * chunk;
  }
};

template <class T, bool Stream>
inline void attend_elements(const SoftMaskAttentionForward& args, int threads) {
  const Runs runs(args.batch, args.channels, args.spatial, args.trunk, args.mask, args.y);
  parallel_spans(threads, runs.count(), [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      const T *trunk = runs.begin<T>(args.trunk, run), *mask = runs.begin<T>(args.mask, run);
      T* y = runs.begin<T>(args.y, run);
      for_vectors(y, runs.elements(run), [&](int64_t i, int64_t count) __attribute__((always_inline)) {
        const auto s = sigmoid(load_part(mask + i, count)).value;
        store_part<Stream>(y + i, load_part(trunk + i, count) * (s + 1), count);
      });
    }
    if constexpr (Stream) stream_fence();
  });
}

template <class T, bool Stream>
inline void attend_elements_backward(const SoftMaskAttentionBackward& args, int threads) {
  const Runs runs(args.batch, args.channels, args.spatial, args.trunk, args.mask, args.grad, args.dtrunk, args.dmask);
  parallel_spans(threads, runs.count(), [&](int64_t begin, int64_t end) {
    for (int64_t run = begin; run < end; ++run) {
      const T *trunk = runs.begin<T>(args.trunk, run), *mask = runs.begin<T>(args.mask, run),
              *grad = runs.begin<T>(args.grad, run);
      T *dtrunk = runs.begin<T>(args.dtrunk, run), *dmask = runs.begin<T>(args.dmask, run);
      for_vectors(dtrunk ? dtrunk : dmask, runs.elements(run),
                  [&](int64_t i, int64_t count) __attribute__((always_inline)) {
                    const auto s = sigmoid(load_part(mask + i, count));
                    const auto g = load_part(grad + i, count);
                    if (dtrunk) store_part<Stream>(dtrunk + i, g * (s.value + 1), count);
                    if (dmask) store_part<Stream>(dmask + i, g * load_part(trunk + i, count) * s.derivative, count);
                  });
    }
    if constexpr (Stream) stream_fence();
  });
}

}  // namespace fastseg::FASTSEG_ISA
