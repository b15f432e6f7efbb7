// The depthwise family on CUDA: which kernel takes a call, and the second stage of sums that CTAs leave in slots of the
// workspace. Slots are merged in a fixed order, so results repeat bit for bit.
#include "fastseg/cuda/depthwise_launch.h"
#include "fastseg/cuda/depthwise_moments.cuh"
#include "fastseg/cuda/element.cuh"
#include "fastseg/cuda/shared_memory.cuh"

namespace fastseg::cuda {
namespace {

// One warp for a row: mean and rstd from the moments of its slots. In double, for there are few.
__global__ void __launch_bounds__(depthwise_threads)
    merge_moments(const Moments* partials, int64_t rows, int64_t slots, double eps, float* mean, float* rstd) {
  const int lane = threadIdx.x % warp_size;
  const int64_t row = static_cast<int64_t>(blockIdx.x) * (depthwise_threads / warp_size) + threadIdx.x / warp_size;
  if (row >= rows) return;
  const Moments* mine = partials + row * slots;
  double count = 0, sum = 0;
  for (int64_t slot = lane; slot < slots; slot += warp_size) {
    count += mine[slot].count;
    sum += static_cast<double>(mine[slot].count) * mine[slot].mean;
  }
  count = lane_sum(count, warp_size);
  const double centre = lane_sum(sum, warp_size) / count;
  double squares = 0;
  for (int64_t slot = lane; slot < slots; slot += warp_size) {
    const double difference = mine[slot].mean - centre;
    squares += mine[slot].squares + mine[slot].count * difference * difference;
  }
  squares = lane_sum(squares, warp_size);
  if (lane != 0) return;
  mean[row] = static_cast<float>(centre);
  rstd[row] = static_cast<float>(1 / sqrt(squares / count + eps));
}

// Threads are 32 parameters by 4 runs of slots. parameters: taps + 1, the last one the bias.
template <typename C>
__global__ void __launch_bounds__(depthwise_threads)
    merge_parameters(const C* partials, int64_t slots, int64_t channels, int64_t parameters, C* dweight, C* dbias) {
  constexpr int kRuns = depthwise_threads / warp_size;
  C* sums = reinterpret_cast<C*>(shared_memory());  // [run][parameter]
  const int64_t stride = channels * parameters;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * warp_size + threadIdx.x % warp_size;
  const int64_t parameter = index % parameters, channel = index / parameters;
  C* to = nullptr;
  if (channel < channels && parameter < parameters - 1 && dweight != nullptr) {
    to = dweight + channel * (parameters - 1) + parameter;
  } else if (channel < channels && parameter == parameters - 1 && dbias != nullptr) {
    to = dbias + channel;
  }
  const int run = threadIdx.x / warp_size;
  C sum = 0;
  if (to != nullptr) {
    for (int64_t slot = run; slot < slots; slot += kRuns) sum += partials[slot * stride + index];
  }
  sums[threadIdx.x] = sum;
  __syncthreads();
  if (run != 0 || to == nullptr) return;
  for (int other = 1; other < kRuns; ++other) sum += sums[other * warp_size + threadIdx.x];
  *to = sum;
}

bool is_channels_last(const Convolution& conv) {
  return conv.source.spatial_stride != 1 || conv.target.spatial_stride != 1;
}

// Runs a convolution on the kernels of its layout. Returns the slots of each row that took its moments, 0 where no
// such kernel takes it.
int64_t convolve(const Convolution& conv, void* partials, void* stream, const Site& site) {
  March march;
  ChannelsLast plan;
  if (!is_channels_last(conv)) {
    if (!plan_march(conv, conv.source.type, march)) return 0;
    convolve_march(march, partials, stream, site);
    return march.slots;
  }
  if (!takes_vectors(conv, {conv.source, conv.target})) return 0;
  if (!plan_channels_last(conv, conv.source.type, false, plan)) return 0;
  convolve_channels_last(plan, partials, stream, site);
  return plan.slots;
}

// Where the backward march through grad counts an element for dbias; not wanted where no tap meets each exactly once.
BiasCentre bias_centre(const DepthwiseShape& shape) {
  BiasCentre centre;
  for (int axis = 0; axis < 3; ++axis) {
    const int64_t reach = (shape.kernel[axis] - 1) * shape.dilation[axis];
    const int64_t before = reach - shape.padding[axis];
    if (before < 0 || shape.dilation[axis] > shape.input[axis]) return centre;
    centre.at[axis] = static_cast<int>(before / shape.dilation[axis]);
    const int64_t shift = before % shape.dilation[axis];
    if (2 * centre.at[axis] * shape.dilation[axis] + shift < reach) return centre;
  }
  centre.wanted = true;
  return centre;
}

template <typename C>
void merge_partials(const void* partials, int64_t slots, const Convolution& conv, void* dweight, void* dbias,
                    void* stream, Site site) {
  site.kernel = "sums of parameters";
  const LaunchShape shape = {ceil_div(conv.channels * (conv.taps + 1), warp_size), depthwise_threads,
                             depthwise_threads * static_cast<int64_t>(sizeof(C))};
  launch(merge_parameters<C>, shape, stream, site, static_cast<const C*>(partials), slots, conv.channels, conv.taps + 1,
         static_cast<C*>(dweight), static_cast<C*>(dbias));
}

int64_t partial_bytes(const Convolution& conv, int64_t slots, int64_t size) {
  return ceil_div(slots * conv.channels * (conv.taps + 1) * size, 8) * 8;
}

// dx and dweight in one march where the layout and the shape allow it; true if they are done.
bool backward_in_one_march(const DepthwiseConvBackward& args, bool& bias_is_done, void* workspace, void* stream,
                           const Site& site) {
  if (has_stride(args.shape) || args.shape.multiplier != 1) return false;
  Convolution turned = turned_convolution_of(args.shape);
  turned.source = args.grad;
  turned.target = args.dx;
  turned.weight = args.weight;
  March march;
  if (args.bias || args.grad.spatial_stride != 1 || args.x.spatial_stride != 1 ||
      !plan_march(turned, args.grad.type, march) || backward_march_shared_floats(march) * 4 > most_shared_bytes) {
    return false;
  }
  BiasCentre centre = bias_centre(args.shape);
  bias_is_done = centre.wanted;
  centre.wanted = centre.wanted && args.dbias != nullptr;
  backward_march(march, args.x, centre, workspace, stream, site);
  merge_partials<float>(workspace, march.conv.batch * march.slots, turned, args.dweight,
                        centre.wanted ? args.dbias : nullptr, stream, site);
  return true;
}

void input_gradient(const DepthwiseConvBackward& args, void* stream, const Site& site) {
  if (!has_stride(args.shape) && args.shape.multiplier == 1) {
    Convolution turned = turned_convolution_of(args.shape);
    turned.source = args.grad;
    turned.target = args.dx;
    turned.weight = args.weight;
    turned.bias = args.bias;
    if (convolve(turned, nullptr, stream, site) > 0) return;
  }
  Convolution conv = convolution_of(args.shape);
  conv.target = args.grad;
  conv.weight = args.weight;
  conv.bias = args.bias;
  const bool channels_last = args.dx.spatial_stride != 1 || args.grad.spatial_stride != 1;
  input_gradient_general(conv, args.dx, channels_last, stream, site);
}

Site site_of(const char* op, const DepthwiseShape& shape) {
  return {op, shape.batch, shape.channels, shape.input[0] * shape.input[1] * shape.input[2]};
}

}  // namespace

int64_t depthwise_conv_workspace(const DepthwiseShape& shape, Element type, bool channels_last, bool backward,
                                 bool reduces) {
  if (!reduces) return 0;
  const Convolution conv = convolution_of(shape);
  const int64_t size = type == Element::float64 ? 8 : 4;
  March march;
  ChannelsLast plan;
  if (!backward) {
    int64_t slots = 0;
    if (channels_last ? plan_channels_last(conv, type, false, plan) : plan_march(conv, type, march)) {
      slots = channels_last ? plan.slots : march.slots;
    }
    return conv.rows() * slots * static_cast<int64_t>(sizeof(Moments));
  }
  int64_t slots = 0;
  if (channels_last) {
    if (plan_channels_last(conv, type, true, plan)) slots = plan.slots;
  } else if (!has_stride(shape) && shape.multiplier == 1 && plan_march(turned_convolution_of(shape), type, march)) {
    slots = march.slots;
  }
  // The general kernel follows where the march cannot count the bias, or a tensor is not aligned.
  return partial_bytes(conv, conv.batch * slots, 4) + partial_bytes(conv, general_parts(conv).parts, size);
}

void depthwise_conv_forward(const DepthwiseConvForward& args, void* workspace, void* stream) {
  const Site site = site_of("depthwise_conv_forward", args.shape);
  Convolution conv = convolution_of(args.shape);
  conv.source = args.x;
  conv.target = args.y;
  conv.weight = args.weight;
  conv.bias = args.bias;
  const bool statistics = args.mean != nullptr;
  const int64_t slots = convolve(conv, statistics ? workspace : nullptr, stream, site);
  if (slots == 0) {
    convolve_general(conv, is_channels_last(conv), stream, site);
    if (statistics) moments_general(conv, args.eps, args.mean, args.rstd, stream, site);
    return;
  }
  if (!statistics) return;
  Site merging = site;
  merging.kernel = "statistics of rows";
  const int64_t rows = conv.rows();
  const LaunchShape shape = {ceil_div(rows, depthwise_threads / warp_size), depthwise_threads};
  launch(merge_moments, shape, stream, merging, static_cast<const Moments*>(workspace), rows, slots, args.eps,
         static_cast<float*>(args.mean), static_cast<float*>(args.rstd));
}

void depthwise_conv_backward(const DepthwiseConvBackward& args, void* workspace, void* stream) {
  const Site site = site_of("depthwise_conv_backward", args.shape);
  Convolution conv = convolution_of(args.shape);
  conv.source = args.x;
  conv.target = args.grad;
  bool weights_are_done = args.dweight == nullptr, bias_is_done = args.dbias == nullptr;
  bool input_is_done = !args.dx;
  char* general_workspace = static_cast<char*>(workspace);
  if (!weights_are_done) {
    bool counted = false;
    ChannelsLast plan;
    if (backward_in_one_march(args, counted, workspace, stream, site)) {
      weights_are_done = input_is_done = true;
      bias_is_done = bias_is_done || counted;
      March march;
      plan_march(turned_convolution_of(args.shape), args.grad.type, march);
      general_workspace += partial_bytes(conv, conv.batch * march.slots, 4);
    } else if (is_channels_last(conv) && takes_vectors(conv, {args.x, args.grad}) &&
               plan_channels_last(conv, args.grad.type, true, plan)) {
      correlate_channels_last(plan, args.dbias != nullptr, workspace, stream, site);
      merge_partials<float>(workspace, conv.batch * plan.slots, conv, args.dweight, args.dbias, stream, site);
      weights_are_done = bias_is_done = true;
    }
  }
  if (!input_is_done) input_gradient(args, stream, site);
  if (weights_are_done && bias_is_done) return;
  parameter_gradients_general(conv, !weights_are_done, general_workspace, stream, site);
  void* dweight = weights_are_done ? nullptr : args.dweight;
  void* dbias = bias_is_done ? nullptr : args.dbias;
  const int64_t parts = general_parts(conv).parts;
  if (args.grad.type == Element::float64) {
    merge_partials<double>(general_workspace, parts, conv, dweight, dbias, stream, site);
  } else {
    merge_partials<float>(general_workspace, parts, conv, dweight, dbias, stream, site);
  }
}

}  // namespace fastseg::cuda
