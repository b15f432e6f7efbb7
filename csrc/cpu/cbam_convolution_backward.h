// What backward of channel and spatial attention keeps between its passes, and its way through the small convolution.
#pragma once
#include "cbam_forward.h"

namespace fastseg::FASTSEG_ISA {

// What backward keeps between its passes, for all images.
template <class A>
struct CbamWork {
  Scratch<A> dspatial;       // [batch, pixels]: gradient of the spatial gate, then of its logits
  Scratch<A> dmaps;          // [batch, 2, pixels]: of the mean's map divided by channels, of the maximum's map
  Scratch<A> hidden_layers;  // [batch, 2, hidden]
  Scratch<double> dense;     // [batch, 2 hidden + 3 channels]: the rest of DenseGradients
  Scratch<A> offset;         // [batch, channels]
  int64_t channels, hidden, pixels;

  explicit CbamWork(const CbamShape& s)
      : dspatial(s.spatial == SpatialGate::none ? 0 : s.batch * s.pixels()),
        dmaps(s.spatial == SpatialGate::pooled ? 2 * s.batch * s.pixels() : 0),
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

// From the logits' gradients to those of the maps and of the convolution's weight.
template <class A>
class ConvolutionBackward {
 public:
  const Frame<A> frame;
  const int64_t taps, slots, lines, width;

  ConvolutionBackward(const CbamBackward& args, const CbamWork<A>& work, int64_t images, int threads)
      : frame(args.shape),
        taps(args.shape.taps()),
        slots((frame.lines() + gradient_lines - 1) / gradient_lines),
        lines(frame.lines()),
        width(frame.size[2]),
        args_(args),
        work_(work),
        padded_(rounded_up(width, Frame<A>::block)),
        frames_(images * 3 * frame.elements),
        flipped_(2 * taps),
        convolved_(threads * padded_),
        sums_(threads * 2 * taps),
        slot_sums_(args.shape.batch * slots * (2 * taps + 1)) {
    if (images == 0) return;  // no convolution in this call
    Scratch<A> weight(2 * taps);
    order_weight(args.shape, static_cast<const A*>(args.weights.spatial_weight), weight.get());
    for (int64_t t = 0; t < taps; ++t) {
      flipped_[t] = weight[taps - 1 - t] / A(args.shape.channels);  // the mean's map
      flipped_[taps + t] = weight[2 * taps - 1 - t];
    }
    clear_frames(frame, frames_.get(), 3 * images, threads);
  }

  // Three frames: the two maps, then the gradient.
  void frame_line(int64_t n, int64_t slot, int64_t i) const {
    const int64_t which = i / lines, line = i % lines, pixels = args_.shape.pixels();
    const A* plane = which < 2 ? static_cast<const A*>(args_.saved.maps) + (2 * n + which) * pixels
                               : work_.dspatial.get() + n * pixels;
    std::memcpy(frame_of(slot, which) + frame.inside(line), plane + line * width, size_t(width) * sizeof(A));
  }
  void maps_line(int64_t n, int64_t slot, int64_t i, int64_t thread) const {
    const int64_t map = i / lines, line = i % lines;
    A* out = convolved_.get() + thread * padded_;
    convolve_line(args_.shape, frame, frame_of(slot, 2), 1, flipped_.get() + map * taps, A(0), line, out);
    A* to = work_.dmaps.get() + (2 * n + map) * args_.shape.pixels() + line * width;
    std::memcpy(to, out, size_t(width) * sizeof(A));
  }
  void weight_slot(int64_t n, int64_t slot, int64_t i, int64_t thread) const {
    convolution_gradient(args_.shape, frame, frame_of(slot, 0), frame_of(slot, 2), i, sums_.get() + thread * 2 * taps,
                         slot_sums_.get() + (n * slots + i) * (2 * taps + 1));
  }
  void finish(int threads) const {
    A *dweight = static_cast<A*>(args_.gradients.spatial_weight),
      *dbias = static_cast<A*>(args_.gradients.spatial_bias);
    add_slots(slot_sums_.get(), args_.shape.batch * slots, 2 * taps + 1, threads);
    for (int64_t t = 0; t < 2 * taps; ++t)
      dweight[args_.shape.max_first ? (t + taps) % (2 * taps) : t] = A(slot_sums_[t]);
    if (dbias) *dbias = A(slot_sums_[2 * taps]);
  }

 private:
  A* frame_of(int64_t slot, int64_t which) const { return frames_.get() + (3 * slot + which) * frame.elements; }

  const CbamBackward& args_;
  const CbamWork<A>& work_;
  const int64_t padded_;
  Scratch<A> frames_, flipped_, convolved_;
  Scratch<Vec<A>> sums_;
  Scratch<double> slot_sums_;  // [batch, slots, 2 * taps + 1]
};

}  // namespace fastseg::FASTSEG_ISA
