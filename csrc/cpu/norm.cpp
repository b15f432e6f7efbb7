// The norm family on the CPU: picks the instantiation for an element type and a layout.
// Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the processor has.
#include <type_traits>

#include "norm_channels_last_backward.h"
#include "norm_math.h"
#include "norm_rows.h"

namespace fastseg::FASTSEG_ISA {
namespace {

template <class T, bool Stream>
void forward(const InstanceNormActForward& args, int threads) {
  const auto run = [&](auto residual) {
    if (args.x.spatial_stride == 1)
      forward_rows<T, residual(), Stream>(args, threads);
    else
      forward_channels_last<T, residual(), Stream>(args, threads);
  };
  args.residual ? run(std::true_type{}) : run(std::false_type{});
}

template <class T, bool Stream>
void backward(const InstanceNormActBackward& args, int threads) {
  const auto run = [&](auto from_y) {
    if (args.x.spatial_stride == 1)
      backward_rows<T, from_y(), Stream>(args, threads);
    else
      backward_channels_last<T, from_y(), Stream>(args, threads);
  };
  args.y ? run(std::true_type{}) : run(std::false_type{});
}

template <class T>
bool can_stream(const View& out) {
  return out.spatial_stride == 1 || lines_aligned<T>(out, out.spatial_stride);
}

}  // namespace

void instance_norm_act_forward(const InstanceNormActForward& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    stream&& can_stream<T>(args.y) ? forward<T, true>(args, threads) : forward<T, false>(args, threads);
  });
}

void instance_norm_act_backward(const InstanceNormActBackward& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    stream&& can_stream<T>(args.dx) ? backward<T, true>(args, threads) : backward<T, false>(args, threads);
  });
}

}  // namespace fastseg::FASTSEG_ISA
