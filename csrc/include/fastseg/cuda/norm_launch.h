// What forward and backward of the norm family share on the host: checks, the choice of element type and load width,
// and launches over groups of rows.
#pragma once
#include <initializer_list>
#include <string>
#include <type_traits>

#include "fastseg/cuda/launch.h"
#include "fastseg/cuda/norm_plan.h"
#include "fastseg/cuda/norm_rows.cuh"

namespace fastseg::cuda {

// Whether 16-byte packs can walk every row of every tensor: rows start on 16 bytes and have no remainder. Strides of
// axes of size 1 do not count.
inline bool rows_take_packs(int64_t batch, int64_t channels, int64_t spatial, std::initializer_list<View> views) {
  for (const View& view : views) {
    if (!view) continue;
    const int64_t size = element_size(view.type);
    const int64_t steps = (reinterpret_cast<uintptr_t>(view.data) % 16) | (spatial * size % 16) |
                          (batch > 1 ? view.batch_stride * size % 16 : 0) |
                          (channels > 1 ? view.channel_stride * size % 16 : 0);
    if (steps != 0) return false;
  }
  return true;
}

template <typename Args>
void check_layout(const Args& args, const Site& site, std::initializer_list<View> views) {
  for (const View& view : views) {
    if (!view) continue;
    if (view.spatial_stride != 1 && args.spatial > 1) {
      throw std::runtime_error(std::string(site.op) + ": the CUDA kernels take rows, with a spatial stride of 1");
    }
    if (view.type != args.x.type) {
      throw std::runtime_error(std::string(site.op) + ": all tensors must have the element type of x");
    }
  }
}

// Calls f(Type<T>, pack size) for the element type and load width of a call.
template <typename F>
void for_element(Element type, bool packs, F f) {
  for_any_element(type, [&](auto element) {
    using T = typename decltype(element)::type;
    if (packs) {
      f(element, std::integral_constant<int, pack_size<T>>());
    } else {
      f(element, std::integral_constant<int, 1>());
    }
  });
}

// The kernels of one direction, for one element type and load width.
template <typename Args, typename C>
struct Kernels {
  void (*in_registers)(Args args, int64_t first_row, int64_t end_row, int lanes);
  void (*in_shared)(Args args, Partition partition, C* partials);  // without partials: the whole work
  void (*combine)(Args args, Partition partition, const C* partials);
  void (*stream)(Args args, Partition partition);
  int held_tensors;            // what in_shared keeps in shared memory
  bool holds_while_measuring;  // whether it keeps them also when it only fills partials
};

// Calls f(first_row, rows) for groups of rows whose CTAs, `parts` for each row, fit one grid.
template <typename F>
void for_row_groups(int64_t rows, int64_t parts, F f) {
  const int64_t most = max_grid / parts;
  for (int64_t first = 0; first < rows; first += most) f(first, std::min(most, rows - first));
}

// Plans a call and queues its kernels.
template <typename T, int N, typename Args>
void run_rows(const Args& args, const Kernels<Args, compute_t<T>>& kernels, void* workspace, void* stream, Site site) {
  using C = compute_t<T>;
  const KernelLimits limits = kernel_limits(reinterpret_cast<const void*>(kernels.in_shared), largest_cta, site);
  const int64_t rows = args.batch * args.channels;
  const int64_t scratch = sizeof(Scratch<C>);
  PlanInput in;
  in.rows = rows;
  in.packs = args.spatial / N;
  in.pack_bytes = sizeof(Pack<T, N>);
  in.held_tensors = kernels.held_tensors;
  in.scratch_bytes = static_cast<int>(scratch);
  in.shared_bytes = limits.shared_bytes;
  in.shared_bytes_of_sm = limits.shared_bytes_of_sm;
  in.reserved_bytes_of_cta = limits.reserved_bytes_of_cta;
  in.multiprocessors = limits.multiprocessors;
  in.cluster = limits.cluster;
  const Plan plan = plan_rows(in, register_packs<sizeof(T), N>);

  if (plan.variant == Variant::registers) {
    site.kernel = "in registers";
    for_row_groups(rows, 1, [&](int64_t first, int64_t count) {
      const LaunchShape shape = {divide_up(count * plan.lanes, plan.threads), plan.threads};
      launch(kernels.in_registers, shape, stream, site, args, first, first + count, plan.lanes);
    });
    return;
  }

  Partition partition;
  partition.packs = in.packs;
  partition.parts = static_cast<int>(plan.parts);
  partition.part_packs = plan.part_packs;
  partition.resident_packs = plan.resident_packs;
  partition.pack_elements = N;
  const int64_t held_bytes = static_cast<int64_t>(plan.resident_packs) * in.pack_bytes * in.held_tensors;
  if (plan.variant == Variant::shared) {
    site.kernel = plan.parts > 1 ? "in a cluster's shared memory" : "in shared memory";
    for_row_groups(rows, plan.parts, [&](int64_t first, int64_t count) {
      partition.first_row = first;
      const LaunchShape shape = {count * plan.parts, plan.threads, scratch + held_bytes, partition.parts};
      launch(kernels.in_shared, shape, stream, site, args, partition, static_cast<C*>(nullptr));
    });
    return;
  }

  if (workspace == nullptr) throw std::runtime_error(std::string(site.op) + ": rows of this size need a workspace");
  C* partials = static_cast<C*>(workspace);
  if (!kernels.holds_while_measuring) partition.resident_packs = 0;
  const int64_t measuring_bytes = scratch + (kernels.holds_while_measuring ? held_bytes : 0);
  for_row_groups(rows, plan.parts, [&](int64_t first, int64_t count) {
    partition.first_row = first;
    const LaunchShape measure = {count * plan.parts, plan.threads, measuring_bytes};
    const LaunchShape combine = {count, threads_for(plan.parts), scratch};
    const LaunchShape apply = {count * plan.parts, plan.threads};
    site.kernel = "streamed, partial sums";
    launch(kernels.in_shared, measure, stream, site, args, partition, partials);
    site.kernel = "streamed, sums of a row";
    launch(kernels.combine, combine, stream, site, args, partition, partials);
    site.kernel = "streamed, result";
    launch(kernels.stream, apply, stream, site, args, partition);
  });
}

}  // namespace fastseg::cuda
