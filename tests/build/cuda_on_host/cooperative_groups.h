// Stands in for CUDA's header: what the kernels use of a cluster.
#pragma once
#include "cuda_on_host.h"

namespace cooperative_groups {

struct cluster_group {
  void barrier_arrive() { cuda_on_host::current->arrive(); }
  void barrier_wait() { cuda_on_host::current->wait(); }
  void sync() {
    barrier_arrive();
    barrier_wait();
  }
  template <typename T>
  T* map_shared_rank(T* address, int rank) {
    return reinterpret_cast<T*>(cuda_on_host::current->in_cta(rank, address));
  }
};
inline cluster_group this_cluster() { return {}; }

}  // namespace cooperative_groups
