// How the rows of the norm family are spread over the device. Host code without a CUDA call; the numbers to tune are
// all here.
#pragma once
#include <algorithm>
#include <cstdint>

#include "fastseg/norm.h"

namespace fastseg::cuda {

enum class Variant { registers, shared, stream };

struct Plan {
  Variant variant = Variant::stream;
  int threads = 0;         // of one CTA
  int lanes = 0;           // registers: lanes per row, a power of two
  int64_t parts = 1;       // CTAs per row: one cluster (shared), or with a slot of partials each (stream)
  int part_packs = 0;      // packs of one row that a CTA works on; the last part may have fewer, or none
  int resident_packs = 0;  // of these, kept in shared memory; what is above is read again, from L2 if all goes well
};

struct PlanInput {
  int64_t rows;
  int64_t packs;  // of one row
  int pack_bytes;
  int held_tensors;  // of each row part kept on chip: forward x; backward grad, x and perhaps y
  int scratch_bytes;
  // The device, from KernelLimits
  int shared_bytes;
  int shared_bytes_of_sm;
  int reserved_bytes_of_cta;
  int multiprocessors;
  int cluster;
};

constexpr int register_threads = 256;  // of a CTA in the registers variant
constexpr int largest_cta = 512;       // of the others. Two such CTAs fit a multiprocessor with 64 registers a thread
constexpr int64_t stream_part_bytes = 32 * 1024;  // of each tensor. Any device grants a CTA 48 KB without asking

// Packs that one lane can hold in the registers variant: a row of 2 KB for a warp, or of 512 single elements (256 of
// 8 bytes, which take two registers each).
template <int kElementBytes, int kPackElements>
constexpr int register_packs = kPackElements > 1    ? 4
                               : kElementBytes == 8 ? 8
                                                    : 16;

// Rows between the size of the largest cluster and this multiple of it still take the cluster: re-reading their excess
// from L2 beats streaming. It lets 128^3 rows of 16 bits (4.2 MB, on an H100's 3.7 MB) go forward on chip.
constexpr double cluster_excess = 1.25;

inline int64_t divide_up(int64_t value, int64_t by) { return (value + by - 1) / by; }

// CTAs of 64 to 512 threads with about four packs a thread, so that every thread's loads are in flight at once.
inline int threads_for(int64_t packs) {
  return static_cast<int>(std::clamp<int64_t>(divide_up(packs, 4 * 32) * 32, 64, largest_cta));
}

inline Plan plan_rows(const PlanInput& in, int register_packs_per_lane) {
  Plan plan;
  if (in.packs <= 32 * register_packs_per_lane) {
    plan.variant = Variant::registers;
    plan.threads = register_threads;
    plan.lanes = 1;
    while (plan.lanes < 32 && plan.lanes < in.packs) plan.lanes *= 2;
    return plan;
  }

  const int64_t bytes_per_pack = static_cast<int64_t>(in.held_tensors) * in.pack_bytes;
  const int64_t row_bytes = in.packs * bytes_per_pack;
  // Two CTAs on a multiprocessor let one load while the other stores; a lone one does them in turn.
  const int64_t shared_for_two =
      std::min<int64_t>(in.shared_bytes, in.shared_bytes_of_sm / 2 - in.reserved_bytes_of_cta) - in.scratch_bytes;
  const int64_t shared_for_one = static_cast<int64_t>(in.shared_bytes) - in.scratch_bytes;
  auto part_bytes = [&](int parts) { return divide_up(in.packs, parts) * bytes_per_pack; };
  auto take_shared = [&](int parts) {
    plan.variant = Variant::shared;
    plan.parts = parts;
    plan.part_packs = static_cast<int>(divide_up(in.packs, parts));
    plan.resident_packs = static_cast<int>(std::min<int64_t>(plan.part_packs, shared_for_one / bytes_per_pack));
    plan.threads = threads_for(plan.part_packs);
  };
  // The smallest cluster that fits twice on its multiprocessors. Sizes above 8 cannot be placed everywhere, so they
  // come later.
  for (int parts = 1; parts <= std::min(in.cluster, 8); parts *= 2) {
    if (part_bytes(parts) > shared_for_two) continue;
    // Few rows leave multiprocessors idle: split them further, while a part keeps every thread of a CTA busy.
    while (2 * parts <= std::min(in.cluster, 8) && in.rows * parts < in.multiprocessors &&
           part_bytes(2 * parts) >= 16 * 1024 * in.held_tensors) {
      parts *= 2;
    }
    take_shared(parts);
    return plan;
  }
  for (int parts = 1; parts <= in.cluster; parts *= 2) {
    if (part_bytes(parts) <= shared_for_one) {
      take_shared(parts);
      return plan;
    }
  }
  if (static_cast<double>(row_bytes) <= cluster_excess * in.cluster * static_cast<double>(shared_for_one)) {
    take_shared(in.cluster);
    return plan;
  }

  plan.variant = Variant::stream;
  plan.part_packs = static_cast<int>(stream_part_bytes / in.pack_bytes);
  plan.resident_packs = plan.part_packs;
  plan.parts = divide_up(in.packs, plan.part_packs);
  plan.threads = largest_cta;
  return plan;
}

}  // namespace fastseg::cuda
