// The fast global smoother on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that
// the processor has.
//
// Floor: src and the guide read once, dst written once. An iteration is two passes, along rows and along columns; each
// reads an image and the weights and writes the image (12 bytes a pixel, from the outer caches while an image and its
// weights fit there). A pass is 3 divisions and additions for the factors, and 6 additions and multiplications a
// channel; transposing rows to lanes and back takes as many instructions again. So it is bound by the latency of the
// recurrences first, and by the caches after: see fast_global_smoother_lines.h.
//
// Between passes the image lies in bundles of columns: a pass along columns works in place on one contiguous bundle,
// and a pass along rows reads contiguous pieces of as many rows. No line's arithmetic depends on any other line, so
// results do not depend on the number of threads.
#include "fastseg/fast_global_smoother.h"

#include "fast_global_smoother_weights.h"
#include "fastseg/cpu/memory.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// Channels whose images are in flight at a time share the factors; more would only leave the caches.
constexpr int64_t work_bytes = int64_t(16) << 20;

int64_t rounded_up(int64_t value, int64_t to) { return (value + to - 1) / to * to; }

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

  Smoother(const FastGlobalSmoother& args, const Plan<A>& plan, A* memory, int threads)
      : args_(args),
        plan_(plan),
        threads_(threads),
        row_weights_(memory),
        column_weights_{row_weights_ + plan.row_weights(), plan.pitch},
        work_(column_weights_.data + plan.image()),
        thread_memory_(work_ + plan.channels * plan.image()) {}

  void smooth(int64_t n) {
    if (args_.adjoint) each_bundle(plan_.rows, [&](int64_t b, A* scratch) { weigh(n, b, scratch); });
    for (int64_t first = 0; first < args_.channels; first += plan_.channels)
      smooth_channels(n, first, first + plan_.channels < args_.channels ? first + plan_.channels : args_.channels);
  }

 private:
  // body(bundle, scratch) for every bundle, with scratch of the thread's own.
  template <class Body>
  void each_bundle(int64_t lines, const Body& body) {
    const int64_t bundles = lines / bundle<A>;
    parallel_spans(threads_, threads_, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        for (int64_t b = bundles * t / threads_; b < bundles * (t + 1) / threads_; ++b)
          body(b, thread_memory_ + t * plan_.thread());
    });
  }

  void weigh(int64_t n, int64_t b, A* scratch) {
    GuideLines<A> guide(args_.guide, n, args_.guide_channels, plan_.height, plan_.width, plan_.columns);
    weigh_rows(guide, b * bundle<A>, plan_.height, plan_.width, A(args_.sigma), scratch,
               row_weights_ + b * plan_.columns * bundle<A>, column_weights_);
  }

  void smooth_channels(int64_t n, int64_t first, int64_t last) {
    const int64_t passes = 2 * args_.iterations;
    for (int64_t pass = 0; pass < passes; ++pass) {
      const int64_t iteration = args_.adjoint ? args_.iterations - 1 - pass / 2 : pass / 2;
      double lambda = args_.lambda;
      for (int64_t i = 0; i < iteration; ++i) lambda *= args_.attenuation;
      const bool reads = pass == 0, writes = pass == passes - 1;
      if ((pass % 2 == 0) != args_.adjoint)
        along_rows(n, first, last, A(lambda), reads, writes);
      else
        along_columns(n, first, last, A(lambda), reads, writes);
    }
  }

  // The first pass reads src, the last one writes dst.
  void along_rows(int64_t n, int64_t first, int64_t last, A lambda, bool reads, bool writes) {
    each_bundle(plan_.rows, [&](int64_t b, A* scratch) {
      A *lines = scratch, *gain = lines + plan_.line, *carry = gain + plan_.line;
      const int64_t row = b * bundle<A>;
      if (reads && first == 0) weigh(n, b, scratch);
      factorise(row_weights_ + row * plan_.columns, plan_.width, lambda, gain, carry);
      for (int64_t c = first; c < last; ++c) {
        if (reads)
          rows_to_bundle(rows(args_.src, n, c), row, plan_.columns, lines);
        else
          rows_to_bundle(work(c - first), row, plan_.columns, lines);
        solve(lines, plan_.width, gain, carry);
        if (writes)
          bundle_to_rows(lines, row, plan_.columns, rows(args_.dst, n, c));
        else
          bundle_to_rows(lines, row, plan_.columns, work(c - first));
      }
    });
  }

  void along_columns(int64_t n, int64_t first, int64_t last, A lambda, bool reads, bool writes) {
    each_bundle(plan_.columns, [&](int64_t b, A* scratch) {
      A *gain = scratch, *carry = gain + plan_.line;
      const int64_t column = b * bundle<A>;
      factorise(column_weights_.at(0, column), plan_.height, lambda, gain, carry);
      for (int64_t c = first; c < last; ++c) {
        A* lines = work(c - first).at(0, column);
        if (reads) copy(rows(args_.src, n, c), work(c - first), column);
        solve(lines, plan_.height, gain, carry);
        if (writes) copy(work(c - first), rows(args_.dst, n, c), column);
      }
    });
  }

  template <class From, class To>
  void copy(const From& from, const To& to, int64_t column) {
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
  int threads_;
  A* row_weights_;  // [row bundles][columns][bundle]
  ColumnBundles<A> column_weights_;
  A* work_;  // [channels in flight], column bundles
  A* thread_memory_;
};

}  // namespace

void fast_global_smoother(const FastGlobalSmoother& args, int threads, bool) {
  with_pixel(args.src.type, [&](auto pixel) {
    using T = decltype(pixel);
    const Plan<compute_t<T>> plan(args);
    // Small images have too few bundles for all threads: they go to threads whole.
    constexpr int64_t small = 256 * 256;
    const int outer = args.batch > 1 && args.height * args.width <= small ? threads : 1;
    const int inner = threads / outer;
    const int64_t elements = rounded_up(plan.elements(inner), 64);
    const cpu::Block memory(outer * elements * int64_t(sizeof(compute_t<T>)));
    parallel_spans(outer, outer, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t) {
        Smoother<T> smoother(args, plan, static_cast<compute_t<T>*>(memory.data()) + t * elements, inner);
        for (int64_t n = args.batch * t / outer; n < args.batch * (t + 1) / outer; ++n) smoother.smooth(n);
      }
    });
  });
}

}  // namespace fastseg::FASTSEG_ISA
