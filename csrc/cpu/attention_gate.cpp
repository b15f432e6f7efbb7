// The attention_gate family on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one
// that the processor has.
#include "attention_gate_backward.h"

namespace fastseg::FASTSEG_ISA {
namespace {

template <class T, bool Stream>
void forward(const AttentionGateForward& args, int threads) {
  using A = compute_t<T>;
  constexpr int L = lanes<A>;
  const Gate<T> gate(args.gate, 128 * 1024);
  const View &x = args.gate.x, &y = args.y;
  parallel_spans(threads, args.gate.batch * gate.blocks, [&](int64_t begin, int64_t end) {
    GateBlock<T, false> block(gate);
    const A* attention = block.attention.get();
    for (int64_t i = begin; i < end; ++i) {
      const int64_t n = i / gate.blocks, first = gate.first_pixel(i % gate.blocks);
      const int64_t count = gate.pixels_in(i % gate.blocks), channels = args.gate.channels;
      block.run(n, i % gate.blocks);
      T* to = pixel_of_sample<T>(y, n, first);
      if (y.spatial_stride == 1) {
        const A* from = block.panel.get();
        for (int64_t c = 0; c < channels; ++c, from += block.pitch, to += y.channel_stride)
          for (int64_t p = 0; p < count; p += L)
            store_part<Stream>(to + p, load(from + p) * load(attention + p), count - p < L ? count - p : L);
        continue;
      }
      const T* from = pixel_of_sample<const T>(x, n, first);
      for (int64_t p = 0; p < count; ++p, from += x.spatial_stride, to += y.spatial_stride)
        for (int64_t c = 0; c < channels; c += L) {
          const int64_t part = channels - c < L ? channels - c : L;
          store_part<Stream>(to + c, load_part(from + c, part) * attention[p], part);
        }
    }
    if constexpr (Stream) stream_fence();
  });
}

// Every vector of whole blocks is aligned, in either layout.
template <class T>
bool aligned(const View& v) {
  return !v || lines_aligned<T>(v, v.spatial_stride == 1 ? v.channel_stride : v.spatial_stride);
}

}  // namespace

void attention_gate_forward(const AttentionGateForward& args, int threads, bool stream) {
  with_element(args.gate.x.type, [&](auto element) {
    using T = decltype(element);
    stream&& aligned<T>(args.y) ? forward<T, true>(args, threads) : forward<T, false>(args, threads);
  });
}

void attention_gate_backward(const AttentionGateBackward& args, int threads, bool stream) {
  with_element(args.gate.x.type, [&](auto element) {
    using T = decltype(element);
    stream&& aligned<T>(args.dx) && aligned<T>(args.dgating) ? attention_gate_gradient<T, true>(args, threads)
                                                             : attention_gate_gradient<T, false>(args, threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
