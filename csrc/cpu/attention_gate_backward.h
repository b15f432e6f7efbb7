// Gradients of the attention gate, block by block: the features are computed again, never stored.
//
// Floor: x, gating and grad once, dx and dgating once; 3 * features * inputs multiply-adds a pixel. Sums over pixels
// are short runs in the compute type, then float64, in slots that depend on the shape only: the result does not depend
// on the number of threads.
#pragma once
#include <algorithm>

#include "attention_gate_block.h"

namespace fastseg::FASTSEG_ISA {

constexpr int64_t most_gate_slots = 64, least_gate_slots = 8;  // as many for each sample, rounded up
constexpr int64_t gate_slot_bytes = int64_t(4) << 20;          // of all slots, if these are enough for the least

// The slots of one call, and which rows of the coarse grid the pixels of each touch.
template <class T>
struct GateSlots {
  using A = compute_t<T>;
  const Gate<T>& gate;
  int64_t each, count;       // slots of a sample, of all
  int64_t size;              // sums of a slot: dweight, dbias, dpsi, dpsi_bias
  Scratch<double> sums;      // [count][size]
  Scratch<int64_t> offsets;  // [each + 1]: where a slot's coarse rows begin, in rows
  Scratch<A> coarse;         // [batch][rows of all slots][row size]

  explicit GateSlots(const Gate<T>& shared)
      : gate(shared),
        each(slots_of_a_sample(shared)),
        count(shared.args.batch * each),
        size(shared.args.features * (shared.inputs + 2) + 1),
        sums(count * size),
        offsets(each + 1),
        coarse(shared.args.coarse ? shared.args.batch * layout() * shared.interpolation.row_size() : 0) {}

  int64_t begin(int64_t slot) const { return gate.blocks * slot / each; }
  void rows(int64_t slot, int64_t& first, int64_t& last) const {
    const int64_t end = begin(slot + 1) - 1;
    gate.interpolation.rows_around(gate.first_pixel(begin(slot)), gate.first_pixel(end) + gate.pixels_in(end), first,
                                   last);
  }
  A* coarse_rows(int64_t n, int64_t slot) const {
    return coarse.get() + (n * offsets[each] + offsets[slot]) * gate.interpolation.row_size();
  }

 private:
  static int64_t slots_of_a_sample(const Gate<T>& shared) {
    const int64_t bytes = (shared.args.features * (shared.inputs + 2) + 1) * int64_t(sizeof(double));
    const int64_t slots = std::clamp(gate_slot_bytes / bytes, least_gate_slots, most_gate_slots);
    return std::min(shared.blocks, (slots + shared.args.batch - 1) / shared.args.batch);
  }
  int64_t layout() {
    offsets[0] = 0;
    for (int64_t slot = 0; slot < each; ++slot) {
      int64_t first, last;
      rows(slot, first, last);
      offsets[slot + 1] = offsets[slot] + last - first;
    }
    return offsets[each];
  }
};

template <class T, bool Stream>
class GateGradient {
 public:
  using A = compute_t<T>;
  static constexpr int L = lanes<A>;

  GateGradient(const AttentionGateBackward& args, const Gate<T>& gate, const GateSlots<T>& slots,
               const PackedWeights<A>& to_x, const PackedWeights<A>& to_gating)
      : args_(args),
        gate_(gate),
        slots_(slots),
        to_x_(to_x),
        to_gating_(to_gating),
        block_(gate),
        grad_(std::max(gate.args.channels, gate.args.gating_channels) * gate.panel_pixels),
        zeros_(gate.inputs + tile_outputs) {
    for (int64_t i = 0; i < gate.inputs + tile_outputs; ++i) zeros_[i] = 0;
  }

  void run(int64_t slot) {
    const int64_t n = slot / slots_.each, part = slot % slots_.each;
    double* sums = slots_.sums.get() + slot * slots_.size;
    for (int64_t i = 0; i < slots_.size; ++i) sums[i] = 0;
    A* coarse = nullptr;
    int64_t first_row = 0, last_row = 0;
    if (gate_.args.coarse) {
      slots_.rows(part, first_row, last_row);
      coarse = slots_.coarse_rows(n, part);
      for (int64_t i = 0; i < (last_row - first_row) * gate_.interpolation.row_size(); ++i) coarse[i] = 0;
    }
    for (int64_t b = slots_.begin(part); b < slots_.begin(part + 1); ++b) {
      block_.run(n, b);
      through_attention(n, b);
      through_features(sums);
      correlate_panels(block_.hidden.get(), gate_.args.features, block_.panel.get(), gate_.inputs, block_.pitch,
                       block_.filled, sums);
      const int64_t first = gate_.first_pixel(b), count = gate_.pixels_in(b);
      to_inputs(n, first, count);
      if (!coarse) continue;
      store_pixels<false>(block_.hidden.get(), block_.pitch, gate_.args.features, count, block_.interpolated.get(),
                          gate_.interpolation.pitch());
      gate_.interpolation.add_adjoint(block_.interpolated.get(), first, count, block_.row.get(), first_row, coarse);
    }
    if constexpr (Stream) stream_fence();
  }

 private:
  // grad, and the gradient of the logits in place of the sigmoid's derivative.
  void through_attention(int64_t n, int64_t b) {
    constexpr int64_t run = 16;  // channels, whose products are added up before they join the others
    const int64_t channels = gate_.args.channels, pitch = block_.pitch;
    load_panel<T>(args_.grad, n, gate_.first_pixel(b), channels, gate_.pixels_in(b), grad_.get(), pitch);
    for (int64_t p = 0; p < block_.filled; p += L) {
      Vec<A> sum{};
      for (int64_t c = 0; c < channels; c += run) {
        const int64_t end = c + run < channels ? c + run : channels;
        Vec<A> part{};
        for (int64_t k = c; k < end; ++k)
          part += load(grad_.get() + k * pitch + p) * load(block_.panel.get() + k * pitch + p);
        sum += part;
      }
      store(block_.derivative.get() + p, load(block_.derivative.get() + p) * sum);
    }
  }

  // The gradient before relu in place of the features; sums for bias, psi and its bias.
  void through_features(double* sums) {
    const int64_t features = gate_.args.features;
    double *dbias = sums + features * gate_.inputs, *dpsi = dbias + features;
    const A* dlogit = block_.derivative.get();
    for (int64_t f = 0; f < features; ++f) {
      A* h = block_.hidden.get() + f * block_.pitch;
      WideSum<A> for_bias, for_psi;
      for (int64_t p = 0; p < block_.filled; p += L) {
        const Vec<A> v = load(h + p), d = load(dlogit + p);
        const Vec<A> before = v <= 0 ? Vec<A>{} : d * gate_.psi[f];
        for_psi.add(v * d);
        for_bias.add(before);
        store(h + p, before);
      }
      dbias[f] += for_bias.total();
      dpsi[f] += for_psi.total();
    }
    WideSum<A> total;
    for (int64_t p = 0; p < block_.filled; p += L) total.add(load(dlogit + p));
    dpsi[features] += total.total();
  }

  // dx = grad * attention + Wx^T d, dgating = Wg^T d.
  void to_inputs(int64_t n, int64_t first, int64_t count) {
    const AttentionGate& gate = gate_.args;
    const int64_t pitch = block_.pitch;
    const A *grad = grad_.get(), *attention = block_.attention.get();
    const auto finish = [=](Vec<A> v, int64_t c, int64_t p) {
      return v + load(grad + c * pitch + p) * load(attention + p);
    };
    multiply(to_x_, gate.channels, args_.dx, n, first, count, finish);
    if (gate.gating) multiply(to_gating_, gate.gating_channels, args_.dgating, n, first, count, AsItIs{});
  }

  // Pixels of `outputs` channels to `to`; those of channels-last images are gathered in the memory of grad, each of
  // whose numbers is read before it is overwritten.
  template <class Finish>
  void multiply(const PackedWeights<A>& weights, int64_t outputs, const View& to, int64_t n, int64_t first,
                int64_t count, const Finish& finish) {
    const int64_t features = gate_.args.features, pitch = block_.pitch;
    const A* from = block_.hidden.get();
    T* out = pixel_of_sample<T>(to, n, first);
    if (to.spatial_stride == 1)
      return multiply_panel<Stream>(weights, zeros_.get(), features, 0, outputs, from, pitch, count, out,
                                    to.channel_stride, finish);
    multiply_panel<false>(weights, zeros_.get(), features, 0, outputs, from, pitch, count, grad_.get(), pitch, finish);
    store_pixels<Stream>(grad_.get(), pitch, outputs, count, out, to.spatial_stride);
  }

  const AttentionGateBackward& args_;
  const Gate<T>& gate_;
  const GateSlots<T>& slots_;
  const PackedWeights<A>&to_x_, &to_gating_;
  GateBlock<T, true> block_;
  Scratch<A> grad_, zeros_;
};

// Adds up what the slots of a sample have of each row of the coarse grid.
template <class T>
inline void add_coarse_rows(const AttentionGateBackward& args, const GateSlots<T>& slots, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const AttentionGate& gate = args.gate;
  const Interpolation<A>& interpolation = slots.gate.interpolation;
  const int64_t rows = gate.coarse_size[0] * gate.coarse_size[1], width = gate.coarse_size[2];
  const int64_t pitch = interpolation.pitch();
  parallel_spans(threads, gate.batch * rows, [&](int64_t begin, int64_t end) {
    Scratch<A> sum(interpolation.row_size());
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / rows, row = i % rows;
      for (int64_t k = 0; k < interpolation.row_size(); ++k) sum[k] = 0;
      for (int64_t slot = 0; slot < slots.each; ++slot) {
        int64_t first, last;
        slots.rows(slot, first, last);
        if (row < first || row >= last) continue;
        const A* from = slots.coarse_rows(n, slot) + (row - first) * interpolation.row_size();
        for (int64_t k = 0; k < interpolation.row_size(); k += L)
          store(sum.get() + k, load(sum.get() + k) + load(from + k));
      }
      A* to = pixel_of_sample<A>(args.dcoarse, n, row * width);
      for (int64_t x = 0; x < width; ++x)
        for (int64_t f = 0; f < gate.features; f += L)
          store_part(to + x * args.dcoarse.spatial_stride + f, load(sum.get() + x * pitch + f),
                     gate.features - f < L ? gate.features - f : L);
    }
  });
}

template <class T, bool Stream>
inline void attention_gate_gradient(const AttentionGateBackward& args, int threads) {
  using A = compute_t<T>;
  // Larger than in forward: sums of products are handed to float64 after each block.
  const Gate<T> gate(args.gate, 512 * 1024);
  const GateSlots<T> slots(gate);
  const int64_t features = args.gate.features, channels = args.gate.channels, inputs = gate.inputs;
  const A* weight = static_cast<const A*>(args.gate.weight);
  const PackedWeights<A> to_x(weight, features, channels, 1, inputs);
  const PackedWeights<A> to_gating(weight + channels, features, args.gate.gating_channels, 1, inputs);
  parallel_spans(threads, slots.count, [&](int64_t begin, int64_t end) {
    GateGradient<T, Stream> gradient(args, gate, slots, to_x, to_gating);
    for (int64_t slot = begin; slot < end; ++slot) gradient.run(slot);
  });
  add_slots(slots.sums.get(), slots.count, slots.size, threads);
  for (int64_t i = 0; i < features * inputs; ++i) static_cast<A*>(args.dweight)[i] = A(slots.sums[i]);
  for (int64_t i = 0; i < 2 * features + 1; ++i)
    static_cast<A*>(args.dvectors)[i] = A(slots.sums[features * inputs + i]);
  if (args.gate.coarse) add_coarse_rows(args, slots, threads);
}

}  // namespace fastseg::FASTSEG_ISA
