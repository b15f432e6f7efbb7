// Recursive filters fade into subnormal numbers and stay there, where some processors take a hundred times as long.
#pragma once
#include "fastseg/cpu/vec.h"

namespace fastseg::FASTSEG_ISA {

// While it lives, this thread takes and makes zeros instead, where the processor can.
class SubnormalsAreZero {
 public:
  SubnormalsAreZero(const SubnormalsAreZero&) = delete;
  SubnormalsAreZero& operator=(const SubnormalsAreZero&) = delete;
#if defined(__SSE2__)
  SubnormalsAreZero() : before_(_mm_getcsr()) { _mm_setcsr(before_ | 0x8040); }
  ~SubnormalsAreZero() { _mm_setcsr(before_); }

 private:
  unsigned before_;
#else
  SubnormalsAreZero() {}
#endif
};

}  // namespace fastseg::FASTSEG_ISA
