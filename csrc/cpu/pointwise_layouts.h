// A 1x1 convolution of images in either layout.
#pragma once
#include "pointwise_channels_last.h"
#include "pointwise_rows.h"

namespace fastseg::FASTSEG_ISA {

// An image of a single pixel can be seen as either layout.
inline bool channels_last(const View& a, const View& b) { return a.spatial_stride != 1 || b.spatial_stride != 1; }

// `stream`: past the caches, where y is aligned for it. What finishes rows and what finishes pixels:
// pointwise_finish.h.
template <class T, class Rows = EachAsItIs, class Pixels = EachAsItIs>
inline void pointwise_in_layout(const PointwiseConv& args, int threads, bool stream, const Rows& rows = {},
                                const Pixels& pixels = {}) {
  const bool last = channels_last(args.x, args.y);
  stream = stream && lines_aligned<T>(args.y, last ? args.y.spatial_stride : args.y.channel_stride);
  if (last)
    stream ? pointwise_channels_last<T, true>(args, threads, pixels)
           : pointwise_channels_last<T, false>(args, threads, pixels);
  else
    stream ? pointwise_rows<T, true>(args, threads, rows) : pointwise_rows<T, false>(args, threads, rows);
}

}  // namespace fastseg::FASTSEG_ISA
