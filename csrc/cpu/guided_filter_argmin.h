// Which channel is smallest at each pixel, of channels that come a group of lanes at a time. The first of equal ones is
// taken; NaN counts as smaller than any number, so that it is seen in the result.
//
// Operations: 3 for each vector of results, instead of writing them and reading them again.
#pragma once
#include "fastseg/cpu/transpose.h"
#include "guided_filter_sums.h"

namespace fastseg::FASTSEG_ISA {

// Best values and their lanes, [groups][2][height][pitch]; lanes are integers as wide as the values.
template <class A>
class GroupMinima {
 public:
  using Lane = std::conditional_t<sizeof(A) == 8, int64_t, int32_t>;
  static constexpr int L = lanes<A>;

  GroupMinima() = default;
  explicit GroupMinima(const Planes<A>& planes) : planes_(planes) {}

  // A row of results [pixels][lanes] of a group, of which the first `channels` lanes are in use.
  void take(const A* results, int channels, int64_t group, int64_t y, int64_t width) const {
    typedef Lane Lanes __attribute__((vector_size(vector_bytes)));
    A *values = planes_.row(2 * group, y), *which = planes_.row(2 * group + 1, y);
    for (int64_t x = 0; x < width; x += L) {
      Vec<A> tile[L];
#pragma GCC unroll 16
      for (int i = 0; i < L; ++i) tile[i] = load(results + (x + i) * L);
      transpose(tile);
      Vec<A> best = tile[0];
      Lanes lane = {};
      for (int i = 1; i < channels; ++i) {
        const auto better = (tile[i] < best) | (tile[i] != tile[i]);
        best = better ? tile[i] : best;
        lane = better ? Lanes{} + Lane(i) : lane;
      }
      store(values + x, best);
      std::memcpy(which + x, &lane, sizeof lane);
    }
  }

  // The best of all groups, in a row of an image.
  void merge(int64_t groups, int64_t y, int64_t width, int64_t* index, A* value) const {
    for (int64_t group = 0; group < groups; ++group) {
      const A *values = planes_.row(2 * group, y), *which = planes_.row(2 * group + 1, y);
      for (int64_t x = 0; x < width; ++x) {
        if (group > 0 && !(values[x] < value[x] || values[x] != values[x])) continue;
        Lane lane;
        std::memcpy(&lane, which + x, sizeof lane);
        value[x] = values[x];
        index[x] = group * L + lane;
      }
    }
  }

 private:
  Planes<A> planes_{};
};

}  // namespace fastseg::FASTSEG_ISA
