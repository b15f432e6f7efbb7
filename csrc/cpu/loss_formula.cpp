// The loss and its derivatives from the sums of samples and classes. Compiled once: it works on a few numbers.
#include <cmath>
#include <vector>

#include "fastseg/loss.h"

namespace fastseg {
namespace {

// (1 - index)^gamma has an infinite slope at 0 for gamma < 1, where a perfect prediction would get NaN; below this it
// is flat.
constexpr double least_miss = 1e-7;

// The sums of a class over one sample, or over all of them.
struct ClassSums {
  double shared = 0, predicted = 0, truth = 0;
};

class Formula {
 public:
  explicit Formula(const LossFormula& args)
      : args_(args), groups_(args.whole_batch ? 1 : args.batch), members_(args.whole_batch ? args.batch : 1) {
    for (int64_t i = 0; i < args.batch * loss_slopes * args.classes; ++i) args.slopes[i] = 0;
  }

  void run() {
    double loss = 0;
    if (args_.overlap_weight != 0)
      for (int64_t group = 0; group < groups_; ++group)
        loss += args_.overlap_weight * (args_.generalized ? generalized(group) : indices(group));
    if (args_.ce_weight != 0) loss += args_.ce_weight * (args_.sigmoid ? binary_entropy() : entropy());
    *args_.loss = loss;
  }

 private:
  double sum(int64_t n, int which, int64_t k) const { return args_.sums[(n * loss_sums + which) * args_.classes + k]; }
  double over_batch(int which, int64_t k) const {
    double total = 0;
    for (int64_t n = 0; n < args_.batch; ++n) total += sum(n, which, k);
    return total;
  }
  ClassSums of(int64_t group, int64_t k) const {
    ClassSums total;
    for (int64_t n = group * members_; n < (group + 1) * members_; ++n) {
      total.shared += sum(n, 0, k);
      total.predicted += sum(n, 1, k);
      total.truth += sum(n, 2, k);
    }
    return total;
  }
  int64_t first_class() const { return args_.include_background ? 0 : 1; }
  void set_slopes(int64_t group, int64_t k, double by_shared, double by_predicted) {
    for (int64_t n = group * members_; n < (group + 1) * members_; ++n) {
      args_.slopes[(n * loss_slopes + 0) * args_.classes + k] = args_.overlap_weight * by_shared;
      args_.slopes[(n * loss_slopes + 1) * args_.classes + k] = args_.overlap_weight * by_predicted;
    }
  }

  // Its part of the mean over groups and classes of (1 - index)^gamma. One minus the index comes from what is missed.
  double indices(int64_t group) {
    const double fp = args_.fp_weight, fn = args_.fn_weight;
    const double share = 1.0 / double(groups_ * (args_.classes - first_class()));
    double loss = 0;
    for (int64_t k = first_class(); k < args_.classes; ++k) {
      const ClassSums s = of(group, k);
      const double wrong = fp * (s.predicted - s.shared) + fn * (s.truth - s.shared);
      const double right = s.shared + args_.smooth, all = right + wrong;
      double miss = wrong / all;
      double slope = share;
      if (args_.gamma != 1) {
        const bool flat = miss < least_miss;
        miss = flat ? least_miss : miss;
        slope = flat ? 0 : share * args_.gamma * std::pow(miss, args_.gamma - 1);
        miss = std::pow(miss, args_.gamma);
      }
      loss += share * miss;
      set_slopes(group, k, -slope * ((fp + fn) * right + wrong) / (all * all), slope * fp * right / (all * all));
    }
    return loss;
  }

  // 1 - 2 sum w shared / sum w (predicted + truth), w = 1 / truth^2.
  double generalized(int64_t group) {
    double heaviest = 0, wrong = 0, all = 0;
    std::vector<double> weights(size_t(args_.classes), 0.0);
    for (int64_t k = first_class(); k < args_.classes; ++k) {
      const double truth = of(group, k).truth;
      if (truth > 0) weights[size_t(k)] = 1 / (truth * truth);
      if (weights[size_t(k)] > heaviest) heaviest = weights[size_t(k)];
    }
    for (int64_t k = first_class(); k < args_.classes; ++k) {
      double& weight = weights[size_t(k)];
      if (weight == 0) weight = heaviest > 0 ? heaviest : 1;  // absent: by the formula infinite
      const ClassSums s = of(group, k);
      wrong += weight * (s.predicted + s.truth - 2 * s.shared);
      all += weight * (s.predicted + s.truth);
    }
    if (all == 0) return 0;  // no voxel counts
    const double share = 1.0 / double(groups_), miss = wrong / all;
    for (int64_t k = first_class(); k < args_.classes; ++k)
      set_slopes(group, k, -2 * share * weights[size_t(k)] / all, share * weights[size_t(k)] * (1 - miss) / all);
    return share * miss;
  }

  // The mean over voxels, weighted by their classes.
  double entropy() {
    double loss = 0, count = 0;
    std::vector<double> weights(size_t(args_.classes), 1.0);
    for (int64_t k = 0; k < args_.classes; ++k) {
      const double truth = over_batch(2, k);
      double& weight = weights[size_t(k)];
      if (args_.balanced) weight = truth > 0 ? 1 / truth : 0;
      if (args_.class_weights) weight = args_.class_weights[k];
      count += weight * truth;
      if (weight != 0) loss += weight * over_batch(3, k);
    }
    if (count == 0) return 0;  // no voxel counts
    for (int64_t k = 0; k < args_.classes; ++k) set_entropy_slope(k, weights[size_t(k)] / count);
    return loss / count;
  }

  double binary_entropy() {
    const double count = double(args_.batch * args_.classes * args_.spatial);
    double loss = 0;
    for (int64_t k = 0; k < args_.classes; ++k) {
      loss += over_batch(3, k);
      set_entropy_slope(k, 1 / count);
    }
    return loss / count;
  }

  void set_entropy_slope(int64_t k, double slope) {
    for (int64_t n = 0; n < args_.batch; ++n)
      args_.slopes[(n * loss_slopes + 2) * args_.classes + k] = args_.ce_weight * slope;
  }

  const LossFormula& args_;
  int64_t groups_, members_;
};

}  // namespace

void loss_formula(const LossFormula& args) { Formula(args).run(); }

}  // namespace fastseg
