// Dense convolutions side by side, forward or for the gradient of x: sums of shifted products of pixels and weights.
//
// Floor: inputs * outputs * (taps that do not fall on padding) multiply-adds a pixel; x, weights and y once each are
// little beside them. A block of targets of a band of pixels is summed up in the second-level cache, while a tap's
// weights of a run of sources stay in the first. The gradient of x adds up all branches before it is written.
#pragma once
#include "context_panel.h"
#include "context_targets.h"
#include "context_weights.h"

namespace fastseg::FASTSEG_ISA {

template <class T>
class ContextConvolution {
 public:
  using A = compute_t<T>;

  // `transposed`: from y to dx, else from x to y.
  ContextConvolution(const ContextConv& args, const Pixels<T>& source, bool transposed, bool stream, bool wanted,
                     int threads, Workspace& workspace)
      : args_(args),
        source_(source),
        transposed_(transposed),
        stream_(stream),
        bands_(args, transposed, band_pixels(args, transposed, threads)) {
    if (!wanted) return;
    for (int64_t b = 0; b < args.branches.count; ++b) {
      const ContextBranch& branch = args.branches.branch[b];
      const bool by_panel = takes_panel(branch.taps(), transposed ? branch.outputs : args.inputs);
      weights_[b] = BranchWeights<T>(branch, bands_, args.inputs, transposed, by_panel, workspace);
      weight_tasks_ += weights_[b].tasks();
      blocks_ = transposed ? weights_[b].blocks() : blocks_ + weights_[b].blocks();
      if (by_panel) panel_size_ = most(panel_size_, panel(b).size());
    }
    sums_ = workspace.take<A>(threads * sums_size());
    panels_ = workspace.take<A>(threads * panel_size_);
  }

  int64_t weight_tasks() const { return weight_tasks_; }
  void pack_weights(int64_t task) const {
    int64_t b = 0;
    for (; task >= weights_[b].tasks(); ++b) task -= weights_[b].tasks();
    weights_[b].pack(task);
  }

  int64_t tasks() const { return blocks_ * args_.batch * bands_.count; }
  void run(int64_t task, int thread) const {
    A *const sums = sums_ + thread * sums_size(), *const panel = panels_ + thread * panel_size_;
    const int64_t band = task % bands_.count, n = task / bands_.count % args_.batch;
    int64_t block = task / bands_.count / args_.batch;
    if (transposed_) {
      const int64_t first = block * context_block<A>, targets = least(args_.inputs - first, context_block<A>);
      start_sums(args_.dx_bias, first, targets, weights_[0].width(), bands_.pixels(band), sums);
      for (int64_t b = 0; b < args_.branches.count; ++b)
        add_branch(b, block, args_.branches.branch[b].first, n, band, sums, panel);
      write(args_.dx, first, targets, n, band, sums, weights_[0].width());
      return;
    }
    int64_t b = 0;
    for (; block >= weights_[b].blocks(); ++b) block -= weights_[b].blocks();
    const int64_t first = block * context_block<A>, targets = least(weights_[b].targets() - first, context_block<A>);
    start_sums(args_.branches.branch[b].bias, first, targets, weights_[b].width(), bands_.pixels(band), sums);
    add_branch(b, block, 0, n, band, sums, panel);
    write(args_.y, args_.branches.branch[b].first + first, targets, n, band, sums, weights_[b].width());
  }

 private:
  // Pixels of a band: their sums lie in the second-level cache, and all of them read the same weights. Fewer where
  // threads have few tasks each, of which the last ones leave some idle: up to a tenth of small images' time.
  static constexpr int64_t most_pixels = 384, least_pixels = 256, tasks_each = 8;
  // Sources whose weights stay in the first-level cache, and few enough for sums in float32.
  static constexpr int64_t together = 128;
  static constexpr int64_t few_sources = 128;

  static int64_t band_pixels(const ContextConv& args, bool transposed, int threads) {
    int64_t blocks = transposed ? ceil_div(args.inputs, context_block<A>) : 0;
    for (int64_t b = 0; !transposed && b < args.branches.count; ++b)
      blocks += ceil_div(args.branches.branch[b].outputs, context_block<A>);
    const int64_t pixels = args.batch * (transposed ? args.pixels() : args.output_pixels());
    return least(most(blocks * pixels / (threads * tasks_each), least_pixels), most_pixels);
  }

  int64_t sums_size() const { return bands_.most_pixels() * context_block<A>; }
  void write(const View& to, int64_t channel, int64_t channels, int64_t n, int64_t band, const A* sums,
             int64_t width) const {
    write_sums<T>(to, channel, channels, n, bands_.first_pixel(band), bands_.pixels(band), sums, width, stream_);
  }

  // Adds what a branch gives to a block of targets; its sources begin at `channel`.
  void add_branch(int64_t b, int64_t block, int64_t channel, int64_t n, int64_t band, A* sums, A* taps) const {
    const BranchWeights<T>& weights = weights_[b];
    const ContextBranch& branch = args_.branches.branch[b];
    const int64_t width = weights.width(), sources = weights.sources(), first_pixel = bands_.first_pixel(band);
    const int64_t beside = taps_beside(b);
    const Products<A> product(weights.targets() - block * context_block<A>);
    if (by_panel(b)) {
      const TapPanel<A> panel = this->panel(b);
      const auto offset = [&](int64_t tap) { return weights.offset(branch, tap); };
      panel.fill(source_, n, band, channel, beside, offset, taps);
      for (int64_t i = 0, now; i < bands_.pixels(band); i += now) {
        now = product.next(bands_.pixels(band) - i);
        A* const to = sums + i * width;
        product(now, {taps + i * panel.numbers(), panel.numbers(), 1, panel.numbers(), weights.at(block, 0), width},
                {to, width}, {to, width});
      }
      return;
    }
    for (int64_t t = 0; t < branch.taps(); t += beside) {
      const TapOffset tap = weights.offset(branch, t);
      bands_.for_columns(tap, beside, [&](const TapColumns& columns) {
        const int64_t count = columns.taps * sources, at_once = ceil_div(count, ceil_div(count, together));
        const A* const factors = weights.at(block, t + columns.first_tap);
        for (int64_t s = 0; s < count; s += at_once) {
          const auto add = [&](const TapRun& run) {
            const int64_t pitch = run.source_step * source_.pitch(), to_pitch = run.target_step * width;
            const A* from = source_.at(n, run.source) + channel + s;
            A* to = sums + (run.target - first_pixel) * width;
            for (int64_t left = run.count, now; left > 0; left -= now, from += now * pitch, to += now * to_pitch) {
              now = product.next(left);
              product(now, {from, pitch, 1, least(at_once, count - s), factors + s * width, width}, {to, to_pitch},
                      {to, to_pitch});
            }
          };
          bands_.for_rows(band, tap, [&](const TapRows& rows) {
            if (columns.count == 1)
              add(bands_.run_of_column(rows, columns));
            else
              bands_.for_runs(rows, columns, add);
          });
        }
      });
    }
  }

  // Strided gradients give targets different taps: no panels, and none beside each other.
  bool takes_panel(int64_t taps, int64_t sources) const {
    const bool all_taps = bands_.depth.step == 1 && bands_.height.step == 1 && bands_.width.step == 1;
    return all_taps && TapPanel<A>::pays(taps, sources);
  }
  bool by_panel(int64_t b) const { return takes_panel(args_.branches.branch[b].taps(), weights_[b].sources()); }
  TapPanel<A> panel(int64_t b) const { return {bands_, args_.branches.branch[b].taps(), weights_[b].sources()}; }

  // How many neighbouring taps one product takes: a row's, where their sources lie beside each other and are few.
  int64_t taps_beside(int64_t b) const {
    const ContextBranch& branch = args_.branches.branch[b];
    const bool neighbours =
        branch.dilation[X] == 1 && bands_.width.step == 1 && source_.pitch() == weights_[b].sources();
    return neighbours && weights_[b].sources() <= few_sources ? branch.kernel[X] : 1;
  }

  const ContextConv& args_;
  const Pixels<T>& source_;
  bool transposed_, stream_;
  ImageBands bands_;
  BranchWeights<T> weights_[ContextBranches::most];
  int64_t blocks_ = 0, weight_tasks_ = 0;
  int64_t panel_size_ = 0;
  A *sums_ = nullptr, *panels_ = nullptr;
};

}  // namespace fastseg::FASTSEG_ISA
