// Backward of channel and spatial attention: the order of the passes.
//
// Floor, u = one pass over x: 5u for CBAM. grad and x are read for the gradients of both gates, x for the channel
// gate's part in the maps, grad for dx, which is written; without a spatial gate 4u. The maps' places of maxima and the
// gates are what forward kept; everything else is computed again. Groups of images as in forward.
#pragma once
#include "cbam_forward.h"

namespace fastseg::FASTSEG_ISA {

// What backward keeps between its passes, for all images.
template <class A>
struct CbamWork {
  Scratch<A> dspatial;       // [batch, pixels]: gradient of the spatial gate, then of its logits
  Scratch<A> dmaps;          // [batch, 2, pixels]: of the mean's map divided by channels, of the maximum's map
  Scratch<double> dchannel;  // [batch, channels]
  Scratch<double> dmix;      // [batch, channels]
  Scratch<A> hidden_layers;  // [batch, 2, hidden]
  Scratch<double> dense;     // [batch, 2 hidden + 3 channels]: the rest of DenseGradients
  Scratch<A> offset;         // [batch, channels]
  int64_t channels, hidden, pixels;

  explicit CbamWork(const CbamShape& s)
      : dspatial(s.spatial == SpatialGate::none ? 0 : s.batch * s.pixels()),
        dmaps(s.spatial == SpatialGate::pooled ? 2 * s.batch * s.pixels() : 0),
        dchannel(s.batch * s.channels),
        dmix(s.batch * s.channels),
        hidden_layers(s.batch * 2 * s.hidden),
        dense(s.batch * (2 * s.hidden + 3 * s.channels)),
        offset(s.batch * s.channels),
        channels(s.channels),
        hidden(s.hidden),
        pixels(s.pixels()) {}

  DenseGradients<A> image(int64_t n) const {
    double* from = dense.get() + n * (2 * hidden + 3 * channels);
    return {hidden_layers.get() + n * 2 * hidden, from, from + 2 * hidden, from + 2 * hidden + channels};
  }
};

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

// From the logits' gradients to those of the maps and of the convolution's weight. slot_sums: [batch, slots,
// 2 * taps + 1].
template <class A>
inline void through_convolution(const CbamBackward& args, const CbamWork<A>& work, const Frame<A>& frame, A* frames,
                                int64_t first, int64_t last, double* slot_sums, int threads) {
  const CbamShape& shape = args.shape;
  const int64_t taps = shape.taps(), slots = (frame.lines() + gradient_lines - 1) / gradient_lines;
  const int64_t width = frame.size[2], pixels = shape.pixels();
  Scratch<A> weight(2 * taps), flipped(2 * taps);
  order_weight(shape, static_cast<const A*>(args.weights.spatial_weight), weight.get());
  for (int64_t t = 0; t < taps; ++t) {
    flipped[t] = weight[taps - 1 - t] / A(shape.channels);  // the mean's map
    flipped[taps + t] = weight[2 * taps - 1 - t];
  }
  // Frames: the two maps, then the gradient.
  const auto frame_of = [&](int64_t n, int64_t i) { return frames + (3 * (n - first) + i) * frame.elements; };
  for_images(threads, first, last, 3 * frame.lines(), [&](int64_t n, int64_t i) {
    const int64_t which = i / frame.lines(), line = i % frame.lines();
    const A* plane = which < 2 ? static_cast<const A*>(args.saved.maps) + (2 * n + which) * pixels
                               : work.dspatial.get() + n * pixels;
    std::memcpy(frame_of(n, which) + frame.inside(line), plane + line * width, size_t(width) * sizeof(A));
  });
  parallel_spans(threads, (last - first) * 2 * frame.lines(), [&](int64_t begin, int64_t end) {
    Scratch<A> out(rounded_up(width, Frame<A>::block));
    for (int64_t i = begin; i < end; ++i) {
      const int64_t line = i % frame.lines(), map = i / frame.lines() % 2, n = first + i / (2 * frame.lines());
      convolve_line(shape, frame, frame_of(n, 2), 1, flipped.get() + map * taps, A(0), line, out.get());
      std::memcpy(work.dmaps.get() + (2 * n + map) * pixels + line * width, out.get(), size_t(width) * sizeof(A));
    }
  });
  parallel_spans(threads, (last - first) * slots, [&](int64_t begin, int64_t end) {
    Scratch<Vec<A>> sums(2 * taps);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = first + i / slots, slot = i % slots;
      convolution_gradient(shape, frame, frame_of(n, 0), frame_of(n, 2), slot, sums.get(),
                           slot_sums + (n * slots + slot) * (2 * taps + 1));
    }
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
  const int64_t channels = shape.channels, pixels = shape.pixels(), blocks = blocks_of(shape), taps = shape.taps();
  const int64_t together = cbam_group(shape, args.x.type);
  const int64_t group = together < shape.batch ? together : shape.batch;
  const CbamWork<A> work(shape);
  const A* gate_of_pixels = static_cast<const A*>(saved.spatial_gate);

  Scratch<A> ones(channels);
  for (int64_t c = 0; c < channels; ++c) ones[c] = 1;
  const auto gates_of = [&](int64_t n) {
    Gates<A> gates{};
    gates.channel = shape.hidden ? static_cast<const A*>(saved.channel_gate) + n * channels : ones.get();
    gates.mix = Kind == SpatialGate::projected ? static_cast<const A*>(args.weights.spatial_weight) : gates.channel;
    gates.spatial = gate_of_pixels + n * pixels;
    const bool projected = Kind == SpatialGate::projected;
    gates.dsum = projected ? work.dspatial.get() + n * pixels : work.dmaps.get() + 2 * n * pixels;
    gates.dpeak = work.dmaps.get() + (2 * n + 1) * pixels;
    gates.peak_channel = saved.peak_channel + n * pixels;
    gates.offset = work.offset.get() + n * channels;
    return gates;
  };
  // Runs sums(image, block, partial, scratch) for a group's blocks, and adds the blocks' partial sums to `to`.
  const auto over_blocks = [&](int64_t first, int64_t last, double* to, const auto& sums) {
    Scratch<double> partial((last - first) * blocks * channels);
    parallel_spans(threads, (last - first) * blocks, [&](int64_t begin, int64_t end) {
      Scratch<A> scratch(channels + lanes<A>);
      for (int64_t i = begin; i < end; ++i)
        sums(first + i / blocks, i % blocks, partial.get() + i * channels, scratch.get());
    });
    for_images(blocks * channels < 4096 ? 1 : threads, first, last, 1, [&](int64_t n, int64_t) {
      double* from = partial.get() + (n - first) * blocks * channels;
      add_slots(from, blocks, channels, 1);
      std::memcpy(to + n * channels, from, size_t(channels) * sizeof(double));
    });
  };
  const auto gate_gradients = [&](int64_t first, int64_t last) {
    over_blocks(first, last, work.dchannel.get(), [&](int64_t n, int64_t block, double* partial, A* scratch) {
      A* dspatial = work.dspatial.get() + n * pixels;
      P::template gate_gradients<Kind>(shape, args.grad, args.x, n, block, gates_of(n), dspatial, partial, scratch);
      if constexpr (Kind != SpatialGate::none) {
        const Span span = block_span(shape, block);
        through_sigmoid(gate_of_pixels + n * pixels + span.first, dspatial + span.first, span.count);
      }
    });
  };

  const bool convolves = Kind == SpatialGate::pooled;
  const Frame<A> frame(shape);
  const int64_t slots = (frame.lines() + gradient_lines - 1) / gradient_lines;
  Scratch<A> frames(convolves ? group * 3 * frame.elements : 0);
  Scratch<double> slot_sums(convolves ? shape.batch * slots * (2 * taps + 1) : 0);
  if (convolves)
    for_images(threads, 0, group, 3, [&](int64_t n, int64_t i) {
      std::memset(frames.get() + (3 * n + i) * frame.elements, 0, size_t(frame.elements) * sizeof(A));
    });
  if (shape.normalize) {  // whose gradient needs sums over all images
    for (int64_t first = 0; first < shape.batch; first += together)
      gate_gradients(first, first + together < shape.batch ? first + together : shape.batch);
    through_norm(args, work.dspatial.get(), threads);
  }

  for (int64_t first = 0; first < shape.batch; first += together) {
    const int64_t last = first + together < shape.batch ? first + together : shape.batch;
    if (!shape.normalize) gate_gradients(first, last);
    if constexpr (Kind == SpatialGate::pooled)
      through_convolution(args, work, frame, frames.get(), first, last, slot_sums.get(), threads);
    if constexpr (Kind != SpatialGate::none)
      if (shape.hidden || Kind == SpatialGate::projected)
        over_blocks(first, last, work.dmix.get(), [&](int64_t n, int64_t block, double* partial, A* scratch) {
          P::template mix_gradients<Kind>(shape, args.x, n, block, gates_of(n), partial, scratch);
        });
    for_images(threads, first, last, 1, [&](int64_t n, int64_t) {
      A* offset = work.offset.get() + n * channels;
      for (int64_t c = 0; c < channels; ++c) offset[c] = 0;
      if (!shape.hidden) return;
      const DenseGradients<A> image = work.image(n);
      double* dgate = work.dchannel.get() + n * channels;
      if (Kind == SpatialGate::pooled)
        for (int64_t c = 0; c < channels; ++c) dgate[c] += work.dmix[n * channels + c];
      channel_gate_backward(shape, args.weights, static_cast<const A*>(saved.pooled) + 2 * n * channels, dgate, image);
      for (int64_t c = 0; c < channels; ++c) offset[c] = A(image.dpooled[c] / double(pixels));
    });
    const int64_t tasks = P::elementwise_tasks(shape);
    parallel_spans(threads, (last - first) * tasks, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t n = first + i / tasks;
        P::template spread<Kind, Stream>(shape, args.grad, args.dx, n, i % tasks, gates_of(n));
      }
      if constexpr (Stream) stream_fence();
    });
    if (shape.hidden && shape.max_pool)
      for_images(channels < 4096 ? 1 : threads, first, last, 1, [&](int64_t n, int64_t) {
        add_peaks<T, Kind>(args, gates_of(n), n, work.image(n).dpooled + channels);
      });
  }

  const auto images = [&](int64_t n) { return work.image(n); };
  if (shape.hidden) dense_gradients<A>(shape, saved, args.gradients, threads, images);
  A* dweight = static_cast<A*>(args.gradients.spatial_weight);
  A* dbias = static_cast<A*>(args.gradients.spatial_bias);
  if constexpr (Kind == SpatialGate::pooled) {
    add_slots(slot_sums.get(), shape.batch * slots, 2 * taps + 1, threads);
    for (int64_t t = 0; t < 2 * taps; ++t) dweight[shape.max_first ? (t + taps) % (2 * taps) : t] = A(slot_sums[t]);
    if (dbias) *dbias = A(slot_sums[2 * taps]);
  }
  if constexpr (Kind == SpatialGate::projected) {
    add_slots(work.dmix.get(), shape.batch, channels, 1);
    for (int64_t c = 0; c < channels; ++c) dweight[c] = A(work.dmix[c]);
    if (dbias) {
      double sum = 0;
      for (int64_t i = 0; i < shape.batch * pixels; ++i) sum += double(work.dspatial[i]);
      *dbias = A(sum);
    }
  }
}

}  // namespace fastseg::FASTSEG_ISA
