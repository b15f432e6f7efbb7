// The loss family on the CPU: picks the instantiation for an element type, classes or regions.
// Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the processor has.
#include "loss_classes.h"
#include "loss_regions.h"

namespace fastseg::FASTSEG_ISA {

void loss_sums_of(const LossSums& args, int threads) {
  with_element(args.logits.type, [&](auto element) {
    using T = decltype(element);
    args.sigmoid ? sum_slots<RegionBlock<T>>(args, threads) : sum_slots<ClassBlock<T>>(args, threads);
  });
}

namespace {

template <class T, bool Stream>
void gradient(const LossGradient& args, int threads) {
  args.sigmoid ? gradient_of_regions<T, Stream>(args, threads) : gradient_of_classes<T, Stream>(args, threads);
}

}  // namespace

void loss_gradient(const LossGradient& args, int threads, bool stream) {
  with_element(args.logits.type, [&](auto element) {
    using T = decltype(element);
    const View& out = args.dlogits;
    // Blocks start at whole vectors of a row; channels-last voxels are stored one by one.
    const bool aligned = out.spatial_stride == 1 && lines_aligned<T>(out, out.channel_stride);
    stream&& aligned ? gradient<T, true>(args, threads) : gradient<T, false>(args, threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
