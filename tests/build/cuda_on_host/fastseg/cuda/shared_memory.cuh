// Stands in for csrc/include/fastseg/cuda/shared_memory.cuh: the memory of the CTA whose thread is running.
#pragma once

namespace fastseg::cuda {

inline unsigned char* shared_memory() { return cuda_on_host::current->cta->shared.data(); }

}  // namespace fastseg::cuda
