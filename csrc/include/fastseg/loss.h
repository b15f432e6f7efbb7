// The loss family: cross-entropy and losses of overlap (Dice, Tversky) between logits and a truth.
//
// p is the probability that softmax over classes or the sigmoid makes of the logits, r the truth. Whatever the loss,
// a pass over the logits has to give but four sums for each sample and class (LossSums); from these follow the loss and
// its derivatives by the sums (LossFormula), and a second pass makes the gradient (LossGradient).
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// The numbers are those of fastseg/backends/loss_call.py.
enum class TruthType : int { uint8 = 0, int8 = 1, int16 = 2, int32 = 3, int64 = 4, float32 = 5, float64 = 6 };

// Strides in elements.
struct Truth {
  const void* data;
  TruthType type;
  int64_t batch_stride;
  int64_t channel_stride;  // of regions; a map of classes has one channel
  int64_t spatial_stride;
};

// The four sums of a sample and a class: truth times probability, probability, truth, entropy.
constexpr int64_t loss_sums = 4;
// The derivatives of the loss by the first two and the last of them.
constexpr int64_t loss_slopes = 3;

struct LossSums {
  int64_t batch, classes, spatial;
  View logits;
  Truth truth;      // softmax: [batch, spatial], classes; sigmoid: [batch, classes, spatial], from 0 to 1
  bool sigmoid;     // or softmax over the classes
  int64_t ignored;  // the class whose voxels count nowhere (softmax)
  double* sums;     // [batch, 4, classes], written; softmax: the entropy is that of the voxels of the class
  double* wrong;    // [2], written: the voxels whose truth is no class, or not from 0 to 1, and one of these values
};

struct LossFormula {
  int64_t batch, classes, spatial;
  bool sigmoid;
  const double* sums;           // [batch, 4, classes]
  const double* class_weights;  // [classes], of the cross-entropy (softmax), optional
  bool balanced;                // class_weights are 1 / voxels of the class
  bool generalized;             // Dice with weights 1 / voxels^2 of the classes; otherwise (1 - Tversky index)^gamma
  double overlap_weight, ce_weight;
  double fp_weight, fn_weight, smooth, gamma;
  bool whole_batch;         // sums over the batch; otherwise sample by sample
  bool include_background;  // class 0 counts in the overlap
  double* loss;             // [1], written
  double* slopes;           // [batch, 3, classes], written
};

struct LossGradient {
  int64_t batch, classes, spatial;
  View logits;
  Truth truth;
  bool sigmoid;
  int64_t ignored;
  const double* slopes;  // [batch, 3, classes]
  double grad;           // of the loss
  View dlogits;          // written, in the layout of logits
};

// Compiled once: it works on a few numbers.
void loss_formula(const LossFormula& args);

namespace cpu {
void loss_sums_of(const LossSums& args, int threads);
void loss_gradient(const LossGradient& args, int threads);
}  // namespace cpu

}  // namespace fastseg
