// The fast global smoother on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that
// the processor has.
//
// Floor: src and the guide read once, dst written once. An iteration is two passes, along rows and along columns; each
// reads the image and the weights and writes the image (12 bytes a pixel, from the outer caches while an image and its
// weights fit there). A pass has 2 divisions and 3 additions and multiplications for the factors, and 6 for each
// channel; to transpose rows to lanes and back takes about as many instructions again. The latency of the recurrences
// decides, and after it the caches: see fast_global_smoother_lines.h.
//
// Between passes the image lies in bundles of columns: a pass along columns works in place on one contiguous bundle,
// and a pass along rows reads contiguous pieces of as many rows. No line's arithmetic depends on any other line, so
// results do not depend on the number of threads.
#include "fastseg/fast_global_smoother.h"

#include "fast_global_smoother_weights.h"
#include "fastseg/cpu/memory.h"
#include "fastseg/cpu/phases.h"
#include "fastseg/cpu/subnormals.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Channels whose images are in flight at a time share the factors; more would only leave the caches.
constexpr int64_t work_bytes = int64_t(16) << 20;

// Sizes of the scratch memory of one image, in elements.
template <class A>
struct Plan {
  int64_t height, width, rows, columns;  // rows and columns are padded to whole bundles
  int64_t pitch;                         // between column bundles; rows more than there are, off the powers of two
  int64_t channels;                      // in flight at a time
  int64_t line;                          // a bundle of the longest lines

  explicit Plan(const FastGlobalSmoother& args)
      : height(args.height),
        width(args.width),
        rows(rounded_up(height, bundle<A>)),
        columns(rounded_up(width, bundle<A>)),
        pitch((rows + 5) * bundle<A>),
        line((rows > columns ? rows : columns) * bundle<A>) {
    const int64_t fitting = work_bytes / (image() * int64_t(sizeof(A)));
    channels = fitting < 1 ? 1 : fitting < args.channels ? fitting : args.channels;
  }

  int64_t image() const { return columns / bundle<A> * pitch; }
  int64_t row_weights() const { return rows * columns; }
  int64_t thread() const { return 3 * line; }
  int64_t elements(int threads) const { return row_weights() + (1 + channels) * image() + threads * thread(); }
};

template <class T>
class Smoother {
 public:
  using A = compute_t<T>;

  // Of the images from first_image on; memory for as many threads as run it.
  Smoother(const FastGlobalSmoother& args, const Plan<A>& plan, A* memory, int64_t first_image)
      : args_(args),
        plan_(plan),
        first_image_(first_image),
        row_weights_(memory),
        column_weights_{row_weights_ + plan.row_weights(), plan.pitch},
        work_(column_weights_.data + plan.image()),
        thread_memory_(work_ + plan.channels * plan.image()) {}

  // Phases of one image after another: each is a pass over bundles of rows or of columns.
  int64_t phases() const { return args_.batch * phases_of_image(); }
  int64_t tasks(int64_t phase) const { return (along_rows(phase) ? plan_.rows : plan_.columns) / bundle<A>; }

  void run(int64_t phase, int64_t b, int thread) const {
    const SubnormalsAreZero mode;
    A* scratch = thread_memory_ + thread * plan_.thread();
    const int64_t n = first_image_ + phase / phases_of_image(), pass = phase % phases_of_image() - args_.adjoint;
    if (pass < 0) return weigh(n, b, scratch);
    const int64_t first = pass / passes() * plan_.channels, number = pass % passes();
    const int64_t last = first + plan_.channels < args_.channels ? first + plan_.channels : args_.channels;
    if (pass == 0 && !args_.adjoint) weigh(n, b, scratch);
    const bool reads = number == 0, writes = number == passes() - 1;
    if (along_rows(phase))
      smooth_rows(n, b, first, last, lambda(number / 2), reads, writes, scratch);
    else
      smooth_columns(n, b, first, last, lambda(number / 2), reads, writes, scratch);
  }

 private:
  int64_t passes() const { return 2 * args_.iterations; }
  // The adjoint begins with columns, whose weights need a phase before: those of a bundle come from all rows.
  int64_t phases_of_image() const {
    return args_.adjoint + (args_.channels + plan_.channels - 1) / plan_.channels * passes();
  }
  bool along_rows(int64_t phase) const { return phase % phases_of_image() % 2 == 0; }

  A lambda(int64_t iteration) const {
    double lambda = args_.lambda;
    if (args_.adjoint) iteration = args_.iterations - 1 - iteration;
    for (int64_t i = 0; i < iteration; ++i) lambda *= args_.attenuation;
    return A(lambda);
  }

  void weigh(int64_t n, int64_t b, A* scratch) const {
    GuideLines<A> guide(args_.guide, n, args_.guide_channels, plan_.height, plan_.width, plan_.columns);
    weigh_rows(guide, b * bundle<A>, plan_.height, plan_.width, A(args_.sigma), scratch,
               row_weights_ + b * plan_.columns * bundle<A>, column_weights_);
  }

  // The first pass reads src, the last one writes dst.
  void smooth_rows(int64_t n, int64_t b, int64_t first, int64_t last, A lambda, bool reads, bool writes,
                   A* scratch) const {
    A *lines = scratch, *gain = lines + plan_.line, *carry = gain + plan_.line;
    const int64_t row = b * bundle<A>;
    const Solver<A> solver(row_weights_ + row * plan_.columns, plan_.width, lambda, last - first > 1, gain, carry);
    for (int64_t c = first; c < last; ++c) {
      if (reads)
        rows_to_bundle(rows(args_.src, n, c), row, plan_.columns, lines);
      else
        rows_to_bundle(work(c - first), row, plan_.columns, lines);
      solver.solve(lines, c == first);
      if (writes)
        bundle_to_rows(lines, row, plan_.columns, rows(args_.dst, n, c));
      else
        bundle_to_rows(lines, row, plan_.columns, work(c - first));
    }
  }

  void smooth_columns(int64_t n, int64_t b, int64_t first, int64_t last, A lambda, bool reads, bool writes,
                      A* scratch) const {
    A *gain = scratch, *carry = gain + plan_.line;
    const int64_t column = b * bundle<A>;
    const Solver<A> solver(column_weights_.at(0, column), plan_.height, lambda, last - first > 1, gain, carry);
    for (int64_t c = first; c < last; ++c) {
      A* lines = work(c - first).at(0, column);
      if (reads) copy(rows(args_.src, n, c), work(c - first), column);
      solver.solve(lines, c == first);
      if (writes) copy(work(c - first), rows(args_.dst, n, c), column);
    }
  }

  template <class From, class To>
  void copy(const From& from, const To& to, int64_t column) const {
    for (int64_t y = 0; y < plan_.height; ++y)
      for (int64_t x = column; x < column + bundle<A>; x += lanes<A>) to.write(y, x, from.read(y, x));
  }

  ImageRows<T> rows(const Images& images, int64_t n, int64_t c) const {
    return {static_cast<T*>(images.data) + n * images.batch_stride + c * images.channel_stride, plan_.height,
            plan_.width};
  }
  ColumnBundles<A> work(int64_t c) const { return {work_ + c * plan_.image(), plan_.pitch}; }

  const FastGlobalSmoother& args_;
  const Plan<A>& plan_;
  int64_t first_image_;
  A* row_weights_;  // [row bundles][columns][bundle]
  ColumnBundles<A> column_weights_;
  A* work_;  // [channels in flight], column bundles
  A* thread_memory_;
};

}  // namespace

void fast_global_smoother(const FastGlobalSmoother& args, int threads, bool) {
  with_pixel(args.src.type, [&](auto pixel) {
    using T = decltype(pixel);
    using A = compute_t<T>;
    const Plan<A> plan(args);
    // Small images have too few bundles for all threads: they go to threads whole, as calls of their own.
    constexpr int64_t small = 256 * 256;
    if (threads > 1 && args.batch > 1 && args.height * args.width <= small) {
      const int64_t elements = rounded_up(plan.elements(1), 64);
      const cpu::Block memory(threads * elements * int64_t(sizeof(A)));
      FastGlobalSmoother one = args;
      one.batch = 1;
      parallel_phases(
          threads, 1, [&](int64_t) { return args.batch; },
          [&](int64_t, int64_t n, int thread) {
            const Smoother<T> smoother(one, plan, static_cast<A*>(memory.data()) + thread * elements, n);
            parallel_phases(
                1, smoother.phases(), [&](int64_t phase) { return smoother.tasks(phase); },
                [&](int64_t phase, int64_t task, int) { smoother.run(phase, task, 0); });
          });
      return;
    }
    const int64_t bundles = plan.line / (bundle<A> * bundle<A>);
    if (threads > bundles) threads = int(bundles);
    const cpu::Block memory(plan.elements(threads) * int64_t(sizeof(A)));
    const Smoother<T> smoother(args, plan, static_cast<A*>(memory.data()), 0);
    parallel_phases(
        threads, smoother.phases(), [&](int64_t phase) { return smoother.tasks(phase); },
        [&](int64_t phase, int64_t task, int thread) { smoother.run(phase, task, thread); });
  });
}

}  // namespace fastseg::FASTSEG_ISA
