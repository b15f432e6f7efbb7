// The guided filter on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the
// processor has.
//
// Floor: src and the guide read once, dst written once (8 bytes a voxel of a float32 cost volume). The time of either
// form does not depend on the radius but for what bands of rows do twice. See guided_filter_slices.h (channels side by
// side) and guided_filter_images.h (one channel at a time) for operations, guided_filter_guide.h for the guide.
#include "fastseg/guided_filter.h"

#include "fastseg/cpu/memory.h"
#include "fastseg/cpu/phases.h"
#include "guided_filter_images.h"
#include "guided_filter_interpolate.h"
#include "guided_filter_slices.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// A number of bands that depends on the shape alone, for where sums begin decides how they round.
int64_t bands_of(int64_t height, int64_t least_rows, int64_t most) {
  const int64_t fitting = height / least_rows;
  return fitting < 1 ? 1 : fitting < most ? fitting : most;
}

template <class T, int G>
class Filter {
 public:
  using A = compute_t<T>;
  using Slices = SliceFilter<T, G>;
  using Image = ImageFilter<T, G>;
  using Guide = GuideStatistics<G, A>;

  explicit Filter(const GuidedFilter& args)
      : args_(args),
        rows_{args.height, args.radius, args.border},
        columns_{args.width, args.radius, args.border},
        side_by_side_(args.channels > lanes<A> / 4),
        groups_((args.channels + Slices::group - 1) / Slices::group),
        slice_bands_(bands_of(args.height, 16 * args.radius + 16, (least_tasks + groups_ - 1) / groups_)),
        row_bands_(bands_of(args.height, 2 * args.radius + 32, 64)) {}

  void run(int threads) {
    const Planes<A> plane{nullptr, args_.height, Planes<A>::pitch_of(args_.width)};
    const int64_t pixels = plane.elements(1), planes = (side_by_side_ ? Guide::values : Guide::values + Image::values) + G;
    int64_t thread = Guide::doubles(args_.width, args_.radius) * int64_t(sizeof(double));
    const int64_t filtering = side_by_side_ ? Slices::elements(rows_, columns_) * int64_t(sizeof(A))
                                            : Image::doubles(args_.width, args_.radius) * int64_t(sizeof(double));
    thread = rounded_up(thread > filtering ? thread : filtering, 4096);
    const int64_t sums = rounded_up(G * (args_.height + 1) * int64_t(sizeof(double)), 4096);
    const cpu::Block memory(sums + planes * pixels * int64_t(sizeof(A)) + threads * thread);
    double* row_sums = static_cast<double*>(memory.data());
    char* at = static_cast<char*>(memory.data()) + sums;
    const auto take = [&](int64_t count) {
      const Planes<A> taken{reinterpret_cast<A*>(at), plane.height, plane.pitch};
      at += count * pixels * int64_t(sizeof(A));
      return taken;
    };
    GuidePlanes<G, A> guide{take(G), take(G), take(Guide::values - G), row_sums, row_sums + G * args_.height};
    const Guide statistics(args_.guide, rows_, columns_, args_.eps, guide);
    const Slices slices(args_, rows_, columns_, guide);
    const Image image(args_, rows_, columns_, guide, side_by_side_ ? Planes<A>{} : take(Image::values));
    char* scratch = at;
    const int64_t filters = side_by_side_ ? 1 : 2 * args_.channels, of_image = Guide::phases + filters;
    parallel_phases(
        threads, args_.batch * of_image,
        [&](int64_t phase) {
          return side_by_side_ && phase % of_image >= Guide::phases ? groups_ * slice_bands_ : row_bands_;
        },
        [&](int64_t phase, int64_t task, int number) {
          char* own = scratch + number * thread;
          const int64_t n = phase / of_image, step = phase % of_image, filter = step - Guide::phases;
          const int64_t bands = side_by_side_ && filter >= 0 ? slice_bands_ : row_bands_, band = task % bands;
          const int64_t first = args_.height * band / bands, last = args_.height * (band + 1) / bands;
          if (filter < 0)
            statistics.run(step, n, first, last, reinterpret_cast<double*>(own));
          else if (side_by_side_)
            slices.run(n, task / bands, first, last, reinterpret_cast<A*>(own));
          else if (filter % 2 == 0)
            image.fit(n, filter / 2, first, last, reinterpret_cast<double*>(own));
          else
            image.apply(n, filter / 2, first, last, reinterpret_cast<double*>(own));
        });
  }

 private:
  static constexpr int64_t least_tasks = 8;  // if bands are not too short for it

  const GuidedFilter& args_;
  Axis rows_, columns_;
  bool side_by_side_;
  int64_t groups_, slice_bands_, row_bands_;
};

}  // namespace

void guided_filter(const GuidedFilter& args, int threads, bool) {
  with_pixel(args.src.type, [&](auto pixel) {
    using T = decltype(pixel);
    if (args.guide_channels == 1)
      Filter<T, 1>(args).run(threads);
    else
      Filter<T, 3>(args).run(threads);
  });
}

void guided_filter_interpolate(const GuidedFilterInterpolate& args, int threads, bool) {
  with_pixel(args.dst.type, [&](auto pixel) {
    const Interpolation<decltype(pixel)> interpolation(args);
    parallel_spans(threads, args.batch * args.channels * args.height,
                   [&](int64_t begin, int64_t end) { interpolation.rows(begin, end); });
  });
}

}  // namespace fastseg::FASTSEG_ISA
