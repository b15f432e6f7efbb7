// The depthwise kernels on the host, for test_depthwise_on_host.py to call through ctypes.
#include "fastseg/depthwise.h"

#include <string>

#include "cuda_on_host.h"

using namespace fastseg;

namespace {

std::string error;

template <typename F>
int run(F f) {
  cuda_on_host::launches.clear();
  try {
    f();
    return 0;
  } catch (const std::exception& e) {
    error = e.what();
    return 1;
  }
}

}  // namespace

extern "C" {

const char* last_error() { return error.c_str(); }

// Of the last call: how many kernels were launched, and the shared memory of the first one.
int launches() { return static_cast<int>(cuda_on_host::launches.size()); }
int shared_bytes_of_first() { return cuda_on_host::launches.at(0).shared_bytes; }

int64_t workspace(const DepthwiseShape* shape, int type, int channels_last, int backward, int reduces) {
  return cuda::depthwise_conv_workspace(*shape, static_cast<Element>(type), channels_last, backward, reduces);
}
int forward(const DepthwiseConvForward* args, void* scratch) {
  return run([&] { cuda::depthwise_conv_forward(*args, scratch, nullptr); });
}
int backward(const DepthwiseConvBackward* args, void* scratch) {
  return run([&] { cuda::depthwise_conv_backward(*args, scratch, nullptr); });
}

}  // extern "C"
