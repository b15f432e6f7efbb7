// Gradients of the parameters of dense convolutions side by side.
//
// Floor: as many multiply-adds as forward. Bands of the gradient of y are copied to the second-level cache, where their
// products with a few inputs at a time, tap by tap, are summed up in registers, and band by band in float64.
#pragma once
#include <algorithm>

#include "context_correlation.h"
#include "context_panel.h"
#include "context_winograd_gradient.h"

namespace fastseg::FASTSEG_ISA {

// How many inputs the products of all branches take.
template <class A>
inline int64_t correlated_inputs(const ContextBranches& branches) {
  int vectors = 1;
  for (int64_t b = 0; b < branches.count; ++b)
    vectors = int(most(vectors, correlation_vectors<A>(branches.branch[b].outputs)));
  return inputs_together(vectors);
}

// Whether all taps of all branches find so few numbers that they are copied together, instead of the inputs of x.
template <class A>
inline bool gradient_by_panel(const ContextConv& args) {
  for (int64_t b = 0; b < args.branches.count; ++b)
    if (!TapPanel<A>::pays(args.branches.branch[b].taps(), args.inputs)) return false;
  return true;
}

// The same where the tiles of a single branch are faster.
template <class T>
inline bool gradient_by_tiles(const ContextConv& args) {
  return !gradient_by_panel<compute_t<T>>(args) && WinogradGradient<T>::pays(args);
}

// Tasks are outputs of a branch by inputs by pixels. Where outputs and inputs alone give few tasks, pixels are cut into
// slices, whose sums are added in order: neither depends on the number of threads.
template <class T>
class ContextGradient {
 public:
  using A = compute_t<T>;

  // `x`: read by panel or by tiles, else its `groups`.
  ContextGradient(const ContextConv& args, const Pixels<T>& grad, const Pixels<T>& x, const InputGroups<T>& groups,
                  int threads, Workspace& workspace)
      : args_(args),
        grad_(grad),
        x_(x),
        groups_(groups),
        by_panel_(gradient_by_panel<A>(args)),
        by_tiles_(gradient_by_tiles<T>(args)),
        bands_(args, false, by_panel_ ? pixels_by_panel : pixels_together),
        tiles_(args, grad, x, by_tiles_ ? task_inputs(args.branches.branch[0]) : 0, by_tiles_, threads, workspace) {
    int64_t parts = 0, sums = context_block<A>, taps = 0;
    for (int64_t b = 0; b < args.branches.count; ++b) {
      const ContextBranch& branch = args.branches.branch[b];
      parts += branch_parts(branch);
      if (!branch.dweight) continue;
      sums = most(sums, task_inputs(branch) * task_taps(branch) * sums_width(branch));
      if (by_panel_) taps = most(taps, tap_panel(branch).size());
    }
    parts_ = parts;
    slices_ = parts ? slices(parts, args.batch * bands()) : 1;
    sums_size_ = sums;
    if (!parts) return;
    panel_size_ = bands_.most_pixels() * context_block<A> + taps;
    panel_ = workspace.take<A>(threads * panel_size_);
    sums_ = workspace.take<double>((slices_ > 1 ? parts_ * slices_ : threads) * sums_size_);
    runs_ = workspace.take<GradientRun<A>>(threads * bands_.rows);
  }

  int64_t tasks() const { return parts_ * slices_; }
  void run(int64_t task, int thread) const {
    const Part part = part_of(task / slices_);
    const int64_t all = args_.batch * (part.bias ? bands_.count : bands()), slice = task % slices_;
    const int64_t begin = slice * all / slices_, end = (slice + 1) * all / slices_;
    double* const sums = sums_ + (slices_ > 1 ? task : thread) * sums_size_;
    A* const panel = panel_ + thread * panel_size_;
    if (part.bias)
      sum_pixels(part, begin, end, panel, sums);
    else if (by_panel_)
      correlate_panels(part, begin, end, panel, sums);
    else if (by_tiles_)
      correlate_tiles(part, begin, end, thread, sums);
    else
      correlate(part, begin, end, panel, sums, runs_ + thread * bands_.rows);
    if (slices_ == 1) write(part, sums);
  }

  // Tasks after all of these.
  int64_t last_tasks() const { return slices_ > 1 ? parts_ : 0; }
  void run_last(int64_t task) const {
    const Part part = part_of(task);
    double* const sums = sums_ + task * slices_ * sums_size_;
    for (int64_t slice = 1; slice < slices_; ++slice)
      for (int64_t i = 0; i < sums_of(part); ++i) sums[i] += sums[slice * sums_size_ + i];
    write(part, sums);
  }

 private:
  static constexpr int64_t pixels_together = 1024, pixels_by_panel = 128;
  static constexpr int64_t short_sum = 64;  // pixels that are added up in float32
  static constexpr int64_t sums_bytes = 320 * 1024, tile_sums_bytes = 290 * 1024;

  // What an image is cut into.
  int64_t bands() const { return by_tiles_ ? tiles_.groups() : bands_.count; }

  // Into how many slices the bands of all images are cut. Each has sums of its own, which are added up at the end: more
  // tasks than a few have bands enough to outweigh that.
  static int64_t slices(int64_t parts, int64_t bands) {
    constexpr int64_t few_tasks = 16, many_tasks = 64, enough_bands = 4;
    const int64_t slices = most(ceil_div(few_tasks, parts), bands / enough_bands);
    return least(least(slices, ceil_div(many_tasks, parts)), bands);
  }

  // A block of outputs, which begin at `channel` of all branches' and `first` of the branch's, by groups of inputs; or
  // the sum over its pixels, for the bias.
  struct Part {
    const ContextBranch& branch;
    int64_t channel, first, outputs;
    int vectors;  // of the sums of an input
    bool bias;
    int64_t first_group, groups;

    int64_t width() const { return vectors * lanes<A>; }
  };

  Part part_of(int64_t part) const {
    int64_t b = 0;
    for (; part >= branch_parts(args_.branches.branch[b]); ++b) part -= branch_parts(args_.branches.branch[b]);
    const ContextBranch& branch = args_.branches.branch[b];
    const int64_t parts = block_parts(branch), first = part / parts * context_block<A>;
    const int64_t outputs = least(branch.outputs - first, context_block<A>), bias = branch.dbias ? 1 : 0;
    const int64_t together = task_groups(branch), group = (part % parts - bias) * together;
    const int64_t groups = least(together, all_groups(branch) - group);
    return {branch, branch.first + first, first, outputs, correlation_vectors<A>(outputs), group < 0, group, groups};
  }

  TapPanel<A> tap_panel(const ContextBranch& branch) const { return {bands_, branch.taps(), args_.inputs}; }

  // Numbers that are summed up for each of the taps that a task takes one by one: inputs, or by panel all taps'.
  int64_t all_groups(const ContextBranch& branch) const {
    return ceil_div(by_panel_ ? tap_panel(branch).numbers() : args_.inputs, groups_.together());
  }
  int64_t task_taps(const ContextBranch& branch) const { return by_panel_ ? 1 : branch.taps(); }
  // Groups of inputs of one task: few enough for sums in the second-level cache. Tasks with some of the inputs each
  // copy gradients of their own, with some of the pixels each they have sums of their own: the inputs of few pixels are
  // cut.
  int64_t task_groups(const ContextBranch& branch) const {
    if (by_panel_) return all_groups(branch);
    const int64_t pixels = args_.batch * args_.output_pixels(), sums = args_.inputs * branch.taps();
    const int64_t cuts = by_tiles_ ? 1 : pixels < 32 * sums ? 4 : pixels < 128 * sums ? 2 : 1;
    const int64_t group_bytes = groups_.together() * sums_width(branch) * int64_t(sizeof(double));
    const int64_t fitting =
        by_tiles_ ? tile_sums_bytes / (winograd_points * group_bytes) : sums_bytes / (branch.taps() * group_bytes);
    const int64_t most_groups = most(least(fitting, ceil_div(all_groups(branch), cuts)), 1);
    return ceil_div(all_groups(branch), ceil_div(all_groups(branch), most_groups));
  }
  // Of the sums of an input, at most.
  static int64_t sums_width(const ContextBranch& branch) { return correlation_vectors<A>(branch.outputs) * lanes<A>; }
  int64_t task_inputs(const ContextBranch& branch) const { return task_groups(branch) * groups_.together(); }
  // The sum for the bias and the parts of the inputs, of each block of outputs.
  int64_t block_parts(const ContextBranch& branch) const {
    return (branch.dbias ? 1 : 0) + (branch.dweight ? ceil_div(all_groups(branch), task_groups(branch)) : 0);
  }
  int64_t branch_parts(const ContextBranch& branch) const {
    return ceil_div(branch.outputs, context_block<A>) * block_parts(branch);
  }
  int64_t sums_of(const Part& part) const {
    return part.width() * (part.bias ? 1 : task_taps(part.branch) * part.groups * groups_.together());
  }

  // A part's outputs of a band to a panel, zeros beyond the last of them.
  void copy(const Part& part, int64_t n, int64_t band, A* panel) const {
    const int64_t pixels = bands_.pixels(band);
    const A* const from = grad_.at(n, bands_.first_pixel(band)) + part.channel;
    copy_pixels(from, grad_.pitch(), part.outputs, pixels, panel, part.width());
  }

  // Bands [begin, end) of all images.
  void correlate(const Part& part, int64_t begin, int64_t end, A* panel, double* sums, GradientRun<A>* runs) const {
    const int64_t together = groups_.together(), width = part.width();
    const Correlation<A> add = correlation<A>(part.vectors, together);
    std::fill_n(sums, sums_of(part), 0.);
    for (int64_t image = begin; image < end; ++image) {
      const int64_t n = image / bands_.count, band = image % bands_.count, first_pixel = bands_.first_pixel(band);
      copy(part, n, band, panel);
      for (int64_t t = 0; t < part.branch.taps(); ++t) {
        const TapOffset tap(part.branch, t);
        int64_t count = 0;
        bands_.for_columns(tap, 1, [&](const TapColumns& columns) {
          bands_.for_rows(band, tap, [&](const TapRows& rows) {
            bands_.for_runs(rows, columns, [&](const TapRun& run) {
              runs[count++] = {panel + (run.target - first_pixel) * width, run.source * together, run.count};
            });
          });
        });
        for (int64_t g = 0; count && g < part.groups; ++g)
          add(runs, count, groups_.at(n, part.first_group + g, 0), bands_.width.pace * together,
              sums + (t * part.groups + g) * together * width);
      }
    }
  }

  void correlate_tiles(const Part& part, int64_t begin, int64_t end, int thread, double* sums) const {
    const int64_t together = groups_.together();
    std::fill_n(sums, sums_of(part), 0.);
    tiles_.add(begin, end, part.channel, part.outputs, part.vectors, part.first_group * together,
               part.groups * together, together, thread, sums);
  }

  // The same with all taps of x beside each other.
  void correlate_panels(const Part& part, int64_t begin, int64_t end, A* panel, double* sums) const {
    const ContextBranch& branch = part.branch;
    const int64_t together = groups_.together();
    const TapPanel<A> tap_panel = this->tap_panel(branch);
    A* const taps = panel + bands_.most_pixels() * context_block<A>;
    const int64_t beside = branch.dilation[X] == 1 && x_.pitch() == args_.inputs ? branch.kernel[X] : 1;
    const Correlation<A> add = correlation<A>(part.vectors, together);
    std::fill_n(sums, sums_of(part), 0.);
    for (int64_t image = begin; image < end; ++image) {
      const int64_t n = image / bands_.count, band = image % bands_.count;
      copy(part, n, band, panel);
      tap_panel.fill(x_, n, band, 0, beside, [&](int64_t tap) { return TapOffset(branch, tap); }, taps);
      const GradientRun<A> run{panel, 0, bands_.pixels(band)};
      for (int64_t g = 0; g < part.groups; ++g)
        add(&run, 1, taps + g * together, tap_panel.numbers(), sums + g * together * part.width());
    }
  }

  void sum_pixels(const Part& part, int64_t begin, int64_t end, A* panel, double* sums) const {
    constexpr int L = lanes<A>;
    const int64_t width = part.width();
    std::fill_n(sums, width, 0.);
    for (int64_t image = begin; image < end; ++image) {
      const int64_t band = image % bands_.count;
      copy(part, image / bands_.count, band, panel);
      for (int64_t p = 0; p < bands_.pixels(band); p += short_sum)
        for (int64_t o = 0; o < width; o += L) {
          Vec<A> sum{};
          for (int64_t i = p; i < least(p + short_sum, bands_.pixels(band)); ++i) sum += load(panel + i * width + o);
          add_to_lanes(sum, sums + o);
        }
    }
  }

  void write(const Part& part, const double* sums) const {
    const ContextBranch& branch = part.branch;
    if (part.bias) {
      for (int64_t o = 0; o < part.outputs; ++o) static_cast<A*>(branch.dbias)[part.first + o] = A(sums[o]);
      return;
    }
    const int64_t taps = branch.taps(), inputs = args_.inputs, together = groups_.together(), width = part.width();
    const int64_t first_input = by_panel_ ? 0 : part.first_group * together;
    const int64_t tap_inputs = by_panel_ ? inputs : part.groups * together;
    for (int64_t o = 0; o < part.outputs; ++o) {
      A* const to =
          static_cast<A*>(branch.dweight) + (part.first + o) * inputs * taps + first_input * branch.input_stride;
      for (int64_t c = 0; c < least(tap_inputs, inputs - first_input); ++c)
        for (int64_t t = 0; t < taps; ++t)
          to[c * branch.input_stride + t * branch.tap_stride] = A(sums[(t * tap_inputs + c) * width + o]);
    }
  }

  const ContextConv& args_;
  const Pixels<T>&grad_, &x_;
  const InputGroups<T>& groups_;
  bool by_panel_, by_tiles_;
  ImageBands bands_;
  WinogradGradient<T> tiles_;
  int64_t parts_ = 0, slices_ = 1, sums_size_ = 0, panel_size_ = 0;
  A* panel_ = nullptr;  // a thread's gradients of a band and, by panel, what all taps find of x
  double* sums_ = nullptr;
  GradientRun<A>* runs_ = nullptr;
};

}  // namespace fastseg::FASTSEG_ISA
