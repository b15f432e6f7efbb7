// The depthwise family on the CPU: picks the instantiation for an element type and a layout.
// Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the processor has.
#include "depthwise_channels_last.h"
#include "depthwise_channels_last_direct.h"
#include "depthwise_channels_last_direct_gradient.h"
#include "depthwise_channels_last_gradient.h"
#include "depthwise_rows.h"
#include "depthwise_rows_gradient.h"
#include "separable.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// A tensor of a single pixel can be seen as either layout.
bool channels_last(const View& a, const View& b) {
  return (a && a.spatial_stride != 1) || (b && b.spatial_stride != 1);
}

template <class T>
bool can_stream_pixels(const View& out, int64_t channels) {
  return channels % lanes<compute_t<T>> == 0 && lines_aligned<T>(out, out.spatial_stride);
}

template <class T>
void forward(const DepthwiseConvForward& args, int threads, bool stream) {
  // Statistics read y again, from the cache.
  stream = stream && !args.mean;
  if (!channels_last(args.x, args.y))
    return stream ? depthwise_forward_rows<T, true>(args, threads) : depthwise_forward_rows<T, false>(args, threads);
  stream = stream && can_stream_pixels<T>(args.y, args.shape.channels);
  if (!args.mean &&
      convolved_as_images<T>({args.shape, false, args.x, args.y, args.weight, args.bias, stream}, threads))
    return;
  stream ? depthwise_forward_channels_last<T, true>(args, threads)
         : depthwise_forward_channels_last<T, false>(args, threads);
}

template <class T>
void backward(const DepthwiseConvBackward& args, int threads, bool stream) {
  if (!channels_last(args.grad, args.dx ? args.dx : args.x))
    return stream ? depthwise_backward_rows<T, true>(args, threads) : depthwise_backward_rows<T, false>(args, threads);
  stream = stream && can_stream_pixels<T>(args.dx, args.shape.channels);
  DepthwiseConvBackward rest = args;
  if (args.dx &&
      convolved_as_images<T>({args.shape, true, args.grad, args.dx, args.weight, args.bias, stream}, threads))
    rest.dx = {};
  if ((args.dweight || args.dbias) && correlated_as_images<T>(args, threads)) rest.dweight = rest.dbias = nullptr;
  if (!rest.dx && !rest.dweight && !rest.dbias) return;
  stream ? depthwise_backward_channels_last<T, true>(rest, threads)
         : depthwise_backward_channels_last<T, false>(rest, threads);
}

}  // namespace

void depthwise_conv_forward(const DepthwiseConvForward& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) { forward<decltype(element)>(args, threads, stream); });
}

void depthwise_conv_backward(const DepthwiseConvBackward& args, int threads, bool stream) {
  with_element(args.grad.type, [&](auto element) { backward<decltype(element)>(args, threads, stream); });
}

void separable_conv_forward(const SeparableConvForward& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    stream&& can_stream_pixels<T>(args.y, args.outputs) ? separable_channels_last<T, true>(args, threads)
                                                        : separable_channels_last<T, false>(args, threads);
  });
}

bool separable_conv_fits(const SeparableConvForward& args) {
  bool fits = false;
  if (channels_last(args.x, args.y) && args.shape.multiplier == 1)
    with_element(args.x.type, [&](auto element) { fits = separable_in_one_block<decltype(element)>(args); });
  return fits;
}

}  // namespace fastseg::FASTSEG_ISA
