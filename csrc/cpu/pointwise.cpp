// 1x1 convolutions on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the
// processor has.
//
// Floor: x and y once each (inputs and outputs passes over an image), inputs * outputs multiply-adds a pixel. Vendors'
// routines reorder contiguous images to blocks of channels and back, which costs more than the product itself, and
// write channels-last outputs to fresh memory, whose page faults do.
#include "pointwise_layouts.h"

namespace fastseg::FASTSEG_ISA {
void pointwise_conv(const PointwiseConv& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) { pointwise_in_layout<decltype(element)>(args, threads, stream); });
}

void pointwise_conv_gradient(const PointwiseConvGradient& args, int threads, bool) {
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    if (channels_last(args.x, args.grad))
      pointwise_gradient_channels_last<T>(args, threads);
    else
      pointwise_gradient_rows<T>(args, threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
