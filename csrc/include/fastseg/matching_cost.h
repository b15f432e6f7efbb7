// Matching costs of a stereo pair (truncated differences of colours and gradients, census) and the census transform.
#pragma once
#include "fastseg/images.h"

namespace fastseg {

struct CensusTransform {
  int64_t batch, channels, height, width;  // 1 or 3 channels
  Images image;                            // [batch, channels, height, width], any type
  int64_t window_rows, window_columns;     // odd, 1 to 9, not both 1
  uint64_t* words;                         // [batch, words, height, width], written; 64 neighbours a word
};

struct MatchingCost {
  int64_t batch, channels, height, width;  // 1 or 3 channels
  Images left, right;                      // [batch, channels, height, width], any type, the same for both
  int64_t min_disparity, disparities;      // all of them between -width and width
  bool right_view;                         // right pixel x beside left pixel x + d; else left pixel x beside x - d
  bool ad_census;                          // 2 - exp(-hamming / census_scale) - exp(-AD / ad_scale), else weighted
  double ad_weight, gradient_weight, census_weight;  // >= 0, one of them > 0; a term of weight 0 is not computed
  double ad_threshold, gradient_threshold;           // for pixels in [0, 1]: bytes are 255 times as large
  int64_t window_rows, window_columns;               // of the census
  double outside;                                    // colour and gradient beyond the other image's sides
  double ad_scale, census_scale;
  void* cost;    // [batch, disparities, height, width], dense, written
  Element type;  // of cost: float32 or float16
};

namespace cpu {
void census_transform(const CensusTransform& args, int threads);
void matching_cost(const MatchingCost& args, int threads);
}  // namespace cpu

}  // namespace fastseg
