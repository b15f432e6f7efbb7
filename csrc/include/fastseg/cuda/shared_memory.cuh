// All shared memory of a kernel is dynamic, so that the host alone decides how much of a row stays on chip.
#pragma once

namespace fastseg::cuda {

__device__ inline unsigned char* shared_memory() {
  extern __shared__ __align__(16) unsigned char dynamic_shared_memory[];
  return dynamic_shared_memory;
}

}  // namespace fastseg::cuda
