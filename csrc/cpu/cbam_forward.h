// Forward of channel and spatial attention: the order of the passes.
//
// Floor, u = one pass over x: 4u for CBAM. x is read for the mean and the maximum of its channels, read for the maps
// over channels (x times the channel gate is not stored), read once more and written as y; scSE likewise, channel
// attention alone 3u. A few operations an element, so memory decides. Images are taken through all passes in groups of
// at most 16 MB, so that the second and the third read find x in the last cache: 2u from memory then.
#pragma once
#include "cbam_stages.h"
#include "norm_rows.h"

namespace fastseg::FASTSEG_ISA {

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

// Frames keep their zeros; only what is inside is written again for each group.
template <class A>
inline void clear_frames(const Frame<A>& frame, A* frames, int64_t count, int threads) {
  parallel_spans(count * frame.elements < 65536 ? 1 : threads, count, [&](int64_t begin, int64_t end) {
    std::memset(frames + begin * frame.elements, 0, size_t((end - begin) * frame.elements) * sizeof(A));
  });
}

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
  const ImageGroups groups(shape, args.x.type);
  const int64_t slots = P::pool_slots(shape), tasks = P::elementwise_tasks(shape);
  constexpr bool pooled = Kind == SpatialGate::pooled;

  Scratch<A> ones(channels);
  for (int64_t c = 0; c < channels; ++c) ones[c] = 1;
  const auto gates_of = [&](int64_t n) {
    Gates<A> gates{};
    gates.channel = shape.hidden ? static_cast<const A*>(saved.channel_gate) + n * channels : ones.get();
    gates.mix = Kind == SpatialGate::projected ? static_cast<const A*>(args.weights.spatial_weight) : gates.channel;
    gates.spatial = static_cast<const A*>(saved.spatial_gate) + n * pixels;
    return gates;
  };

  const Frame<A> frame(shape);
  const int64_t lines = frame.lines(), width = frame.size[2];
  const int64_t padded = rounded_up(width, Frame<A>::block);
  Scratch<A> frames(pooled ? groups.together * 2 * frame.elements : 0), convolved(pooled ? threads * padded : 0);
  Scratch<A> weight(2 * shape.taps()), hidden(groups.together * 2 * shape.hidden);
  Scratch<PoolPart<A>> parts(shape.hidden ? groups.together * channels * slots : 0);
  if (pooled) {
    order_weight(shape, static_cast<const A*>(args.weights.spatial_weight), weight.get());
    clear_frames(frame, frames.get(), groups.together * 2, threads);
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

  // The passes over one image; `slot` is its place in the group.
  const auto pools_of = [&](int64_t n) { return static_cast<A*>(saved.pooled) + shape.pools() * n * channels; };
  const auto hidden_of = [&](int64_t slot) { return hidden.get() + slot * 2 * shape.hidden; };
  const auto pool = [&](int64_t n, int64_t slot, int64_t task) {
    PoolPart<A>* to = parts.get() + slot * channels * slots;
    if (shape.max_pool)
      P::template pool<true>(shape, args.x, n, task, to);
    else
      P::template pool<false>(shape, args.x, n, task, to);
  };
  const auto merge_pools = [&](int64_t n, int64_t slot) {
    A* means = pools_of(n);
    for (int64_t c = 0; c < channels; ++c) {
      const PoolPart<A>* part = parts.get() + (slot * channels + c) * slots;
      PoolPart<A> all = part[0];
      for (int64_t s = 1; s < slots; ++s) {
        all.sum += part[s].sum;
        if (is_above(part[s].peak, all.peak)) all.peak = part[s].peak, all.at = part[s].at;
      }
      means[c] = A(all.sum / double(pixels));
      if (!shape.max_pool) continue;
      means[channels + c] = all.peak;
      saved.peak[n * channels + c] = all.at;
    }
  };
  // Dense layers: some rows of their weights go by once for all images of the group, of which n is the first.
  const auto for_images = [&](int64_t n, const auto& body) {
    for (int64_t slot = 0; slot < groups.images(n / groups.together); ++slot) body(n + slot, slot);
  };
  const auto hide = [&](int64_t first, int64_t block) {
    for_images(first, [&](int64_t n, int64_t slot) {
      for (int64_t p = 0; p < shape.pools(); ++p)
        hidden_units(shape, args.weights, pools_of(n) + p * channels, block * dense_rows,
                     hidden_of(slot) + p * shape.hidden);
    });
  };
  const auto gate_channels = [&](int64_t first, int64_t block) {
    for_images(first, [&](int64_t n, int64_t slot) {
      A* gate = static_cast<A*>(saved.channel_gate) + n * channels;
      channel_gates(shape, args.weights, hidden_of(slot), block * dense_rows,
                    [&](int64_t c, double value) { gate[c] = A(value); });
    });
  };
  const auto mix = [&](int64_t n, int64_t block) {
    if constexpr (pooled) {
      A* maps = static_cast<A*>(saved.maps) + 2 * n * pixels;
      P::mix(shape, args.x, n, block, gates_of(n), maps, maps + pixels, saved.peak_channel + n * pixels);
    } else if constexpr (Kind == SpatialGate::projected) {
      A* gate = static_cast<A*>(saved.spatial_gate) + n * pixels;
      P::project(shape, args.x, n, block, gates_of(n), gate);
      const Span span = block_span(shape, block);
      activate(gate + span.first, gate + span.first, span.count, 0, 1, bias);
    }
  };
  const auto frame_line = [&](int64_t n, int64_t slot, int64_t i) {
    const int64_t map = i / lines, line = i % lines;
    std::memcpy(frames.get() + (2 * slot + map) * frame.elements + frame.inside(line),
                static_cast<const A*>(saved.maps) + (2 * n + map) * pixels + line * width, size_t(width) * sizeof(A));
  };
  const auto convolve = [&](int64_t n, int64_t slot, int64_t line, int64_t thread) {
    A* out = convolved.get() + thread * padded;
    const int64_t at = n * pixels + line * width;
    convolve_line(shape, frame, frames.get() + 2 * slot * frame.elements, 2, weight.get(), bias, line, out);
    if (shape.normalize)
      std::memcpy(static_cast<A*>(saved.logits) + at, out, size_t(width) * sizeof(A));
    else
      activate(out, static_cast<A*>(saved.spatial_gate) + at, width, 0, 1, 0);
  };
  const auto scale = [&](int64_t n, int64_t task) {
    P::template scale<Kind, Stream>(shape, args.x, args.y, n, task, gates_of(n));
    if constexpr (Stream) stream_fence();
  };

  enum Stage { pools, merges, units, gate_blocks, mixes, frame_lines, convolutions, scales, stages };
  const int64_t numbers = channels * pixels;
  const auto work = [&](int64_t stage) -> Work {
    switch (stage) {
      case pools:
        return {shape.hidden ? P::pool_tasks(shape) : 0, numbers / P::pool_tasks(shape)};
      case merges:
        return {shape.hidden ? 1 : 0, channels * slots};
      case units:
        return {(shape.hidden + dense_rows - 1) / dense_rows, groups.together * dense_rows * channels, true};
      case gate_blocks:
        return {shape.hidden ? (channels + dense_rows - 1) / dense_rows : 0,
                groups.together * dense_rows * (shape.hidden + 16), true};
      case mixes:
        return {Kind == SpatialGate::none ? 0 : blocks, numbers / blocks};
      case frame_lines:
        return {pooled ? 2 * lines : 0, width};
      case convolutions:
        return {pooled ? lines : 0, width * (shape.taps() / 8 + 4)};
      default:
        return {shape.normalize ? 0 : tasks, numbers / tasks};
    }
  };
  run_stages(threads, groups, stages, work, [&](int64_t stage, int64_t n, int64_t slot, int64_t item, int64_t thread) {
    switch (stage) {
      case pools:
        return pool(n, slot, item);
      case merges:
        return merge_pools(n, slot);
      case units:
        return hide(n, item);
      case gate_blocks:
        return gate_channels(n, item);
      case mixes:
        return mix(n, item);
      case frame_lines:
        return frame_line(n, slot, item);
      case convolutions:
        return convolve(n, slot, item, thread);
      default:
        return scale(n, item);
    }
  });
  if (!shape.normalize) return;

  const A* logits = static_cast<const A*>(saved.logits);
  logit_statistics(logits, shape.batch * pixels, saved.statistics, threads);
  const LogitNorm<A> norm(args.weights, saved, args.eps);
  enum LastStage { gates, last_scales, last_stages };
  const auto last_work = [&](int64_t stage) -> Work {
    return stage == gates ? Work{blocks, 8 * (pixels / blocks)} : Work{tasks, numbers / tasks};
  };
  run_stages(threads, groups, last_stages, last_work, [&](int64_t stage, int64_t n, int64_t, int64_t item, int64_t) {
    if (stage == last_scales) return scale(n, item);
    const Span span = block_span(shape, item);
    const int64_t at = n * pixels + span.first;
    activate(logits + at, static_cast<A*>(saved.spatial_gate) + at, span.count, norm.mean, norm.scale, norm.shift);
  });
}

}  // namespace fastseg::FASTSEG_ISA
