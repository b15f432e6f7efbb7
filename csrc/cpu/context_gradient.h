// Gradients of the parameters of dense convolutions side by side.
//
// Floor: as many multiply-adds as forward. One tap of a block of outputs is one task: bands of the gradient of y are
// copied to the cache, where products with all inputs are summed up in registers, and band by band in float64. Nothing
// is shared between tasks, so sums do not depend on the number of threads.
#pragma once
#include "context_packed.h"
#include "context_taps.h"

namespace fastseg::FASTSEG_ISA {

// Neighbouring pixels that have a source, in the panel of a band and in x.
template <class A>
struct GradientRun {
  const A* grad;
  const A* x;
  int64_t pixels;
};

// Adds the products of Inputs inputs and a block of outputs, over all runs, to sums [Inputs][context_block].
template <int Inputs, class A>
inline void correlate_runs(const GradientRun<A>* runs, int64_t count, int64_t input, int64_t pitch, double* sums) {
  constexpr int L = lanes<A>, V = tile_output_vectors;
  Vec<A> sum[Inputs][V] = {};
  for (int64_t r = 0; r < count; ++r) {
    const A *x = runs[r].x + input, *grad = runs[r].grad;
    for (int64_t p = 0; p < runs[r].pixels; ++p, x += pitch, grad += context_block<A>) {
      Vec<A> g[V];
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) g[v] = load(grad + v * L);
#pragma GCC unroll 6
      for (int c = 0; c < Inputs; ++c) {
        const Vec<A> value = load_to_all(x + c);
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) sum[c][v] += value * g[v];
      }
    }
  }
  for (int c = 0; c < Inputs; ++c)
    for (int v = 0; v < V; ++v) add_to_sums<A>(sum[c][v], sums + c * context_block<A> + v * L);
}

template <class T>
class AsppGradient {
 public:
  using A = compute_t<T>;

  AsppGradient(const AsppConv& args, const Pixels<T>& grad, const Pixels<T>& x, int threads, Workspace& workspace)
      : args_(args), grad_(grad), x_(x), bands_(args.size, pixels_together) {
    for (int64_t b = 0; b < args.branches.count; ++b) tasks_ += branch_tasks(args.branches.branch[b]);
    panel_ = workspace.take<A>(threads * panel_size());
    sums_ = workspace.take<double>(threads * sums_size());
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
    double* const sums = sums_ + thread * sums_size();
    A* const panel = panel_ + thread * panel_size();
    if (part == branch.taps() || !branch.dweight)
      sum_pixels(channel + first, outputs, static_cast<A*>(branch.dbias) + first, panel, sums);
    else
      correlate(branch, part, channel, first, outputs, panel, sums, runs_ + thread * bands_.rows);
  }

 private:
  static constexpr int64_t pixels_together = 256;

  // Taps, and the sum for the bias, of each block of outputs.
  static int64_t branch_parts(const AsppBranch& branch) {
    return (branch.dweight ? branch.taps() : 0) + (branch.dbias ? 1 : 0);
  }
  static int64_t branch_tasks(const AsppBranch& branch) {
    return ceil_div(branch.outputs, context_block<A>) * branch_parts(branch);
  }
  int64_t panel_size() const { return bands_.most_pixels() * context_block<A>; }
  int64_t sums_size() const { return args_.inputs * context_block<A>; }

  // `outputs` channels of a run of pixels to a panel, zeros beyond the last of them.
  void copy(int64_t n, int64_t first_pixel, int64_t count, int64_t channel, int64_t outputs, A* panel) const {
    for (int64_t p = 0; p < count; ++p, panel += context_block<A>) {
      const A* from = grad_.at(n, first_pixel + p) + channel;
      std::memcpy(panel, from, size_t(outputs) * sizeof(A));
      for (int64_t o = outputs; o < context_block<A>; ++o) panel[o] = 0;
    }
  }

  void correlate(const AsppBranch& branch, int64_t part, int64_t channel, int64_t first, int64_t outputs, A* panel,
                 double* sums, GradientRun<A>* runs) const {
    constexpr int64_t together = 6;
    const TapOffset tap(branch, part);
    const int64_t distance = bands_.distance(tap), inputs = args_.inputs;
    for (int64_t i = 0; i < sums_size(); ++i) sums[i] = 0;
    for (int64_t n = 0; n < args_.batch; ++n)
      for (int64_t band = 0; band < bands_.count; ++band) {
        int64_t count = 0;
        A* to = panel;
        bands_.for_runs(band, tap, [&](int64_t pixel, int64_t pixels) {
          copy(n, pixel, pixels, channel + first, outputs, to);
          runs[count++] = {to, x_.at(n, pixel + distance), pixels};
          to += pixels * context_block<A>;
        });
        if (!count) continue;
        int64_t c = 0;
        for (; c + together <= inputs; c += together)
          correlate_runs<together>(runs, count, c, x_.pitch(), sums + c * context_block<A>);
        for (; c < inputs; ++c) correlate_runs<1>(runs, count, c, x_.pitch(), sums + c * context_block<A>);
      }
    const int64_t taps = branch.taps();
    A* const to = static_cast<A*>(branch.dweight) + first * inputs * taps + part;
    for (int64_t o = 0; o < outputs; ++o)
      for (int64_t c = 0; c < inputs; ++c) to[(o * inputs + c) * taps] = A(sums[c * context_block<A> + o]);
  }

  void sum_pixels(int64_t channel, int64_t outputs, A* to, A* panel, double* sums) const {
    constexpr int L = lanes<A>;
    for (int64_t o = 0; o < context_block<A>; ++o) sums[o] = 0;
    for (int64_t n = 0; n < args_.batch; ++n)
      for (int64_t band = 0; band < bands_.count; ++band) {
        const int64_t count = bands_.pixels(band);
        copy(n, bands_.first_pixel(band), count, channel, outputs, panel);
        for (int64_t o = 0; o < context_block<A>; o += L) {
          Vec<A> sum{};
          for (int64_t p = 0; p < count; ++p) sum += load(panel + p * context_block<A> + o);
          add_to_sums<A>(sum, sums + o);
        }
      }
    for (int64_t o = 0; o < outputs; ++o) to[o] = A(sums[o]);
  }

  const AsppConv& args_;
  const Pixels<T>&grad_, &x_;
  ImageBands bands_;
  int64_t tasks_ = 0;
  A* panel_;
  double* sums_;
  GradientRun<A>* runs_;
};

}  // namespace fastseg::FASTSEG_ISA
