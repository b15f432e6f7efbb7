// Matching costs and the census transform on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls
// the best one that the processor has.
//
// Floor: the volume written once, 4 bytes a cost, or 2. Both images are read once for each of two phases; they, their
// grey images and the planes of a band of rows are small. Computing is below the store (matching_cost_rows.h), so what
// decides is how the volume is written: with streaming stores of whole lines, where it is large. Costs of a band of
// rows are made for some disparities in a buffer in the second-level cache; there they have the order of the volume, so
// that what is copied out are long runs, one a disparity, whose lines are whole but for the first and the last. There
// are two buffers: one is copied out, a little at a time, while costs are made in the other.
//
// Census: `bits` comparisons a pixel, with neighbours that are loaded from the first-level cache; 2 instructions each.
//
// Tasks are bands of rows, cut by shape alone. No cost depends on any other one: results do not depend on the number
// of threads.
#include "fastseg/matching_cost.h"

#include "fastseg/cpu/memory.h"
#include "fastseg/cpu/phases.h"
#include "matching_cost_planes.h"
#include "matching_cost_writer.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t band_elements = int64_t(1) << 15;  // of a buffer: an eighth of a second-level cache of 1 MB
constexpr int64_t most_rows = 16;

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

template <class Terms>
class Volume {
 public:
  explicit Volume(const MatchingCost& args)
      : args_(args), planes_(args), disparities_(least(most_disparities, args.disparities)) {
    const int64_t width = args.width, fitting = band_elements / width;
    if (fitting < disparities_) disparities_ = fitting < 4 ? least(4, disparities_) : fitting;
    rows_ = fitting / disparities_;
    rows_ = least(rows_ < 1 ? 1 : rows_ > most_rows ? most_rows : rows_, args.height);
    // Tasks of several bands, for the last buffer of a task is written at once; many tasks, for threads to share.
    const int64_t all = args.batch * bands();
    bands_ = all < 64 ? 1 : all < 256 ? all / 32 : 8;
    // Buffers start on different lines of a page.
    run_pitch_ = blocks(rows_ * width + lanes<float>, 16) * 16 + 16;
  }

  // Of all images left and right, and of one thread, in elements.
  int64_t grey_elements() const { return planes_.grey_elements(); }
  int64_t thread_elements() const {
    return rows_ * planes_.row_elements() + 2 * disparities_ * run_pitch_ + 2 * args_.width;
  }
  int64_t bands() const { return blocks(args_.height, rows_); }

  int64_t phases() const { return 1 + planes_.has_grey; }
  int64_t tasks(int64_t phase) const {
    return phase < phases() - 1 ? planes_.grey_tasks() : blocks(args_.batch * bands(), bands_);
  }

  void run(int64_t phase, int64_t task, float* grey, float* scratch, bool stream) const {
    if (phase < phases() - 1) return planes_.write_grey(grey, task, scratch);
    const int64_t row_elements = planes_.row_elements();
    RunWriter pending;  // of one buffer, while costs are made in the other
    int64_t made = 0;
    const int64_t plane = args_.height * args_.width;
    const int64_t end = least((task + 1) * bands_, args_.batch * bands());
    for (int64_t band = task * bands_; band < end; ++band) {
      const int64_t n = band / bands(), first = band % bands() * rows_, rows = least(rows_, args_.height - first);
      for (int64_t r = 0; r < rows; ++r) planes_.prepare(grey, n, first + r, scratch + r * row_elements);
      for (int64_t i = 0; i < args_.disparities; i += disparities_, ++made) {
        const int64_t count = least(disparities_, args_.disparities - i);
        float* buffer = scratch + rows_ * row_elements + made % 2 * disparities_ * run_pitch_;
        for (int64_t r = 0; r < rows; ++r)
          row_costs<Terms>(planes_.row(scratch + r * row_elements), planes_.factors(), args_.min_disparity + i, count,
                           buffer + r * args_.width, run_pitch_, [&] { pending.step(count); });
        pending.finish();
        pending =
            RunWriter(args_, stream, buffer, run_pitch_, (n * args_.disparities + i) * plane + first * args_.width,
                      plane, count, rows * args_.width);
      }
    }
    pending.finish();
    if (stream) stream_fence();
  }

 private:
  const MatchingCost& args_;
  CostPlanes<Terms> planes_;
  int64_t disparities_, rows_, bands_;  // disparities and rows at a time, bands of rows of a task
  int64_t run_pitch_;
};

}  // namespace

void census_transform(const CensusTransform& args, int threads) {
  const Census census(args.window_rows, args.window_columns);
  const int64_t grey_elements = args.batch * args.height * GreyImages::pitch(args.width);
  const int64_t line = GreyImages::pitch(args.width), words = blocks(census.bits(), 64);
  const cpu::Block memory((grey_elements + threads * 2 * line) * int64_t(sizeof(float)));
  const GreyImages grey{static_cast<float*>(memory.data()), args.height, args.width};
  const int64_t per_image = grey.bands();
  parallel_phases(
      threads, 2, [&](int64_t) { return args.batch * per_image; },
      [&](int64_t phase, int64_t task, int thread) {
        float* scratch = grey.data + grey_elements + thread * 2 * line;
        const int64_t n = task / per_image, band = task % per_image;
        if (phase == 0) return grey.write_band(args.image, args.channels, n, n, band, scratch);
        uint32_t *low = reinterpret_cast<uint32_t*>(scratch), *high = low + line;
        const int64_t last = least((band + 1) * grey.band_rows, args.height);
        for (int64_t y = band * grey.band_rows; y < last; ++y) {
          for (int64_t w = 0; w < words; ++w) {
            uint64_t* to = args.words + ((n * words + w) * args.height + y) * args.width;
            census.write_half(grey, n, y, 2 * w, low);
            if (2 * w + 1 < census.halves()) {
              census.write_half(grey, n, y, 2 * w + 1, high);
              for (int64_t x = 0; x < args.width; ++x) to[x] = uint64_t(high[x]) << 32 | low[x];
            } else {
              for (int64_t x = 0; x < args.width; ++x) to[x] = low[x];
            }
          }
        }
      });
}

void matching_cost(const MatchingCost& args, int threads, bool stream) {
  with_cost_terms(args, [&](auto terms) {
    const Volume<decltype(terms)> volume(args);
    const int64_t most = volume.tasks(volume.phases() - 1);
    const int used = threads < most ? threads : int(most);
    const int64_t grey = volume.grey_elements(), own = blocks(volume.thread_elements(), 16) * 16;
    const cpu::Block memory((grey + used * own) * int64_t(sizeof(float)));
    float* data = static_cast<float*>(memory.data());
    parallel_phases(
        used, volume.phases(), [&](int64_t phase) { return volume.tasks(phase); },
        [&](int64_t phase, int64_t task, int thread) {
          volume.run(phase, task, data, data + grey + thread * own, stream);
        });
  });
}

}  // namespace fastseg::FASTSEG_ISA
