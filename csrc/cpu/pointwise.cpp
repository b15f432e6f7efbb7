// 1x1 convolutions on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the
// processor has.
//
// Floor: x and y once each (inputs and outputs passes over an image), inputs * outputs multiply-adds a pixel. Vendors'
// routines reorder contiguous images to blocks of channels and back, which costs more than the product itself, and
// write channels-last outputs to fresh memory, whose page faults do. A residual is added in registers
// (pointwise_residual.h).
#include "pointwise_channels_last.h"
#include "pointwise_gradient.h"
#include "pointwise_residual.h"
#include "pointwise_rows.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// An image of a single pixel can be seen as either layout.
bool channels_last(const View& a, const View& b) { return a.spatial_stride != 1 || b.spatial_stride != 1; }

template <class T, bool Stream>
void convolve(const PointwiseConv& args, int threads, bool pixels) {
  using ToOutputs = EachAdds<AddToOutputs<T, most_pixels_together>>;
  using ToPixels = EachAdds<AddToPixels<T, most_panel_pixels<compute_t<T>>>>;
  const bool adds = bool(args.residual.data);
  if (pixels && adds)
    pointwise_channels_last<T, Stream, ToOutputs>(args, threads, {args});
  else if (pixels)
    pointwise_channels_last<T, Stream>(args, threads);
  else if (adds)
    pointwise_rows<T, Stream, ToPixels>(args, threads, {args});
  else
    pointwise_rows<T, Stream>(args, threads);
}

}  // namespace

void pointwise_conv(const PointwiseConv& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    const bool pixels = channels_last(args.x, args.y);
    const bool aligned = lines_aligned<T>(args.y, pixels ? args.y.spatial_stride : args.y.channel_stride);
    stream&& aligned ? convolve<T, true>(args, threads, pixels) : convolve<T, false>(args, threads, pixels);
  });
}

void pointwise_conv_gradient(const PointwiseConvGradient& args, int threads, bool) {
  // Large images in rows of not too many channels are multiplied as they lie; copying them to pixels would take longer.
  constexpr int64_t large = 1024, many = 1 << 16;
  const bool rows = !channels_last(args.x, args.grad) && args.pixels >= large && args.inputs * args.outputs < many;
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    if (rows) return pointwise_gradient_rows<T>(args, threads);
    const ImagePixels<T> grad{args.grad, args.pixels}, x{args.x, args.pixels};
    const ParameterGradients to{args.dweight, /*by_inputs=*/false, args.dbias};
    using Gradient = PointwiseGradient<T, ImagePixels<T>, ImagePixels<T>>;
    Gradient(grad, x, args.batch * args.pixels, args.inputs, args.outputs, to).run(threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
