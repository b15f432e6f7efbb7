// The soft_mask_attention family on the CPU: picks the instantiation for an element type, a layout and a mask.
// Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the processor has.
#include "soft_mask_attention_conv.h"
#include "soft_mask_attention_pixels.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Lines of pixels are stored past the caches only where they are aligned; rows walk to an aligned element first.
template <class T>
bool can_stream(const View& out) {
  return out.spatial_stride == 1 || lines_aligned<T>(out, out.spatial_stride);
}

// Whether the two outputs are aligned at the same elements. One of them may be absent.
template <class T>
bool aligned_alike(const View& a, const View& b) {
  const uintptr_t bytes = sizeof(T) * lanes<compute_t<T>>;
  return !a || !b || (reinterpret_cast<uintptr_t>(a.data) - reinterpret_cast<uintptr_t>(b.data)) % bytes == 0;
}

template <class T, bool Stream>
void forward(const SoftMaskAttentionForward& args, int threads) {
  if (args.mask_channels == args.channels)
    attend_elements<T, Stream>(args, threads);
  else
    attend_pixels<T, Stream>(args, threads);
}

template <class T, bool Stream>
void backward(const SoftMaskAttentionBackward& args, int threads) {
  if (args.mask_channels == args.channels)
    attend_elements_backward<T, Stream>(args, threads);
  else
    attend_pixels_backward<T, Stream>(args, threads);
}

}  // namespace

void soft_mask_attention_forward(const SoftMaskAttentionForward& args, int threads, bool stream) {
  with_element(args.trunk.type, [&](auto element) {
    using T = decltype(element);
    stream&& can_stream<T>(args.y) ? forward<T, true>(args, threads) : forward<T, false>(args, threads);
  });
}

void soft_mask_attention_backward(const SoftMaskAttentionBackward& args, int threads, bool stream) {
  with_element(args.trunk.type, [&](auto element) {
    using T = decltype(element);
    stream &= !args.dtrunk || can_stream<T>(args.dtrunk);
    if (args.mask_channels == args.channels) stream &= aligned_alike<T>(args.dtrunk, args.dmask);
    stream ? backward<T, true>(args, threads) : backward<T, false>(args, threads);
  });
}

void soft_mask_attention_conv(const SoftMaskAttentionConv& args, int threads, bool stream) {
  with_element(args.trunk.type, [&](auto element) {
    using T = decltype(element);
    stream&& can_stream<T>(args.conv.y) ? attend_conv<T, true>(args, threads) : attend_conv<T, false>(args, threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
