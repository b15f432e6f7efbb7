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
        side_by_side_(args.channels > lanes<A> / 4 && Slices::suits(rows_, columns_)),
        groups_((args.channels + Slices::group - 1) / Slices::group),
        slice_bands_(bands_of(args.height, 16 * args.radius + 16, (least_tasks + groups_ - 1) / groups_)),
        row_bands_(bands_of(args.height, 2 * args.radius + 32, most_row_bands)) {}

  void run(int threads) {
    const Planes<A> plane{nullptr, args_.height, Planes<A>::pitch_of(args_.width)};
    const int64_t pixels = plane.elements(1),
                  planes = G + Guide::values + (side_by_side_ ? minima_planes() : Image::values);
    int64_t thread = Guide::doubles(args_.width, args_.radius) * int64_t(sizeof(double));
    const int64_t filtering = side_by_side_ ? Slices::elements(rows_, columns_) * int64_t(sizeof(A))
                                            : Image::doubles(args_.width, args_.radius) * int64_t(sizeof(double));
    thread = rounded_up(thread > filtering ? thread : filtering, 4096);
    const int64_t numbers = (3 * G * args_.height + G + 1) * int64_t(sizeof(double));
    const int64_t scales = 2 * groups_ * Slices::group * int64_t(sizeof(A));
    const int64_t before = rounded_up(numbers, 64) + rounded_up(scales, 64);
    const cpu::Block memory(before + planes * pixels * int64_t(sizeof(A)) + threads * thread);
    double* row_sums = static_cast<double*>(memory.data());
    char* at = static_cast<char*>(memory.data()) + before;
    const auto take = [&](int64_t count) {
      const Planes<A> taken{reinterpret_cast<A*>(at), plane.height, plane.pitch};
      at += count * pixels * int64_t(sizeof(A));
      return taken;
    };
    double* centre = row_sums + 3 * G * args_.height;
    const GuidePlanes<G, A> guide{take(G), take(G), take(Guide::values - G), row_sums, centre, centre + G};
    const Guide statistics(args_.guide, rows_, columns_, args_.eps, guide);
    const Slices slices(args_, rows_, columns_, guide,
                        reinterpret_cast<A*>(static_cast<char*>(memory.data()) + rounded_up(numbers, 64)),
                        GroupMinima<A>(take(minima_planes())));
    const Image image(args_, rows_, columns_, guide, side_by_side_ ? Planes<A>{} : take(Image::values));
    char* scratch = at;
    bool finite[most_row_bands];  // of the channel in hand
    const int64_t filters = side_by_side_ ? args_.index ? 3 : 2 : 2 * args_.channels,
                  of_image = Guide::phases + filters;
    parallel_phases(
        threads, args_.batch * of_image, [&](int64_t phase) { return tasks(phase % of_image - Guide::phases); },
        [&](int64_t phase, int64_t task, int number) {
          char* own = scratch + number * thread;
          double* wide = reinterpret_cast<double*>(own);
          const int64_t n = phase / of_image, filter = phase % of_image - Guide::phases;
          const int64_t bands = side_by_side_ && filter == 1 ? slice_bands_ : row_bands_, band = task % bands;
          const int64_t first = args_.height * band / bands, last = args_.height * (band + 1) / bands;
          if (filter < 0)
            statistics.run(filter + Guide::phases, n, first, last, wide);
          else if (!side_by_side_ && filter % 2 == 0)
            finite[band] = image.fit(n, filter / 2, first, last, wide);
          else if (!side_by_side_)
            image.apply(n, filter / 2, first, last, all(finite), wide);
          else if (filter == 0)
            slices.find_scale(n, task);
          else if (filter == 1)
            slices.run(n, task / bands, first, last, reinterpret_cast<A*>(own));
          else
            slices.merge(n, first, last);
        });
  }

  // Of a phase after the guide's (below zero), of one image.
  int64_t tasks(int64_t filter) const {
    if (!side_by_side_ || filter < 0 || filter == 2) return row_bands_;
    return filter == 0 ? groups_ * Slices::group : groups_ * slice_bands_;
  }

 private:
  static constexpr int64_t least_tasks = 8;  // if bands are not too short for it
  static constexpr int64_t most_row_bands = 64;

  int64_t minima_planes() const { return args_.index && side_by_side_ ? 2 * groups_ : 0; }

  bool all(const bool* bands) const {
    bool every = true;
    for (int64_t i = 0; i < row_bands_; ++i) every = every && bands[i];
    return every;
  }

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
    parallel_spans(threads, args.batch * args.height,
                   [&](int64_t begin, int64_t end) { interpolation.rows(begin, end); });
  });
}

}  // namespace fastseg::FASTSEG_ISA
