// Forward of channel and spatial attention: the order of the passes.
//
// Floor, u = one pass over x: 4u for CBAM. x is read for the mean and the maximum of its channels, read for the maps
// over channels (x times the channel gate is not stored), read once more and written as y; scSE likewise, channel
// attention alone 3u. A few operations an element, so memory decides. Images are taken through all passes in groups of
// at most 16 MB, so that the second and the third read find x in the last cache: 2u from memory then.
#pragma once
#include "cbam_passes.h"
#include "norm_rows.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t cbam_group_bytes = int64_t(16) << 20;

// Images that go through all passes together.
inline int64_t cbam_group(const CbamShape& shape, Element type) {
  const int64_t bytes = shape.channels * shape.pixels() * element_size(type);
  return bytes < cbam_group_bytes ? cbam_group_bytes / bytes : 1;
}

// Calls body(image, task) for `tasks` tasks of each image of a group.
template <class Body>
inline void for_images(int threads, int64_t first, int64_t last, int64_t tasks, const Body& body) {
  parallel_spans(threads, (last - first) * tasks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) body(first + i / tasks, i % tasks);
  });
}

// Weights of the convolution as frames lie: the mean's map, then the maximum's.
template <class A>
inline void order_weight(const CbamShape& shape, const A* weight, A* to) {
  const int64_t taps = shape.taps();
  for (int64_t t = 0; t < 2 * taps; ++t) to[t] = weight[shape.max_first ? (t + taps) % (2 * taps) : t];
}

// The batch norm over the one channel of logits: sigmoid(logit * scale + shift) is the gate.
template <class A>
struct LogitNorm {
  double mean, rstd, scale, shift;

  LogitNorm(const CbamWeights& weights, const CbamSaved& saved, double eps) {
    const A* weight = static_cast<const A*>(weights.norm_weight);
    const A* bias = static_cast<const A*>(weights.norm_bias);
    mean = saved.statistics[0];
    rstd = 1.0 / __builtin_sqrt(saved.statistics[1] + eps);
    scale = rstd * (weight ? double(*weight) : 1.0);
    shift = bias ? double(*bias) : 0.0;
  }
};

template <class A>
inline void logit_statistics(const A* logits, int64_t count, double* statistics, int threads) {
  const int64_t chunks = chunks_of(count);
  Scratch<Moments> parts(chunks);
  parallel_spans(threads, chunks, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * row_chunk, left = count - first;
      parts[i] = chunk_moments(logits + first, left < row_chunk ? left : row_chunk);
    }
  });
  Moments all;
  for (int64_t i = 0; i < chunks; ++i) all.merge(parts[i]);
  statistics[0] = all.mean;
  statistics[1] = all.m2 / all.count;
}

template <class T, template <class> class Passes, SpatialGate Kind, bool Stream>
inline void cbam_forward_images(const CbamForward& args, int threads) {
  using A = compute_t<T>;
  using P = Passes<T>;
  constexpr int L = lanes<A>;
  const CbamShape& shape = args.shape;
  const CbamSaved& saved = args.saved;
  const int64_t channels = shape.channels, pixels = shape.pixels(), blocks = blocks_of(shape);
  const int64_t together = cbam_group(shape, args.x.type), slots = P::pool_slots(shape);

  Scratch<A> ones(channels);
  for (int64_t c = 0; c < channels; ++c) ones[c] = 1;
  const auto gates_of = [&](int64_t n) {
    Gates<A> gates{};
    gates.channel = shape.hidden ? static_cast<const A*>(saved.channel_gate) + n * channels : ones.get();
    gates.mix = Kind == SpatialGate::projected ? static_cast<const A*>(args.weights.spatial_weight) : gates.channel;
    gates.spatial = static_cast<const A*>(saved.spatial_gate) + n * pixels;
    return gates;
  };
  const auto scale = [&](int64_t first, int64_t last) {
    const int64_t tasks = P::elementwise_tasks(shape);
    parallel_spans(threads, (last - first) * tasks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = first + i / tasks;
        P::template scale<Kind, Stream>(shape, args.x, args.y, n, i % tasks, gates_of(n));
      }
      if constexpr (Stream) stream_fence();
    });
  };

  const Frame<A> frame(shape);
  const bool convolves = Kind == SpatialGate::pooled;
  const int64_t group = together < shape.batch ? together : shape.batch;
  Scratch<A> frames(convolves ? group * 2 * frame.elements : 0);
  Scratch<A> weight(2 * shape.taps());
  if (convolves) {
    order_weight(shape, static_cast<const A*>(args.weights.spatial_weight), weight.get());
    for_images(threads, 0, group, 2, [&](int64_t n, int64_t map) {
      std::memset(frames.get() + (2 * n + map) * frame.elements, 0, size_t(frame.elements) * sizeof(A));
    });
  }
  const A* spatial_bias = static_cast<const A*>(args.weights.spatial_bias);
  const A bias = spatial_bias ? *spatial_bias : A(0);
  // The gate from its logits, in place or elsewhere.
  const auto activate = [&](const A* logits, A* gate, int64_t count, double mean, double by, double shift) {
    for (int64_t i = 0; i < count; i += L)
      store_first(gate + i,
                  in_float64(load_first(logits + i, count - i),
                             [&](Vec<double> z) { return sigmoid((z - mean) * by + shift); }),
                  count - i);
  };

  for (int64_t first = 0; first < shape.batch; first += together) {
    const int64_t last = first + together < shape.batch ? first + together : shape.batch;
    if (shape.hidden) {
      Scratch<PoolPart<A>> parts((last - first) * channels * slots);
      for_images(threads, first, last, P::pool_tasks(shape), [&](int64_t n, int64_t task) {
        P::pool(shape, args.x, n, task, parts.get() + (n - first) * channels * slots);
      });
      for_images(threads, first, last, 1, [&](int64_t n, int64_t) {
        A* pooled = static_cast<A*>(saved.pooled) + 2 * n * channels;
        for (int64_t c = 0; c < channels; ++c) {
          const PoolPart<A>* part = parts.get() + ((n - first) * channels + c) * slots;
          PoolPart<A> all = part[0];
          for (int64_t s = 1; s < slots; ++s) {
            all.sum += part[s].sum;
            if (is_above(part[s].peak, all.peak)) all.peak = part[s].peak, all.at = part[s].at;
          }
          pooled[c] = A(all.sum / double(pixels));
          pooled[channels + c] = all.peak;
          saved.peak[n * channels + c] = all.at;
        }
        Scratch<A> hidden(2 * shape.hidden);
        A* gate = static_cast<A*>(saved.channel_gate) + n * channels;
        channel_gate(shape, args.weights, pooled, hidden.get(), [&](int64_t c, double value) { gate[c] = A(value); });
      });
    }
    if constexpr (Kind == SpatialGate::pooled) {
      for_images(threads, first, last, blocks, [&](int64_t n, int64_t block) {
        A* maps = static_cast<A*>(saved.maps) + 2 * n * pixels;
        P::mix(shape, args.x, n, block, gates_of(n), maps, maps + pixels, saved.peak_channel + n * pixels);
      });
      for_images(threads, first, last, 2 * frame.lines(), [&](int64_t n, int64_t i) {
        const int64_t map = i / frame.lines(), line = i % frame.lines();
        std::memcpy(frames.get() + (2 * (n - first) + map) * frame.elements + frame.inside(line),
                    static_cast<const A*>(saved.maps) + (2 * n + map) * pixels + line * frame.size[2],
                    size_t(frame.size[2]) * sizeof(A));
      });
      parallel_spans(threads, (last - first) * frame.lines(), [&](int64_t begin, int64_t end) {
        Scratch<A> out(rounded_up(frame.size[2], Frame<A>::block));
        for (int64_t i = begin; i < end; ++i) {
          const int64_t n = first + i / frame.lines(), line = i % frame.lines(), width = frame.size[2];
          const int64_t at = n * pixels + line * width;
          convolve_line(shape, frame, frames.get() + 2 * (n - first) * frame.elements, 2, weight.get(), bias, line,
                        out.get());
          if (shape.normalize)
            std::memcpy(static_cast<A*>(saved.logits) + at, out.get(), size_t(width) * sizeof(A));
          else
            activate(out.get(), static_cast<A*>(saved.spatial_gate) + at, width, 0, 1, 0);
        }
      });
    }
    if constexpr (Kind == SpatialGate::projected) {
      for_images(threads, first, last, blocks, [&](int64_t n, int64_t block) {
        A* gate = static_cast<A*>(saved.spatial_gate) + n * pixels;
        P::project(shape, args.x, n, block, gates_of(n), gate);
        const Span span = block_span(shape, block);
        activate(gate + span.first, gate + span.first, span.count, 0, 1, bias);
      });
    }
    if (!shape.normalize) scale(first, last);
  }
  if (!shape.normalize) return;

  const A* logits = static_cast<const A*>(saved.logits);
  logit_statistics(logits, shape.batch * pixels, saved.statistics, threads);
  const LogitNorm<A> norm(args.weights, saved, args.eps);
  for_images(threads, 0, shape.batch, blocks, [&](int64_t n, int64_t block) {
    const Span span = block_span(shape, block);
    const int64_t at = n * pixels + span.first;
    activate(logits + at, static_cast<A*>(saved.spatial_gate) + at, span.count, norm.mean, norm.scale, norm.shift);
  });
  scale(0, shape.batch);
}

}  // namespace fastseg::FASTSEG_ISA
