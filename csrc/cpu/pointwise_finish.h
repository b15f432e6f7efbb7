// What becomes of the products of 1x1 convolutions before they are stored.
#pragma once
#include <cstdint>

#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// finish(products, output, pixel) of a vector of pixels (rows) or of outputs (channels-last), from these on: nothing.
struct AsItIs {
  template <class V>
  V operator()(V v, int64_t, int64_t) const {
    return v;
  }
};

// Makes finish for pixels [first, first + count) of sample n.
struct EachAsItIs {
  AsItIs operator()(int64_t, int64_t, int64_t) const { return {}; }
};

}  // namespace fastseg::FASTSEG_ISA
