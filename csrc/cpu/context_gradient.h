// Gradients of the parameters of dense convolutions side by side.
//
// Floor: as many multiply-adds as forward. One tap of a block of outputs is one task: bands of the gradient of y are
// copied to the first-level cache, where products with all inputs, a few at a time, are summed up in registers, and
// band by band in float64. Nothing is shared between tasks, so sums do not depend on the number of threads.
#pragma once
#include "context_packed.h"
#include "context_taps.h"

namespace fastseg::FASTSEG_ISA {

// Neighbouring pixels that have a source: where they lie in the panel of a band, and their sources in the image.
template <class A>
struct GradientRun {
  const A* grad;
  int64_t source, pixels;
};

// Adds a vector to float64 sums, one a lane.
inline void add_to_lanes(Vec<double> v, double* to) { store(to, load(to) + v); }
inline void add_to_lanes(Vec<float> v, double* to) {
  typedef float Half __attribute__((vector_size(vector_bytes / 2)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof halves);
  for (int i = 0; i < 2; ++i) add_to_lanes(__builtin_convertvector(halves[i], Vec<double>), to + i * lanes<double>);
}

// Adds the products of a group of inputs (of an image in these groups) and V vectors of outputs, over all runs, to sums
// [inputs_together][context_block].
template <int V, class A>
inline void correlate_runs(const GradientRun<A>* runs, int64_t count, const A* image, double* sums) {
  constexpr int L = lanes<A>, Inputs = int(inputs_together);
  Vec<A> sum[Inputs][V];
#pragma GCC unroll 6
  for (int c = 0; c < Inputs; ++c)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) sum[c][v] = Vec<A>{};
  for (int64_t r = 0; r < count; ++r) {
    const A *x = image + runs[r].source * Inputs, *grad = runs[r].grad;
    for (int64_t p = 0; p < runs[r].pixels; ++p, x += Inputs, grad += context_block<A>) {
      Vec<A> g[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) g[v] = load(grad + v * L);
#pragma GCC unroll 6
      for (int c = 0; c < Inputs; ++c) {
        const Vec<A> value = broadcast<Vec<A>>(x[c]);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[c][v] += value * g[v];
      }
    }
  }
#pragma GCC unroll 6
  for (int c = 0; c < Inputs; ++c)
#pragma GCC unroll 4
    for (int v = 0; v < V; ++v) add_to_lanes(sum[c][v], sums + c * context_block<A> + v * L);
}

template <class A>
using Correlation = void (*)(const GradientRun<A>* runs, int64_t count, const A* image, double* sums);
template <class A>
inline Correlation<A> correlation(int64_t outputs) {
  const int64_t vectors = ceil_div(outputs, lanes<A>);
  if (vectors == 1) return correlate_runs<1, A>;
  if (tile_output_vectors == 4 && vectors == 2) return correlate_runs<2, A>;
  return correlate_runs<tile_output_vectors, A>;
}

template <class T>
class AsppGradient {
 public:
  using A = compute_t<T>;

  AsppGradient(const AsppConv& args, const Pixels<T>& grad, const InputGroups<T>& x, int threads, Workspace& workspace)
      : args_(args), grad_(grad), x_(x), bands_(args.size, pixels_together) {
    int64_t sums = context_block<A>;
    for (int64_t b = 0; b < args.branches.count; ++b) {
      const AsppBranch& branch = args.branches.branch[b];
      tasks_ += branch_tasks(branch);
      if (branch.dweight) sums = most(sums, branch.taps() * task_groups(branch) * group_size);
    }
    sums_size_ = sums;
    panel_ = workspace.take<A>(threads * panel_size());
    sums_ = workspace.take<double>(threads * sums_size_);
    runs_ = workspace.take<GradientRun<A>>(threads * bands_.rows);
  }

  int64_t tasks() const { return tasks_; }
  void run(int64_t task, int thread) const {
    int64_t b = 0, channel = 0;
    for (; task >= branch_tasks(args_.branches.branch[b]); channel += args_.branches.branch[b++].outputs)
      task -= branch_tasks(args_.branches.branch[b]);
    const AsppBranch& branch = args_.branches.branch[b];
    const int64_t parts = branch_parts(branch), first = task / parts * context_block<A>, part = task % parts;
    const int64_t outputs = least(branch.outputs - first, context_block<A>);
    A* const panel = panel_ + thread * panel_size();
    double* const sums = sums_ + thread * sums_size_;
    if (branch.dbias && part == 0)
      sum_pixels(channel + first, outputs, static_cast<A*>(branch.dbias) + first, panel, sums);
    else
      correlate(branch, part - (branch.dbias ? 1 : 0), channel, first, outputs, panel, sums,
                runs_ + thread * bands_.rows);
  }

 private:
  static constexpr int64_t pixels_together = 512;
  static constexpr int64_t group_size = inputs_together * context_block<A>;
  static constexpr int64_t sums_bytes = 320 * 1024;

  // Groups of inputs of one task: few enough for sums in the second-level cache, and for several tasks a block.
  int64_t task_groups(const AsppBranch& branch) const {
    const int64_t fitting = sums_bytes / (branch.taps() * group_size * int64_t(sizeof(double)));
    return most(least(fitting, ceil_div(x_.groups(), 4)), 1);
  }
  // The sum for the bias and the parts of the inputs, of each block of outputs.
  int64_t branch_parts(const AsppBranch& branch) const {
    return (branch.dbias ? 1 : 0) + (branch.dweight ? ceil_div(x_.groups(), task_groups(branch)) : 0);
  }
  int64_t branch_tasks(const AsppBranch& branch) const {
    return ceil_div(branch.outputs, context_block<A>) * branch_parts(branch);
  }
  int64_t panel_size() const { return bands_.most_pixels() * context_block<A>; }

  // `outputs` channels of a band to a panel, zeros beyond the last of them.
  void copy(int64_t n, int64_t band, int64_t channel, int64_t outputs, A* panel) const {
    const int64_t first_pixel = bands_.first_pixel(band);
    for (int64_t p = 0; p < bands_.pixels(band); ++p, panel += context_block<A>) {
      const A* from = grad_.at(n, first_pixel + p) + channel;
      std::memcpy(panel, from, size_t(outputs) * sizeof(A));
      for (int64_t o = outputs; o < context_block<A>; ++o) panel[o] = 0;
    }
  }

  void correlate(const AsppBranch& branch, int64_t part, int64_t channel, int64_t first, int64_t outputs, A* panel,
                 double* sums, GradientRun<A>* runs) const {
    const int64_t taps = branch.taps(), together = task_groups(branch), begin = part * together;
    const int64_t groups = least(together, x_.groups() - begin);
    const Correlation<A> add = correlation<A>(outputs);
    for (int64_t i = 0; i < taps * groups * group_size; ++i) sums[i] = 0;
    for (int64_t n = 0; n < args_.batch; ++n)
      for (int64_t band = 0; band < bands_.count; ++band) {
        copy(n, band, channel + first, outputs, panel);
        for (int64_t t = 0; t < taps; ++t) {
          const TapOffset tap(branch, t);
          const int64_t distance = bands_.distance(tap), first_pixel = bands_.first_pixel(band);
          int64_t count = 0;
          bands_.for_runs(band, tap, [&](int64_t pixel, int64_t pixels) {
            runs[count++] = {panel + (pixel - first_pixel) * context_block<A>, pixel + distance, pixels};
          });
          for (int64_t g = 0; count && g < groups; ++g)
            add(runs, count, x_.at(n, begin + g, 0), sums + (t * groups + g) * group_size);
        }
      }
    const int64_t inputs = args_.inputs, first_input = begin * inputs_together;
    A* const to = static_cast<A*>(branch.dweight) + (first * inputs + first_input) * taps;
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t c = 0; c < least(groups * inputs_together, inputs - first_input); ++c)
        for (int64_t t = 0; t < taps; ++t)
          to[(o * inputs + c) * taps + t] = A(sums[(t * groups * inputs_together + c) * context_block<A> + o]);
  }

  void sum_pixels(int64_t channel, int64_t outputs, A* to, A* panel, double* sums) const {
    constexpr int L = lanes<A>;
    for (int64_t o = 0; o < context_block<A>; ++o) sums[o] = 0;
    for (int64_t n = 0; n < args_.batch; ++n)
      for (int64_t band = 0; band < bands_.count; ++band) {
        copy(n, band, channel, outputs, panel);
        for (int64_t o = 0; o < context_block<A>; o += L) {
          Vec<A> sum{};
          for (int64_t p = 0; p < bands_.pixels(band); ++p) sum += load(panel + p * context_block<A> + o);
          add_to_lanes(sum, sums + o);
        }
      }
    for (int64_t o = 0; o < outputs; ++o) to[o] = A(sums[o]);
  }

  const AsppConv& args_;
  const Pixels<T>& grad_;
  const InputGroups<T>& x_;
  ImageBands bands_;
  int64_t tasks_ = 0, sums_size_ = 0;
  A* panel_;
  double* sums_;
  GradientRun<A>* runs_;
};

}  // namespace fastseg::FASTSEG_ISA
