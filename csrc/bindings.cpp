// fastseg._C: the kernels' entry points for Python. The only file that includes pybind11; the tuples that it takes are
// made by fastseg/backends/views.py.
#include <pybind11/pybind11.h>

#include <cstdint>

#include "arguments/segmentation.h"
#include "arguments/stereo.h"
#include "fastseg/cpu/capability.h"
#include "fastseg/cpu/memory.h"

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
struct type_caster<fastseg::UpConvShape> {
  PYBIND11_TYPE_CASTER(fastseg::UpConvShape, const_name("tuple[int, ...]"));
  bool load(handle from, bool) {
    static_assert(sizeof value == 9 * sizeof(int64_t), "int64_t only, in the order of the tuple");
    return read_tuple(from, &value.batch, 9);
  }
};

template <>
struct type_caster<fastseg::ContextShape> {
  PYBIND11_TYPE_CASTER(fastseg::ContextShape, const_name("tuple[int, ...]"));
  bool load(handle from, bool) {
    static_assert(sizeof value == 11 * sizeof(int64_t), "int64_t only, in the order of the tuple");
    return read_tuple(from, &value.batch, 11);
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
struct type_caster<fastseg::ContextBranches> {
  PYBIND11_TYPE_CASTER(fastseg::ContextBranches, const_name("tuple[tuple[int, ...], ...]"));
  bool load(handle from, bool) {
    if (!PyTuple_Check(from.ptr()) || PyTuple_GET_SIZE(from.ptr()) > value.most) return false;
    value.count = PyTuple_GET_SIZE(from.ptr());
    int64_t first = 0;
    for (int64_t b = 0; b < value.count; ++b) {
      int64_t v[18];
      if (!read_tuple(PyTuple_GET_ITEM(from.ptr(), b), v, 18)) return false;
      value.branch[b] = {v[0],
                         {v[1], v[2], v[3]},
                         {v[4], v[5], v[6]},
                         {v[7], v[8], v[9]},
                         reinterpret_cast<const void*>(v[10]),
                         v[11],
                         v[12],
                         {reinterpret_cast<void*>(v[13]), static_cast<fastseg::Element>(v[14]), v[15]},
                         reinterpret_cast<void*>(v[16]),
                         reinterpret_cast<void*>(v[17]),
                         first};
      first += v[0];
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

using namespace fastseg::arguments;
using fastseg::View;

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
  define(m, "up_conv", up_conv_args, fastseg::cpu::up_conv);
  define(m, "up_conv_gradient", up_conv_args, fastseg::cpu::up_conv_gradient);
  define(m, "up_conv_parameter_gradient", up_conv_parameter_args, fastseg::cpu::up_conv_parameter_gradient);
  m.def("separable_conv_fits", [](fastseg::DepthwiseShape shape, View x, int64_t outputs, View y) {
    return fastseg::cpu::separable_conv_fits({shape, x, nullptr, {}, outputs, nullptr, {}, y});
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
  m.def("context_conv_workspace", [](fastseg::ContextShape shape, fastseg::ContextBranches branches, View x, View y,
                                     View dx, fastseg::Vector dx_bias, bool backward, int threads) {
    return fastseg::cpu::context_conv_workspace(context_args(shape, branches, x, y, dx, dx_bias, 0), backward, threads);
  });
  define(m, "context_conv_forward", context_args, fastseg::cpu::context_conv_forward);
  define(m, "context_conv_backward", context_args, fastseg::cpu::context_conv_backward);
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
      +[](const fastseg::InstanceNormActForward& args, uint64_t workspace, uint64_t stream) {
        fastseg::cuda::instance_norm_act_forward(args, pointer(workspace), pointer(stream));
      });
  define(
      m, "cuda_instance_norm_act_backward", backward_args,
      +[](const fastseg::InstanceNormActBackward& args, uint64_t workspace, uint64_t stream) {
        fastseg::cuda::instance_norm_act_backward(args, pointer(workspace), pointer(stream));
      });
  define(
      m, "cuda_instance_norm_act_apply", apply_args, +[](const fastseg::InstanceNormActForward& args, uint64_t stream) {
        fastseg::cuda::instance_norm_act_forward(args, nullptr, pointer(stream));
      });
  m.def("cuda_depthwise_conv_workspace",
        [](fastseg::DepthwiseShape shape, int type, bool channels_last, bool backward, bool reduces) {
          return fastseg::cuda::depthwise_conv_workspace(shape, static_cast<fastseg::Element>(type), channels_last,
                                                         backward, reduces);
        });
  define(
      m, "cuda_depthwise_conv_forward", depthwise_forward_args,
      +[](const fastseg::DepthwiseConvForward& args, uint64_t workspace, uint64_t stream) {
        fastseg::cuda::depthwise_conv_forward(args, pointer(workspace), pointer(stream));
      });
  define(
      m, "cuda_depthwise_conv_backward", depthwise_backward_args,
      +[](const fastseg::DepthwiseConvBackward& args, uint64_t workspace, uint64_t stream) {
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
