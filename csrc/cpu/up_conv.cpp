// Up-convolutions and their gradients on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the
// best one that the processor has.
//
// Floor: both images once, channels multiply-adds for each number of the fine one: from 64 to 32 channels, 2x2x2, these
// take about as long as the bytes on four cores. Vendors' routines write to fresh memory, for contiguous images after a
// pass of their own. Here products are stored where they belong, channels-last, or are brought into rows in the cache,
// run by run; gradients are brought beside each other in the same way (up_conv_patches.h).
#include "pointwise_gradient.h"
#include "up_conv_runs.h"

namespace fastseg::FASTSEG_ISA {
namespace {

template <class T, template <class, bool> class Runs, bool Stream>
void multiply(const UpConv& args, const Runs<T, Stream>& runs, bool transposed, int threads) {
  const UpConvShape& s = args.shape;
  const int64_t columns = s.columns(), bytes = (s.channels + columns) * int64_t(sizeof(compute_t<T>));
  const PixelProducts<T> products =
      transposed
          ? PixelProducts<T>{args.weight, columns, s.channels, columns, 1, {}, s.batch, s.pixels(), bytes}
          : PixelProducts<T>{args.weight, s.channels, columns, 1, columns, args.bias, s.batch, s.pixels(), bytes};
  products.each_run(threads, runs.rows(), runs);
}

}  // namespace

void up_conv(const UpConv& args, int threads, bool stream) {
  with_element(args.fine.type, [&](auto element) {
    using T = decltype(element);
    if (stream && Patches<T>(args.shape, args.fine).aligned())
      multiply(args, UpConvRuns<T, true>(args), false, threads);
    else
      multiply(args, UpConvRuns<T, false>(args), false, threads);
  });
}

void up_conv_gradient(const UpConv& args, int threads, bool stream) {
  with_element(args.fine.type, [&](auto element) {
    using T = decltype(element);
    if (stream && !in_rows(args.coarse) && lines_aligned<T>(args.coarse, args.coarse.spatial_stride))
      multiply(args, UpConvGradientRuns<T, true>(args), true, threads);
    else
      multiply(args, UpConvGradientRuns<T, false>(args), true, threads);
  });
}

void up_conv_parameter_gradient(const UpConvParameterGradient& args, int threads, bool) {
  with_element(args.fine.type, [&](auto element) {
    using T = decltype(element);
    const UpConvShape& s = args.shape;
    const Patches<T> grad(s, args.fine);
    const ImagePixels<T> x{args.coarse, s.pixels()};
    const ParameterGradients to{args.dweight, /*by_inputs=*/true, args.dbias};
    using Gradient = PointwiseGradient<T, Patches<T>, ImagePixels<T>>;
    Gradient(grad, x, s.batch * s.pixels(), s.channels, s.columns(), to).run(threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
