// fastseg._C: the kernels' entry points for Python. The only file that includes pybind11; the tuples that it takes are
// made by fastseg/backends/views.py.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "fastseg/attention_gate.h"
#include "fastseg/cbam.h"
#include "fastseg/context.h"
#include "fastseg/cpu/capability.h"
#include "fastseg/cpu/memory.h"
#include "fastseg/cross_scale.h"
#include "fastseg/depthwise.h"
#include "fastseg/fast_global_smoother.h"
#include "fastseg/guided_filter.h"
#include "fastseg/loss.h"
#include "fastseg/matching_cost.h"
#include "fastseg/norm.h"
#include "fastseg/pointwise.h"
#include "fastseg/separable.h"
#include "fastseg/soft_mask_attention.h"
#include "fastseg/weighted_median.h"
#include "fastseg/winner_takes_all.h"
#include "fastseg/wls.h"

namespace py = pybind11;

// ---- tuples and None to View and Vector
namespace pybind11::detail {

inline bool read_tuple(handle from, int64_t* to, Py_ssize_t count) {
  if (!PyTuple_Check(from.ptr()) || PyTuple_GET_SIZE(from.ptr()) != count) return false;
  for (Py_ssize_t i = 0; i < count; ++i) {
    to[i] = PyLong_AsLongLong(PyTuple_GET_ITEM(from.ptr(), i));
    if (to[i] == -1 && PyErr_Occurred()) {
      PyErr_Clear();
      return false;
    }
  }
  return true;
}

template <>
struct type_caster<fastseg::View> {
  PYBIND11_TYPE_CASTER(fastseg::View, const_name("tuple[int, int, int, int, int] | None"));
  bool load(handle from, bool) {
    if (from.is_none()) return true;
    int64_t v[5];
    if (!read_tuple(from, v, 5)) return false;
    value = {reinterpret_cast<void*>(v[0]), static_cast<fastseg::Element>(v[1]), v[2], v[3], v[4]};
    return true;
  }
};

template <>
struct type_caster<fastseg::Vector> {
  PYBIND11_TYPE_CASTER(fastseg::Vector, const_name("tuple[int, int, int] | None"));
  bool load(handle from, bool) {
    if (from.is_none()) return true;
    int64_t v[3];
    if (!read_tuple(from, v, 3)) return false;
    value = {reinterpret_cast<void*>(v[0]), static_cast<fastseg::Element>(v[1]), v[2]};
    return true;
  }
};

template <>
struct type_caster<fastseg::DepthwiseShape> {
  PYBIND11_TYPE_CASTER(fastseg::DepthwiseShape, const_name("tuple[int, ...]"));
  bool load(handle from, bool) {
    static_assert(sizeof value == 21 * sizeof(int64_t), "int64_t only, in the order of the tuple");
    return read_tuple(from, &value.batch, 21);
  }
};

template <>
struct type_caster<fastseg::CbamShape> {
  PYBIND11_TYPE_CASTER(fastseg::CbamShape, const_name("tuple[int, ...]"));
  bool load(handle from, bool) {
    static_assert(sizeof value == 13 * sizeof(int64_t), "int64_t only, in the order of the tuple");
    return read_tuple(from, &value.batch, 13);
  }
};

// Structs of addresses only, in the order of the tuple.
template <class Addresses>
struct addresses_caster {
  PYBIND11_TYPE_CASTER(Addresses, const_name("tuple[int, ...]"));
  bool load(handle from, bool) {
    static_assert(sizeof(Addresses) == 8 * sizeof(int64_t) && sizeof(void*) == sizeof(int64_t));
    return read_tuple(from, reinterpret_cast<int64_t*>(&value), 8);
  }
};
template <>
struct type_caster<fastseg::CbamWeights> : addresses_caster<fastseg::CbamWeights> {};
template <>
struct type_caster<fastseg::CbamSaved> : addresses_caster<fastseg::CbamSaved> {};
template <>
struct type_caster<fastseg::CbamGradients> : addresses_caster<fastseg::CbamGradients> {};

template <>
struct type_caster<fastseg::Images> {
  PYBIND11_TYPE_CASTER(fastseg::Images, const_name("tuple[int, int, int, int] | None"));
  bool load(handle from, bool) {
    if (from.is_none()) return true;
    int64_t v[4];
    if (!read_tuple(from, v, 4)) return false;
    value = {reinterpret_cast<void*>(v[0]), static_cast<fastseg::Pixel>(v[1]), v[2], v[3]};
    return true;
  }
};

template <>
struct type_caster<fastseg::Truth> {
  PYBIND11_TYPE_CASTER(fastseg::Truth, const_name("tuple[int, int, int, int, int]"));
  bool load(handle from, bool) {
    int64_t v[5];
    if (!read_tuple(from, v, 5)) return false;
    value = {reinterpret_cast<const void*>(v[0]), static_cast<fastseg::TruthType>(v[1]), v[2], v[3], v[4]};
    return true;
  }
};

template <>
struct type_caster<fastseg::CrossScaleLevels> {
  PYBIND11_TYPE_CASTER(fastseg::CrossScaleLevels, const_name("tuple[tuple[int, int], ...]"));
  bool load(handle from, bool) {
    if (!PyTuple_Check(from.ptr()) || PyTuple_GET_SIZE(from.ptr()) > value.most) return false;
    value.count = PyTuple_GET_SIZE(from.ptr());
    for (int64_t s = 0; s < value.count; ++s) {
      int64_t v[2];
      if (!read_tuple(PyTuple_GET_ITEM(from.ptr(), s), v, 2)) return false;
      value.level[s] = {reinterpret_cast<void*>(v[0]), v[1]};
    }
    return value.count > 0;
  }
};

template <>
struct type_caster<fastseg::AsppBranches> {
  PYBIND11_TYPE_CASTER(fastseg::AsppBranches, const_name("tuple[tuple[int, ...], ...]"));
  bool load(handle from, bool) {
    if (!PyTuple_Check(from.ptr()) || PyTuple_GET_SIZE(from.ptr()) > value.most) return false;
    value.count = PyTuple_GET_SIZE(from.ptr());
    for (int64_t b = 0; b < value.count; ++b) {
      int64_t v[15];
      if (!read_tuple(PyTuple_GET_ITEM(from.ptr(), b), v, 15)) return false;
      value.branch[b] = {v[0],
                         {v[1], v[2], v[3]},
                         {v[4], v[5], v[6]},
                         reinterpret_cast<const void*>(v[7]),
                         v[8],
                         v[9],
                         {reinterpret_cast<void*>(v[10]), static_cast<fastseg::Element>(v[11]), v[12]},
                         reinterpret_cast<void*>(v[13]),
                         reinterpret_cast<void*>(v[14])};
    }
    return true;
  }
};

template <>
struct type_caster<fastseg::WinnerPlanes> {
  PYBIND11_TYPE_CASTER(fastseg::WinnerPlanes, const_name("tuple[int, int, int, int, int, int] | None"));
  bool load(handle from, bool) {
    if (from.is_none()) return true;
    int64_t v[6];
    if (!read_tuple(from, v, 6)) return false;
    value = {reinterpret_cast<int32_t*>(v[0]), reinterpret_cast<void*>(v[1]), reinterpret_cast<void*>(v[2]),
             reinterpret_cast<void*>(v[3]),    reinterpret_cast<void*>(v[4]), reinterpret_cast<void*>(v[5])};
    return true;
  }
};

template <>
struct type_caster<fastseg::AttentionGate> {
  PYBIND11_TYPE_CASTER(fastseg::AttentionGate, const_name("tuple"));
  bool load(handle from, bool convert) {
    if (!PyTuple_Check(from.ptr()) || PyTuple_GET_SIZE(from.ptr()) != 5) return false;
    int64_t sizes[10], parameters[2];
    type_caster<fastseg::View> views[3];
    for (int i = 0; i < 3; ++i)
      if (!views[i].load(PyTuple_GET_ITEM(from.ptr(), i + 1), convert)) return false;
    if (!read_tuple(PyTuple_GET_ITEM(from.ptr(), 0), sizes, 10) ||
        !read_tuple(PyTuple_GET_ITEM(from.ptr(), 4), parameters, 2))
      return false;
    const auto view = [&](int i) { return static_cast<fastseg::View&>(views[i]); };
    value = {sizes[0],
             sizes[1],
             sizes[2],
             sizes[3],
             {sizes[4], sizes[5], sizes[6]},
             {sizes[7], sizes[8], sizes[9]},
             view(0),
             view(1),
             view(2),
             reinterpret_cast<void*>(parameters[0]),
             reinterpret_cast<void*>(parameters[1])};
    return true;
  }
};

}  // namespace pybind11::detail

namespace {

using fastseg::Activation;
using fastseg::CensusTransform;
using fastseg::DepthwiseConvBackward;
using fastseg::DepthwiseConvForward;
using fastseg::DepthwiseShape;
using fastseg::FastGlobalSmoother;
using fastseg::Images;
using fastseg::InstanceNormActBackward;
using fastseg::InstanceNormActForward;
using fastseg::MatchingCost;
using fastseg::PointwiseConv;
using fastseg::PointwiseConvGradient;
using fastseg::SeparableConvForward;
using fastseg::Vector;
using fastseg::View;

template <class T = void>
T* pointer(uint64_t address) {
  return reinterpret_cast<T*>(address);
}

InstanceNormActForward forward_args(int64_t batch, int64_t channels, int64_t spatial, View x, Vector weight,
                                    Vector bias, View residual, View y, uint64_t mean, uint64_t rstd, int activation,
                                    double negative_slope, double eps) {
  return {batch,
          channels,
          spatial,
          x,
          weight,
          bias,
          residual,
          y,
          pointer(mean),
          pointer(rstd),
          static_cast<Activation>(activation),
          negative_slope,
          eps};
}

// Statistics that another kernel gathered.
InstanceNormActForward apply_args(int64_t batch, int64_t channels, int64_t spatial, View x, Vector weight, Vector bias,
                                  View y, uint64_t mean, uint64_t rstd, int activation, double negative_slope) {
  InstanceNormActForward args =
      forward_args(batch, channels, spatial, x, weight, bias, {}, y, mean, rstd, activation, negative_slope, 0.0);
  args.statistics_given = true;
  return args;
}

// Statistics over the batch too, which are those given where variance is 0.
InstanceNormActForward batch_norm_args(int64_t batch, int64_t channels, int64_t spatial, View x, Vector weight,
                                       Vector bias, View residual, View y, uint64_t mean, uint64_t rstd,
                                       uint64_t variance, int activation, double negative_slope, double eps) {
  InstanceNormActForward args =
      forward_args(batch, channels, spatial, x, weight, bias, residual, y, mean, rstd, activation, negative_slope, eps);
  args.over_batch = true;
  args.statistics_given = variance == 0;
  args.variance = pointer(variance);
  return args;
}

InstanceNormActBackward backward_args(int64_t batch, int64_t channels, int64_t spatial, View grad, View x,
                                      Vector weight, Vector bias, View y, uint64_t mean, uint64_t rstd, View dx,
                                      View dresidual, uint64_t dweight, uint64_t dbias, int activation,
                                      double negative_slope) {
  return {batch,
          channels,
          spatial,
          grad,
          x,
          weight,
          bias,
          y,
          pointer(mean),
          pointer(rstd),
          dx,
          dresidual,
          pointer(dweight),
          pointer(dbias),
          static_cast<Activation>(activation),
          negative_slope};
}

InstanceNormActBackward batch_norm_backward_args(int64_t batch, int64_t channels, int64_t spatial, View grad, View x,
                                                 Vector weight, Vector bias, View y, uint64_t mean, uint64_t rstd,
                                                 View dx, View dresidual, uint64_t dweight, uint64_t dbias,
                                                 int activation, double negative_slope, bool statistics_fixed) {
  InstanceNormActBackward args = backward_args(batch, channels, spatial, grad, x, weight, bias, y, mean, rstd, dx,
                                               dresidual, dweight, dbias, activation, negative_slope);
  args.over_batch = true;
  args.statistics_fixed = statistics_fixed;
  return args;
}

DepthwiseConvForward depthwise_forward_args(DepthwiseShape shape, View x, uint64_t weight, Vector bias, View y,
                                            uint64_t mean, uint64_t rstd, double eps) {
  return {shape, x, pointer(weight), bias, y, pointer(mean), pointer(rstd), eps};
}

DepthwiseConvBackward depthwise_backward_args(DepthwiseShape shape, View grad, View x, uint64_t weight, Vector bias,
                                              View dx, uint64_t dweight, uint64_t dbias) {
  return {shape, grad, x, pointer(weight), bias, dx, pointer(dweight), pointer(dbias)};
}

PointwiseConv pointwise_args(int64_t batch, int64_t inputs, int64_t outputs, int64_t pixels, View x, uint64_t weight,
                             int64_t output_stride, int64_t input_stride, Vector bias, View y) {
  return {batch, inputs, outputs, pixels, x, pointer(weight), output_stride, input_stride, bias, y};
}

PointwiseConv pointwise_residual_args(int64_t batch, int64_t inputs, int64_t outputs, int64_t pixels, View x,
                                      uint64_t weight, int64_t output_stride, int64_t input_stride, Vector bias, View y,
                                      View residual, int64_t height, int64_t width, int64_t depth_scale,
                                      int64_t scale) {
  PointwiseConv args = pointwise_args(batch, inputs, outputs, pixels, x, weight, output_stride, input_stride, bias, y);
  args.residual = {residual, height, width, depth_scale, scale};
  return args;
}

PointwiseConvGradient pointwise_gradient_args(int64_t batch, int64_t inputs, int64_t outputs, int64_t pixels, View grad,
                                              View x, uint64_t dweight, uint64_t dbias) {
  return {batch, inputs, outputs, pixels, grad, x, pointer(dweight), pointer(dbias)};
}

SeparableConvForward separable_args(DepthwiseShape shape, View x, uint64_t weight, Vector bias, int64_t outputs,
                                    uint64_t pointwise_weight, Vector pointwise_bias, View y) {
  return {shape, x, pointer(weight), bias, outputs, pointer(pointwise_weight), pointwise_bias, y};
}

fastseg::CbamForward cbam_forward_args(fastseg::CbamShape shape, View x, View y, fastseg::CbamWeights weights,
                                       fastseg::CbamSaved saved, double eps) {
  return {shape, x, y, weights, saved, eps};
}

fastseg::CbamBackward cbam_backward_args(fastseg::CbamShape shape, View grad, View x, View dx,
                                         fastseg::CbamWeights weights, fastseg::CbamSaved saved,
                                         fastseg::CbamGradients gradients, double eps) {
  return {shape, grad, x, dx, weights, saved, gradients, eps};
}

fastseg::WlsSetup wls_setup_args(int64_t height, int64_t width, uint64_t guide, int type, double lambda, double alpha,
                                 double eps, uint64_t system, uint64_t scratch) {
  return {height,
          width,
          pointer(guide),
          static_cast<fastseg::Element>(type),
          lambda,
          alpha,
          eps,
          pointer<float>(system),
          pointer<float>(scratch)};
}

fastseg::WlsSolve wls_solve_args(int64_t sources, int64_t height, int64_t width, uint64_t system, uint64_t source,
                                 uint64_t solution, int type, uint64_t work, double tolerance, int64_t max_iterations,
                                 uint64_t iterations, uint64_t residual) {
  return {sources,
          height,
          width,
          pointer<const float>(system),
          pointer(source),
          pointer(solution),
          static_cast<fastseg::Element>(type),
          pointer<float>(work),
          tolerance,
          max_iterations,
          pointer<int64_t>(iterations),
          pointer<double>(residual)};
}

FastGlobalSmoother smoother_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images src,
                                 Images guide, int64_t guide_channels, Images dst, double lambda, double sigma,
                                 double attenuation, int64_t iterations, bool adjoint) {
  return {batch, channels, height, width,       src,        guide,  guide_channels,
          dst,   lambda,   sigma,  attenuation, iterations, adjoint};
}

fastseg::GuidedFilter guided_filter_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images guide,
                                         int64_t guide_channels, Images src, Images dst, int64_t radius, double eps,
                                         int border, bool coefficients) {
  return {batch,
          channels,
          height,
          width,
          guide,
          guide_channels,
          src,
          dst,
          radius,
          eps,
          static_cast<fastseg::Border>(border),
          coefficients,
          nullptr,
          nullptr};
}

fastseg::GuidedFilter guided_filter_argmin_args(int64_t batch, int64_t channels, int64_t height, int64_t width,
                                                Images guide, int64_t guide_channels, Images src, int64_t radius,
                                                double eps, int border, uint64_t index, uint64_t value) {
  fastseg::GuidedFilter args =
      guided_filter_args(batch, channels, height, width, guide, guide_channels, src, {}, radius, eps, border, false);
  args.index = pointer<int64_t>(index);
  args.value = pointer(value);
  return args;
}

fastseg::GuidedFilterInterpolate guided_filter_interpolate_args(int64_t batch, int64_t channels, int64_t height,
                                                                int64_t width, Images guide, int64_t guide_channels,
                                                                Images coefficients, Images dst, int64_t subsample) {
  return {batch, channels, height, width, guide, guide_channels, coefficients, dst, subsample};
}

#ifdef FASTSEG_WITH_CUDA
fastseg::GuidedFilterPlanes guided_filter_planes(int64_t batch, int64_t channels, int64_t height, int64_t width,
                                                 int64_t guide_channels, Images src, Images dst, uint64_t colours,
                                                 uint64_t statistics, int64_t radius, int border) {
  return {batch,
          channels,
          height,
          width,
          guide_channels,
          src,
          dst,
          pointer(colours),
          pointer(statistics),
          radius,
          static_cast<fastseg::Border>(border)};
}
#endif

fastseg::CrossScale cross_scale_args(int64_t batch, int64_t height, int64_t width, int type,
                                     fastseg::CrossScaleLevels levels, uint64_t result, uint64_t finite, double lambda,
                                     int64_t min_disparity, bool pyramid) {
  return {batch,
          height,
          width,
          static_cast<fastseg::Element>(type),
          levels,
          pointer(result),
          pointer<bool>(finite),
          lambda,
          min_disparity,
          pyramid};
}

CensusTransform census_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images image,
                            int64_t window_rows, int64_t window_columns, uint64_t words) {
  return {batch, channels, height, width, image, window_rows, window_columns, pointer<uint64_t>(words)};
}

MatchingCost matching_cost_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images left,
                                Images right, int64_t min_disparity, int64_t disparities, bool right_view,
                                bool ad_census, double ad_weight, double gradient_weight, double census_weight,
                                double ad_threshold, double gradient_threshold, int64_t window_rows,
                                int64_t window_columns, double outside, double ad_scale, double census_scale,
                                uint64_t cost, int type) {
  return {batch,
          channels,
          height,
          width,
          left,
          right,
          min_disparity,
          disparities,
          right_view,
          ad_census,
          ad_weight,
          gradient_weight,
          census_weight,
          ad_threshold,
          gradient_threshold,
          window_rows,
          window_columns,
          outside,
          ad_scale,
          census_scale,
          pointer(cost),
          static_cast<fastseg::Element>(type)};
}

fastseg::WeightedMedian weighted_median_args(int64_t batch, int64_t channels, int64_t height, int64_t width, Images src,
                                             Images guide, int64_t guide_channels, Images mask, Images weights,
                                             Images dst, int64_t radius, double sigma_color, double sigma_space) {
  return {batch, channels, height, width,  src,         guide,      guide_channels,
          mask,  weights,  dst,    radius, sigma_color, sigma_space};
}

fastseg::WinnerTakesAll winner_args(int64_t batch, int64_t slices, int64_t pixels, Images costs, int64_t first,
                                    fastseg::WinnerPlanes previous, uint64_t near, int64_t reach,
                                    fastseg::WinnerPlanes result) {
  return {batch, slices, pixels, costs, first, previous, pointer<const int32_t>(near), reach, result};
}

fastseg::AttentionGateForward gate_args(fastseg::AttentionGate gate, View y) { return {gate, y}; }

fastseg::AttentionGateBackward gate_backward_args(fastseg::AttentionGate gate, View grad, View dx, View dgating,
                                                  View dcoarse, uint64_t dweight, uint64_t dvectors) {
  return {gate, grad, dx, dgating, dcoarse, pointer(dweight), pointer(dvectors)};
}

fastseg::SoftMaskAttentionForward soft_mask_args(int64_t batch, int64_t channels, int64_t spatial,
                                                 int64_t mask_channels, View trunk, View mask, View y) {
  return {batch, channels, spatial, mask_channels, trunk, mask, y};
}

fastseg::SoftMaskAttentionBackward soft_mask_backward_args(int64_t batch, int64_t channels, int64_t spatial,
                                                           int64_t mask_channels, View grad, View trunk, View mask,
                                                           View dtrunk, View dmask) {
  return {batch, channels, spatial, mask_channels, grad, trunk, mask, dtrunk, dmask};
}

fastseg::SoftMaskAttentionConv soft_mask_conv_args(int64_t batch, int64_t inputs, int64_t channels, int64_t pixels,
                                                   View features, uint64_t weight, int64_t output_stride,
                                                   int64_t input_stride, Vector bias, View trunk, View y) {
  return {pointwise_args(batch, inputs, channels, pixels, features, weight, output_stride, input_stride, bias, y),
          trunk};
}

fastseg::LossSums loss_sums_args(int64_t batch, int64_t classes, int64_t spatial, View logits, fastseg::Truth truth,
                                 bool sigmoid, int64_t ignored, uint64_t sums, uint64_t wrong) {
  return {batch, classes, spatial, logits, truth, sigmoid, ignored, pointer<double>(sums), pointer<double>(wrong)};
}

fastseg::LossFormula loss_formula_args(int64_t batch, int64_t classes, int64_t spatial, bool sigmoid, uint64_t sums,
                                       uint64_t class_weights, bool balanced, bool generalized, double overlap_weight,
                                       double ce_weight, double fp_weight, double fn_weight, double smooth,
                                       double gamma, bool whole_batch, bool include_background, uint64_t loss,
                                       uint64_t slopes) {
  return {batch,
          classes,
          spatial,
          sigmoid,
          pointer<const double>(sums),
          pointer<const double>(class_weights),
          balanced,
          generalized,
          overlap_weight,
          ce_weight,
          fp_weight,
          fn_weight,
          smooth,
          gamma,
          whole_batch,
          include_background,
          pointer<double>(loss),
          pointer<double>(slopes)};
}

fastseg::LossGradient loss_gradient_args(int64_t batch, int64_t classes, int64_t spatial, View logits,
                                         fastseg::Truth truth, bool sigmoid, int64_t ignored, uint64_t slopes,
                                         double grad, View dlogits) {
  return {batch, classes, spatial, logits, truth, sigmoid, ignored, pointer<const double>(slopes), grad, dlogits};
}

fastseg::AsppConv aspp_args(int64_t batch, int64_t inputs, int64_t depth, int64_t height, int64_t width,
                            fastseg::AsppBranches branches, View x, View y, View dx, uint64_t workspace) {
  return {batch, inputs, {depth, height, width}, branches, x, y, dx, pointer(workspace)};
}

// Exposes `run(args, extra...)` under `name`: Python passes the fields that `make` takes, then the extras.
template <class... Fields, class Args, class... Extra>
void define(py::module_& m, const char* name, Args (*make)(Fields...), void (*run)(const Args&, Extra...)) {
  m.def(name, [make, run](Fields... fields, Extra... extra) {
    const Args args = make(fields...);
    py::gil_scoped_release release;
    run(args, extra...);
  });
}

}  // namespace

PYBIND11_MODULE(_C, m) {
  m.doc() = "Compiled kernels of fastseg. Called by fastseg.backends only.";
  m.attr("compiler") = __VERSION__;
  m.def("cpu_capability", &fastseg::cpu::capability_name);
  m.def("measure_peak", &fastseg::cpu::measure_peak, py::call_guard<py::gil_scoped_release>());
  py::class_<fastseg::cpu::Block>(m, "Block", py::buffer_protocol(), "Memory of a large output, see cpu/memory.h.")
      .def(py::init<int64_t>())
      .def_buffer([](fastseg::cpu::Block& block) {
        return py::buffer_info(static_cast<uint8_t*>(block.data()), py::ssize_t(block.bytes()));
      });
  m.def("set_cache_limit", &fastseg::cpu::set_cache_limit);
  m.def("cache_limit", &fastseg::cpu::cache_limit);
  m.def("cached_bytes", &fastseg::cpu::cached_bytes);
  m.def("release_cache", &fastseg::cpu::release_cache);
  define(m, "instance_norm_act_forward", forward_args, fastseg::cpu::instance_norm_act_forward);
  define(m, "instance_norm_act_backward", backward_args, fastseg::cpu::instance_norm_act_backward);
  define(m, "instance_norm_act_apply", apply_args, fastseg::cpu::instance_norm_act_forward);
  define(m, "batch_norm_act_forward", batch_norm_args, fastseg::cpu::instance_norm_act_forward);
  define(m, "batch_norm_act_backward", batch_norm_backward_args, fastseg::cpu::instance_norm_act_backward);
  define(m, "depthwise_conv_forward", depthwise_forward_args, fastseg::cpu::depthwise_conv_forward);
  define(m, "depthwise_conv_backward", depthwise_backward_args, fastseg::cpu::depthwise_conv_backward);
  define(m, "pointwise_conv", pointwise_residual_args, fastseg::cpu::pointwise_conv);
  define(m, "pointwise_conv_gradient", pointwise_gradient_args, fastseg::cpu::pointwise_conv_gradient);
  m.def("separable_conv_pays", [](DepthwiseShape shape, View x, int64_t outputs, View y) {
    return fastseg::cpu::separable_conv_pays({shape, x, nullptr, {}, outputs, nullptr, {}, y});
  });
  define(m, "separable_conv_forward", separable_args, fastseg::cpu::separable_conv_forward);
  define(m, "attention_gate_forward", gate_args, fastseg::cpu::attention_gate_forward);
  define(m, "attention_gate_backward", gate_backward_args, fastseg::cpu::attention_gate_backward);
  define(m, "soft_mask_attention_forward", soft_mask_args, fastseg::cpu::soft_mask_attention_forward);
  define(m, "soft_mask_attention_backward", soft_mask_backward_args, fastseg::cpu::soft_mask_attention_backward);
  define(m, "soft_mask_attention_conv", soft_mask_conv_args, fastseg::cpu::soft_mask_attention_conv);
  define(m, "loss_sums", loss_sums_args, fastseg::cpu::loss_sums_of);
  define(m, "loss_formula", loss_formula_args, fastseg::loss_formula);
  define(m, "loss_gradient", loss_gradient_args, fastseg::cpu::loss_gradient);
  m.attr("aspp_most_branches") = fastseg::AsppBranches::most;
  m.def("aspp_conv_workspace", [](int64_t batch, int64_t inputs, int64_t depth, int64_t height, int64_t width,
                                  fastseg::AsppBranches branches, View x, View y, View dx, bool backward, int threads) {
    return fastseg::cpu::aspp_conv_workspace(aspp_args(batch, inputs, depth, height, width, branches, x, y, dx, 0),
                                             backward, threads);
  });
  define(m, "aspp_conv_forward", aspp_args, fastseg::cpu::aspp_conv_forward);
  define(m, "aspp_conv_backward", aspp_args, fastseg::cpu::aspp_conv_backward);
  define(m, "cbam_forward", cbam_forward_args, fastseg::cpu::cbam_forward);
  define(m, "cbam_backward", cbam_backward_args, fastseg::cpu::cbam_backward);
  m.def("wls_plan", [](int64_t height, int64_t width) {
    const fastseg::WlsPlan plan = fastseg::wls_plan(height, width);
    return py::make_tuple(plan.system, plan.scratch, plan.work);
  });
  define(m, "wls_setup", wls_setup_args, fastseg::cpu::wls_setup);
  m.attr("wls_together") = fastseg::WlsSolve::together;
  define(m, "wls_solve", wls_solve_args, fastseg::cpu::wls_solve);
  define(m, "fast_global_smoother", smoother_args, fastseg::cpu::fast_global_smoother);
  define(m, "guided_filter", guided_filter_args, fastseg::cpu::guided_filter);
  define(m, "guided_filter_argmin", guided_filter_argmin_args, fastseg::cpu::guided_filter);
  define(m, "guided_filter_interpolate", guided_filter_interpolate_args, fastseg::cpu::guided_filter_interpolate);
  define(m, "cross_scale_aggregate", cross_scale_args, fastseg::cpu::cross_scale_aggregate);
  define(m, "cross_scale_aggregate_backward", cross_scale_args, fastseg::cpu::cross_scale_aggregate_backward);
  define(m, "census_transform", census_args, fastseg::cpu::census_transform);
  define(m, "matching_cost", matching_cost_args, fastseg::cpu::matching_cost);
  define(m, "weighted_median", weighted_median_args, fastseg::cpu::weighted_median);
  define(m, "winner_takes_all", winner_args, fastseg::cpu::winner_takes_all);
#ifdef FASTSEG_WITH_CUDA
  m.attr("cuda_architectures") = FASTSEG_CUDA_ARCHITECTURES;
  m.def("cuda_instance_norm_act_workspace", [](int64_t batch, int64_t channels, int64_t spatial, int type) {
    return fastseg::cuda::instance_norm_act_workspace(batch, channels, spatial, static_cast<fastseg::Element>(type));
  });
  define(
      m, "cuda_instance_norm_act_forward", forward_args,
      +[](const InstanceNormActForward& args, uint64_t workspace, uint64_t stream) {
        fastseg::cuda::instance_norm_act_forward(args, pointer(workspace), pointer(stream));
      });
  define(
      m, "cuda_instance_norm_act_backward", backward_args,
      +[](const InstanceNormActBackward& args, uint64_t workspace, uint64_t stream) {
        fastseg::cuda::instance_norm_act_backward(args, pointer(workspace), pointer(stream));
      });
  define(
      m, "cuda_instance_norm_act_apply", apply_args, +[](const InstanceNormActForward& args, uint64_t stream) {
        fastseg::cuda::instance_norm_act_forward(args, nullptr, pointer(stream));
      });
  m.def("cuda_depthwise_conv_workspace",
        [](DepthwiseShape shape, int type, bool channels_last, bool backward, bool reduces) {
          return fastseg::cuda::depthwise_conv_workspace(shape, static_cast<fastseg::Element>(type), channels_last,
                                                         backward, reduces);
        });
  define(
      m, "cuda_depthwise_conv_forward", depthwise_forward_args,
      +[](const DepthwiseConvForward& args, uint64_t workspace, uint64_t stream) {
        fastseg::cuda::depthwise_conv_forward(args, pointer(workspace), pointer(stream));
      });
  define(
      m, "cuda_depthwise_conv_backward", depthwise_backward_args,
      +[](const DepthwiseConvBackward& args, uint64_t workspace, uint64_t stream) {
        fastseg::cuda::depthwise_conv_backward(args, pointer(workspace), pointer(stream));
      });
  define(
      m, "cuda_guided_filter", guided_filter_planes, +[](const fastseg::GuidedFilterPlanes& args, uint64_t stream) {
        fastseg::cuda::guided_filter(args, pointer(stream));
      });
#else
  m.attr("cuda_architectures") = py::none();
#endif
}
