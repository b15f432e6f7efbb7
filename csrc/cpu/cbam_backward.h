// Backward of channel and spatial attention: the order of the passes.
//
// Floor, u = one pass over x: 5u for CBAM. grad and x are read for the gradients of both gates, x for the channel
// gate's part in the maps, grad for dx, which is written; without a spatial gate 4u. The maps' places of maxima and the
// gates are what forward kept; everything else is computed again. Groups of images as in forward.
#pragma once
#include "cbam_convolution_backward.h"

namespace fastseg::FASTSEG_ISA {

// The gradient of the spatial gate becomes that of its logits, in place.
template <class A>
inline void through_sigmoid(const A* gate, A* gradient, int64_t count) {
  for (int64_t i = 0; i < count; i += lanes<A>) {
    const Vec<A> slope = in_float64(load_first(gate + i, count - i), [](Vec<double> m) { return m * (1 - m); });
    store_first(gradient + i, load_first(gradient + i, count - i) * slope, count - i);
  }
}

// Through the batch norm, in place; writes the gradients of its parameters.
template <class A>
inline void through_norm(const CbamBackward& args, A* gradient, int threads) {
  const int64_t count = args.shape.batch * args.shape.pixels(), chunks = chunks_of(count);
  const LogitNorm<A> norm(args.weights, args.saved, args.eps);
  const A* logits = static_cast<const A*>(args.saved.logits);
  Scratch<double> parts(2 * chunks);
  const auto in_chunks = [&](const auto& body) {
    parallel_spans(threads, chunks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i)
        body(i, i * row_chunk, (i + 1) * row_chunk < count ? (i + 1) * row_chunk : count);
    });
  };
  in_chunks([&](int64_t chunk, int64_t begin, int64_t end) {
    double sum = 0, with_logits = 0;
    for (int64_t i = begin; i < end; ++i) {
      sum += double(gradient[i]);
      with_logits += double(gradient[i]) * (double(logits[i]) - norm.mean);
    }
    parts[2 * chunk] = sum;
    parts[2 * chunk + 1] = with_logits;
  });
  add_slots(parts.get(), chunks, 2, 1);
  if (args.gradients.norm_bias) *static_cast<A*>(args.gradients.norm_bias) = A(parts[0]);
  if (args.gradients.norm_weight) *static_cast<A*>(args.gradients.norm_weight) = A(parts[1] * norm.rstd);
  const double mean = parts[0] / double(count), slope = parts[1] * norm.rstd * norm.rstd / double(count);
  in_chunks([&](int64_t, int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      gradient[i] = A(norm.scale * (double(gradient[i]) - mean - (double(logits[i]) - norm.mean) * slope));
  });
}

// The image's maximum of each channel has another gradient, which goes to one pixel.
template <class T, SpatialGate Kind>
inline void add_peaks(const CbamBackward& args, const Gates<compute_t<T>>& gates, int64_t n, const double* dpeak) {
  using A = compute_t<T>;
  for (int64_t c = 0; c < args.shape.channels; ++c) {
    const int64_t p = args.saved.peak[n * args.shape.channels + c];
    const auto at = [&](const View& v) {
      return static_cast<T*>(v.data) + n * v.batch_stride + c * v.channel_stride + p * v.spatial_stride;
    };
    A gate = gates.channel[c], of_maps = 0;
    if (Kind == SpatialGate::pooled) {
      gate *= gates.spatial[p];
      of_maps = gates.mix[c] * (gates.dsum[p] + (gates.peak_channel[p] == c ? gates.dpeak[p] : A(0)));
    } else if (Kind == SpatialGate::projected) {
      gate += gates.spatial[p];
      of_maps = gates.mix[c] * gates.dsum[p];
    }
    store_one(at(args.dx), load_one(at(args.grad)) * gate + of_maps + gates.offset[c] + A(dpeak[c]));
  }
}

template <class T, template <class> class Passes, SpatialGate Kind, bool Stream>
inline void cbam_backward_images(const CbamBackward& args, int threads) {
  using A = compute_t<T>;
  using P = Passes<T>;
  const CbamShape& shape = args.shape;
  const CbamSaved& saved = args.saved;
  const int64_t channels = shape.channels, pixels = shape.pixels(), blocks = blocks_of(shape);
  const ImageGroups groups(shape, args.x.type);
  const CbamWork<A> work(shape);
  const A* gate_of_pixels = static_cast<const A*>(saved.spatial_gate);
  constexpr bool pooled = Kind == SpatialGate::pooled, projected = Kind == SpatialGate::projected;
  const bool mixes_channels = projected || (pooled && shape.hidden);

  Scratch<A> ones(channels);
  for (int64_t c = 0; c < channels; ++c) ones[c] = 1;
  const auto gates_of = [&](int64_t n) {
    Gates<A> gates{};
    gates.channel = shape.hidden ? static_cast<const A*>(saved.channel_gate) + n * channels : ones.get();
    gates.mix = projected ? static_cast<const A*>(args.weights.spatial_weight) : gates.channel;
    gates.spatial = gate_of_pixels + n * pixels;
    gates.dsum = projected ? work.dspatial.get() + n * pixels : work.dmaps.get() + 2 * n * pixels;
    gates.dpeak = work.dmaps.get() + (2 * n + 1) * pixels;
    gates.peak_channel = saved.peak_channel + n * pixels;
    gates.offset = work.offset.get() + n * channels;
    return gates;
  };

  // Sums over pixels, one a channel, of the blocks of an image; added in order at the end.
  const int64_t lane_scratch = rounded_up(channels + lanes<A>, 64);
  Scratch<A> scratch(threads * lane_scratch);
  Scratch<double> of_gates(shape.batch * blocks * channels),
      of_mixes(mixes_channels ? shape.batch * blocks * channels : 0);
  const auto gate_gradients = [&](int64_t n, int64_t block, int64_t thread) {
    A* dspatial = work.dspatial.get() + n * pixels;
    P::template gate_gradients<Kind>(shape, args.grad, args.x, n, block, gates_of(n), dspatial,
                                     of_gates.get() + (n * blocks + block) * channels,
                                     scratch.get() + thread * lane_scratch);
    if constexpr (Kind != SpatialGate::none) {
      const Span span = block_span(shape, block);
      through_sigmoid(gate_of_pixels + n * pixels + span.first, dspatial + span.first, span.count);
    }
  };
  const auto mix_gradients = [&](int64_t n, int64_t block, int64_t thread) {
    if constexpr (Kind != SpatialGate::none)
      P::template mix_gradients<Kind>(shape, args.x, n, block, gates_of(n),
                                      of_mixes.get() + (n * blocks + block) * channels,
                                      scratch.get() + thread * lane_scratch);
  };
  const auto dense_layers = [&](int64_t n) {
    A* offset = work.offset.get() + n * channels;
    double *dgate = of_gates.get() + n * blocks * channels, *dmix = of_mixes.get() + n * blocks * channels;
    if (mixes_channels) add_slots(dmix, blocks, channels, 1);
    for (int64_t c = 0; c < channels; ++c) offset[c] = 0;
    if (!shape.hidden) return;
    add_slots(dgate, blocks, channels, 1);
    if (pooled)
      for (int64_t c = 0; c < channels; ++c) dgate[c] += dmix[c];
    const DenseGradients<A> image = work.image(n);
    const A* pools = static_cast<const A*>(saved.pooled) + shape.pools() * n * channels;
    channel_gate_backward(shape, args.weights, pools, dgate, image);
    for (int64_t c = 0; c < channels; ++c) offset[c] = A(image.dpooled[c] / double(pixels));
  };
  const auto spread = [&](int64_t n, int64_t task) {
    P::template spread<Kind, Stream>(shape, args.grad, args.dx, n, task, gates_of(n));
    if constexpr (Stream) stream_fence();
  };

  const int64_t numbers = channels * pixels, tasks = P::elementwise_tasks(shape);
  if (shape.normalize) {  // whose gradient needs sums over all images
    run_stages(
        threads, groups, 1, [&](int64_t) -> Work { return {blocks, 2 * numbers / blocks}; },
        [&](int64_t, int64_t n, int64_t, int64_t block, int64_t thread) { gate_gradients(n, block, thread); });
    through_norm(args, work.dspatial.get(), threads);
  }
  const ConvolutionBackward<A> convolution(args, work, pooled ? groups.together : 0, threads);
  const int64_t lines = convolution.lines, width = convolution.width, taps = convolution.taps;
  enum Stage { of_both_gates, frame_lines, map_lines, weight_slots, mixes, dense, spreads, peaks, stages };
  const auto stage_work = [&](int64_t stage) -> Work {
    switch (stage) {
      case of_both_gates:
        return {shape.normalize ? 0 : blocks, 2 * numbers / blocks};
      case frame_lines:
        return {pooled ? 3 * lines : 0, width};
      case map_lines:
        return {pooled ? 2 * lines : 0, width * (taps / 16 + 2)};
      case weight_slots:
        return {pooled ? convolution.slots : 0, gradient_lines * width * (taps / 4 + 1)};
      case mixes:
        return {mixes_channels ? blocks : 0, numbers / blocks};
      case dense:
        return {1, channels * (blocks + shape.hidden)};
      case spreads:
        return {tasks, 2 * numbers / tasks};
      default:
        return {shape.hidden && shape.max_pool ? 1 : 0, 16 * channels};
    }
  };
  run_stages(threads, groups, stages, stage_work,
             [&](int64_t stage, int64_t n, int64_t slot, int64_t item, int64_t thread) {
               switch (stage) {
                 case of_both_gates:
                   return gate_gradients(n, item, thread);
                 case frame_lines:
                   return convolution.frame_line(n, slot, item);
                 case map_lines:
                   return convolution.maps_line(n, slot, item, thread);
                 case weight_slots:
                   return convolution.weight_slot(n, slot, item, thread);
                 case mixes:
                   return mix_gradients(n, item, thread);
                 case dense:
                   return dense_layers(n);
                 case spreads:
                   return spread(n, item);
                 default:
                   return add_peaks<T, Kind>(args, gates_of(n), n, work.image(n).dpooled + channels);
               }
             });

  const auto images = [&](int64_t n) { return work.image(n); };
  if (shape.hidden) dense_gradients<A>(shape, saved, args.gradients, threads, images);
  if (pooled) convolution.finish(threads);
  if (projected) {
    A *dweight = static_cast<A*>(args.gradients.spatial_weight), *dbias = static_cast<A*>(args.gradients.spatial_bias);
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t n = 0; n < shape.batch; ++n) sum += of_mixes[n * blocks * channels + c];
      dweight[c] = A(sum);
    }
    if (dbias) {
      double sum = 0;
      for (int64_t i = 0; i < shape.batch * pixels; ++i) sum += double(work.dspatial[i]);
      *dbias = A(sum);
    }
  }
}

}  // namespace fastseg::FASTSEG_ISA
