// Channel and spatial attention on the CPU: picks the instantiation for an element type, a layout and a spatial gate.
// Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the processor has.
#include "cbam_backward.h"
#include "cbam_channels_last.h"
#include "cbam_forward.h"
#include "cbam_rows.h"
#include "norm_channels_last.h"

namespace fastseg::FASTSEG_ISA {
namespace {

template <class Body>
void with_spatial(SpatialGate kind, const Body& body) {
  switch (kind) {
    case SpatialGate::none:
      return body(std::integral_constant<SpatialGate, SpatialGate::none>{});
    case SpatialGate::pooled:
      return body(std::integral_constant<SpatialGate, SpatialGate::pooled>{});
    case SpatialGate::projected:
      return body(std::integral_constant<SpatialGate, SpatialGate::projected>{});
  }
}

// Streaming stores need a pixel's vectors aligned, also its last one.
template <class T>
bool can_stream(const View& out, int64_t channels) {
  return lines_aligned<T>(out, out.spatial_stride) && channels % lanes<compute_t<T>> == 0;
}

}  // namespace

void cbam_forward(const CbamForward& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    with_spatial(args.shape.spatial, [&](auto kind) {
      if (args.x.spatial_stride == 1)
        stream ? cbam_forward_images<T, CbamRows, kind(), true>(args, threads)
               : cbam_forward_images<T, CbamRows, kind(), false>(args, threads);
      else
        stream&& can_stream<T>(args.y, args.shape.channels)
            ? cbam_forward_images<T, CbamChannelsLast, kind(), true>(args, threads)
            : cbam_forward_images<T, CbamChannelsLast, kind(), false>(args, threads);
    });
  });
}

void cbam_backward(const CbamBackward& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) {
    using T = decltype(element);
    with_spatial(args.shape.spatial, [&](auto kind) {
      if (args.x.spatial_stride == 1)
        stream ? cbam_backward_images<T, CbamRows, kind(), true>(args, threads)
               : cbam_backward_images<T, CbamRows, kind(), false>(args, threads);
      else
        stream&& can_stream<T>(args.dx, args.shape.channels)
            ? cbam_backward_images<T, CbamChannelsLast, kind(), true>(args, threads)
            : cbam_backward_images<T, CbamChannelsLast, kind(), false>(args, threads);
    });
  });
}

}  // namespace fastseg::FASTSEG_ISA
