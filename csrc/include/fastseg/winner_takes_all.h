// The slice of least cost at each pixel of a cost volume, and what later steps need of the slices around it.
#pragma once
#include "fastseg/images.h"

namespace fastseg {

// [batch, pixels] each, dense; costs in the type computed in. fastseg/ops/winner_takes_all.py says what they hold.
struct WinnerPlanes {
  int32_t* index = nullptr;
  void* cost = nullptr;
  void* before = nullptr;
  void* after = nullptr;
  void* second = nullptr;
  void* last = nullptr;
};

struct WinnerTakesAll {
  int64_t batch, slices, pixels;
  Images costs;           // [batch, slices, pixels], any type
  int64_t first;          // the number of the first slice; above 0 where `previous` is given
  WinnerPlanes previous;  // optional
  const int32_t* near;    // [batch, pixels], optional: only slices up to `reach` away from it can win
  int64_t reach;
  WinnerPlanes result;  // written; cost is NaN where one of the costs is
};

namespace cpu {
void winner_takes_all(const WinnerTakesAll& args, int threads);
}  // namespace cpu

}  // namespace fastseg
