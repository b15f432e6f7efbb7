// The bilateral weighted median on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one
// that the processor has.
//
// Floors: src, guide and mask read once, dst written once, a tenth of a millisecond for a small photograph; and for
// each pixel of the mask (2 radius + 1)^2 weights, of about 30 operations by a colour guide, most of them the
// exponential. Operations decide by far. To select then takes some passes over the window of 6 operations a number,
// about as many in all (weighted_median_select.h). At radius 9 these are 24 vectors of AVX-512, so that a pixel has a
// floor of about 24 * (30 + 2 * 6) operations: 0.13 us at two a cycle.
//
// Images are converted once to the type computed in, in rows that are near the mask. Then threads take short pieces of
// rows. Every pixel is a sum over its own window in a fixed order: results do not depend on the number of threads.
#include "fastseg/weighted_median.h"

#include "fastseg/cpu/memory.h"
#include "fastseg/cpu/phases.h"
#include "fastseg/cpu/pixels.h"
#include "fastseg/cpu/subnormals.h"
#include "weighted_median_window.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t together = 4;  // channels whose windows are weighed once
constexpr int64_t piece = 32;    // pixels of a row that are one task

template <class T>
class Median {
 public:
  using A = compute_t<T>;

  Median(const WeightedMedian& args, int threads)
      : args_(args),
        radius_(args.radius < longer() ? args.radius : longer()),
        spatial_(radius_, args.sigma_space),
        channels_(args.channels < together ? args.channels : together),
        given_(args.weights.data == nullptr       ? 0
               : args.weights.channel_stride == 0 ? 1
                                                  : channels_),
        pitch_(args.width + lanes<A>),
        plane_(rounded_up(args.height * pitch_, lanes<A>)),
        memory_((args.guide_channels + given_ + channels_) * plane_ * int64_t(sizeof(A))),
        filtered_(args.height),
        windows_(threads * Window<A>::elements(radius_)),
        guide_{static_cast<A*>(memory_.data()), plane_, pitch_},
        weights_{guide_.data + args.guide_channels * plane_, plane_, pitch_},
        values_{reinterpret_cast<Ordered<A>*>(weights_.data + given_ * plane_), plane_, pitch_} {}

  // Three for each group of channels: copy src, convert the rows that windows reach, filter.
  int64_t phases() const { return 3 * args_.batch * groups(); }
  int64_t tasks(int64_t phase) const { return phase % 3 == 2 ? args_.height * pieces() : args_.height; }

  void run(int64_t phase, int64_t task, int thread) const {
    const int64_t n = phase / 3 / groups(), first = phase / 3 % groups() * together;
    const int64_t count = first + together < args_.channels ? together : args_.channels - first;
    if (phase % 3 == 0)
      copy(n, first, count, task);
    else if (phase % 3 == 1)
      convert(n, first, count, task);
    else
      filter(n, first, count, task / pieces(), task % pieces() * piece,
             Window<A>(radius_, windows_.get() + thread * Window<A>::elements(radius_)));
  }

 private:
  int64_t longer() const { return (args_.height > args_.width ? args_.height : args_.width) - 1; }
  int64_t groups() const { return (args_.channels + together - 1) / together; }
  int64_t pieces() const { return (args_.width + piece - 1) / piece; }

  template <class N>
  N* line(const Images& images, int64_t n, int64_t c, int64_t y) const {
    return static_cast<N*>(images.data) + n * images.batch_stride + c * images.channel_stride + y * args_.width;
  }
  bool wanted(int64_t n, int64_t c, int64_t y, int64_t x) const {
    return args_.mask.data == nullptr || line<uint8_t>(args_.mask, n, c, y)[x];
  }

  void copy(int64_t n, int64_t first, int64_t count, int64_t y) const {
    bool any = args_.mask.data == nullptr;
    for (int64_t c = first; c < first + count; ++c) {
      std::memcpy(line<T>(args_.dst, n, c, y), line<T>(args_.src, n, c, y), size_t(args_.width) * sizeof(T));
      for (int64_t x = 0; args_.mask.data && x < args_.width; ++x) any |= wanted(n, c, y, x);
    }
    filtered_[y] = any;
  }

  void convert(int64_t n, int64_t first, int64_t count, int64_t y) const {
    bool reached = false;
    for (int64_t row = y > radius_ ? y - radius_ : 0; row <= y + radius_ && row < args_.height; ++row)
      reached |= filtered_[row];
    if (!reached) return;
    with_pixel(args_.guide.type, [&](auto pixel) {
      using G = decltype(pixel);
      for (int64_t c = 0; c < args_.guide_channels; ++c) {
        const G* from = line<G>(args_.guide, n, c, y);
        A* to = guide_.row(c, y);
        for (int64_t x = 0; x < args_.width; ++x) to[x] = A(load_one(from + x));
      }
    });
    for (int64_t c = 0; c < (given_ < count ? given_ : count); ++c)
      std::memcpy(weights_.row(c, y), line<A>(args_.weights, n, first + c, y), size_t(args_.width) * sizeof(A));
    for (int64_t c = 0; c < count; ++c) {
      const ImageRows<T> from{line<T>(args_.src, n, first + c, 0), args_.height, args_.width};
      for (int64_t x = 0; x < args_.width; x += lanes<A>)
        store_ordered<A>(values_.row(c, y) + x, to_ordered<A>(from.read(y, x)));
    }
  }

  void filter(int64_t n, int64_t first, int64_t count, int64_t y, int64_t begin, Window<A> window) const {
    if (!filtered_[y]) return;
    const SubnormalsAreZero mode;  // of weights; values are integers here, and keep theirs
    const A scale = A(1 / (args_.sigma_color * args_.sigma_color));
    Ordered<A> guess[together];
    for (int64_t c = 0; c < count; ++c) guess[c] = values_.row(c, y)[begin];
    for (int64_t x = begin; x < begin + piece && x < args_.width; ++x) {
      bool weighed = false;
      for (int64_t c = 0; c < count; ++c) {
        if (!wanted(n, first + c, y, x)) continue;
        if (!weighed) window.place(y, x, args_.height, args_.width);
        if (!weighed && args_.guide_channels == 1)
          window.template find_exponents<1>(guide_, scale, spatial_);
        else if (!weighed)
          window.template find_exponents<3>(guide_, scale, spatial_);
        window.take_values(values_, c);
        if (given_ == 0 && !weighed)
          window.find_weights();
        else if (given_ > 1 || !weighed)
          window.find_weights(weights_, given_ > 1 ? c : 0);
        weighed = true;
        if (!window.weighs()) continue;  // the pixel stays as it is
        guess[c] = window.median(guess[c]);
        store_one(line<T>(args_.dst, n, first + c, y) + x, from_ordered<A>(guess[c]));
      }
    }
  }

  const WeightedMedian& args_;
  int64_t radius_;
  SpatialExponents<A> spatial_;
  int64_t channels_, given_;  // images of values and of weights in memory
  int64_t pitch_, plane_;
  cpu::Block memory_;
  Scratch<bool> filtered_;  // rows that have a pixel of the mask
  Scratch<A> windows_;      // of each thread
  Planes<A> guide_, weights_;
  Planes<Ordered<A>> values_;
};

}  // namespace

void weighted_median(const WeightedMedian& args, int threads) {
  with_pixel(args.src.type, [&](auto pixel) {
    const Median<decltype(pixel)> median(args, threads);
    parallel_phases(
        threads, median.phases(), [&](int64_t phase) { return median.tasks(phase); },
        [&](int64_t phase, int64_t task, int thread) { median.run(phase, task, thread); });
  });
}

}  // namespace fastseg::FASTSEG_ISA
