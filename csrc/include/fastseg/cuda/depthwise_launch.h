// What depthwise.cu, which chooses, and the files of the kernels tell each other.
#pragma once
#include "fastseg/cuda/depthwise_channels_last.h"
#include "fastseg/cuda/depthwise_plan.h"
#include "fastseg/cuda/launch.h"

namespace fastseg::cuda {

// With `partials`: the moments of what is written, [row][march.slots].
void convolve_march(const March& march, void* partials, void* stream, Site site);

// Where in the march through grad an element of it is counted for dbias: once, at this tap of its target.
struct BiasCentre {
  bool wanted = false;
  int at[3] = {0, 0, 0};
};

// `march` is that of a turned convolution, whose target dx may be absent. Leaves [batch * march.slots][channels]
// [taps + 1] partial sums: of the weights, and of the bias where it is wanted.
int64_t backward_march_shared_floats(const March& march);
void backward_march(const March& march, const View& x, const BiasCentre& centre, void* partials, void* stream,
                    Site site);

// With `partials`: the moments of what is written, [row][plan.slots].
void convolve_channels_last(const ChannelsLast& plan, void* partials, void* stream, Site site);
// The plan's convolution has x as its source and grad as its target. Leaves [batch * plan.slots][channels][taps + 1]
// partial sums.
void correlate_channels_last(const ChannelsLast& plan, bool with_bias, void* partials, void* stream, Site site);

// Whatever the others do not take. The convolution is the forward one: x, or nothing, its source, and y or grad its
// target; in the gradient of the input its bias is that of dx.
struct GeneralParts {
  int64_t groups_x, tap_rows;  // of up to 8 taps along x; with those of the other axes
  int64_t part_rows, parts;    // rows of target of a part
};
GeneralParts general_parts(const Convolution& conv);
void convolve_general(const Convolution& conv, bool channels_last, void* stream, Site site);
void input_gradient_general(const Convolution& conv, const View& dx, bool channels_last, void* stream, Site site);
void moments_general(const Convolution& conv, double eps, void* mean, void* rstd, void* stream, Site site);
// Leaves [parts][channels][taps + 1] partial sums; the weights' only where they are wanted.
void parameter_gradients_general(const Convolution& conv, bool with_weights, void* partials, void* stream, Site site);

}  // namespace fastseg::cuda
