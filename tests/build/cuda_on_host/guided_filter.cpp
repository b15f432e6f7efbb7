// The guided filter's kernel on the host, for test_guided_filter_on_host.py to call through ctypes.
#include "fastseg/guided_filter.h"

#include <string>

#include "cuda_on_host.h"

namespace {
std::string error;
}  // namespace

extern "C" {

const char* last_error() { return error.c_str(); }

// The threads that the last launch asked for, and its CTAs.
int last_threads() { return static_cast<int>(blockDim.x); }
int last_ctas() { return static_cast<int>(gridDim.x); }

void set_multiprocessors(int count) {
  cuda_on_host::device.multiprocessors = count;
  ++cuda_on_host::device.number;  // what is known of a device is kept
}

int guided_filter(const fastseg::GuidedFilterPlanes* args) {
  try {
    fastseg::cuda::guided_filter(*args, nullptr);
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return 1;
  }
}

}  // extern "C"
