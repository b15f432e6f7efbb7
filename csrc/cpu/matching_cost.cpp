// Matching costs and the census transform on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls
// the best one that the processor has.
//
// Floor: the volume written once, 4 bytes a cost, or 2. Both images are read once for each of two phases; they, their
// grey images and the planes of a band of rows are small. Computing is below the store (matching_cost_rows.h), so what
// decides is how the volume is written: with streaming stores of whole lines, where it is large. Costs of a band of
// rows are made for some disparities in a buffer in the second-level cache; there they have the order of the volume, so
// that what is copied out are long runs, one a disparity, whose lines are whole but for the first and the last.
//
// Census: `bits` comparisons a pixel, with neighbours that are loaded from the first-level cache; 2 instructions each.
//
// Tasks are bands of rows, cut by shape alone. No cost depends on any other one: results do not depend on the number
// of threads.
#include "fastseg/matching_cost.h"

#include "fastseg/cpu/memory.h"
#include "fastseg/cpu/phases.h"
#include "matching_cost_census.h"
#include "matching_cost_rows.h"
#include "matching_cost_writer.h"

namespace fastseg::FASTSEG_ISA {
namespace {

constexpr int64_t band_elements = int64_t(1) << 15;  // of a buffer: an eighth of a second-level cache of 1 MB
constexpr int64_t most_rows = 16;
constexpr int64_t grey_rows = 16;  // of a task that makes grey images, or census words

int64_t least(int64_t a, int64_t b) { return a < b ? a : b; }
int64_t blocks(int64_t count, int64_t size) { return (count + size - 1) / size; }

// Grey rows of the images of a phase, a band a task.
void write_grey(const GreyImages& grey, const Images& images, int64_t channels, int64_t n, int64_t image, int64_t band,
                float* scratch) {
  const int64_t last = least((band + 1) * grey_rows, grey.height);
  for (int64_t y = band * grey_rows; y < last; ++y) grey.write_row(images, channels, n, image, y, scratch);
}

template <class Terms>
class Volume {
 public:
  explicit Volume(const MatchingCost& args)
      : args_(args),
        factors_(args, grey_scale(args.channels)),
        census_(args.window_rows, args.window_columns),
        disparities_(least(most_disparities, args.disparities)) {
    const int64_t width = args.width, fitting = band_elements / width;
    if (fitting < disparities_) disparities_ = fitting < 4 ? least(4, disparities_) : fitting;
    rows_ = fitting / disparities_;
    rows_ = least(rows_ < 1 ? 1 : rows_ > most_rows ? most_rows : rows_, args.height);
    // Tasks of several bands, for the last buffer of a task is written at once; many tasks, for threads to share.
    const int64_t all = args.batch * bands();
    bands_ = all < 64 ? 1 : all < 256 ? all / 32 : 8;
    // Whole steps of the census, and what row_costs reads beyond; buffers start on different lines of a page.
    pitch_ = blocks(width + lanes<float>, GreyImages::step) * GreyImages::step + 2 * side;
    run_pitch_ = blocks(rows_ * width + lanes<float>, 16) * 16 + 16;
  }

  // Of all images left and right, and of one thread, in elements.
  int64_t grey_elements() const {
    return has_grey ? 2 * args_.batch * args_.height * GreyImages::pitch(args_.width) : 0;
  }
  int64_t thread_elements() const { return rows_ * row_elements() + 2 * disparities_ * run_pitch_ + 2 * args_.width; }
  int64_t bands() const { return blocks(args_.height, rows_); }

  int64_t phases() const { return 1 + has_grey; }
  int64_t tasks(int64_t phase) const {
    return phase < phases() - 1 ? 2 * args_.batch * blocks(args_.height, grey_rows)
                                : blocks(args_.batch * bands(), bands_);
  }

  void run(int64_t phase, int64_t task, float* grey_data, float* scratch, bool stream) const {
    const GreyImages grey{grey_data, args_.height, args_.width};
    if (phase < phases() - 1) {
      const int64_t per_image = blocks(args_.height, grey_rows), image = task / per_image;
      return write_grey(grey, image % 2 ? args_.right : args_.left, args_.channels, image / 2, image, task % per_image,
                        scratch);
    }
    RunWriter pending;  // of one buffer, while costs are made in the other
    int64_t made = 0;
    const int64_t plane = args_.height * args_.width;
    const int64_t end = least((task + 1) * bands_, args_.batch * bands());
    for (int64_t band = task * bands_; band < end; ++band) {
      const int64_t n = band / bands(), first = band % bands() * rows_, rows = least(rows_, args_.height - first);
      for (int64_t r = 0; r < rows; ++r) prepare(grey, n, first + r, scratch + r * row_elements());
      for (int64_t i = 0; i < args_.disparities; i += disparities_, ++made) {
        const int64_t count = least(disparities_, args_.disparities - i);
        float* buffer = scratch + rows_ * row_elements() + made % 2 * disparities_ * run_pitch_;
        for (int64_t r = 0; r < rows; ++r)
          row_costs<Terms>(row(scratch + r * row_elements()), factors_, args_.min_disparity + i, count,
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
  static constexpr bool has_grey = Terms::gradient || Terms::halves > 0;
  static constexpr int64_t side = (most_disparities + lanes<float> + 15) / 16 * 16;

  // Planes of the base image, of the other one, and the costs outside; pixel 0 lies at `side`.
  int64_t row_elements() const { return (2 * Terms::planes + 1) * pitch_; }
  CostRow row(float* memory) const {
    float* base = memory + side;
    return {base,        base + Terms::planes * pitch_, base + 2 * Terms::planes * pitch_, pitch_,
            args_.width, args_.right_view ? -1 : 1};
  }

  void prepare(const GreyImages& grey, int64_t n, int64_t y, float* memory) const {
    for (int i = 0; i < 2; ++i) {
      const bool right = args_.right_view != (i == 1);
      const Images& images = right ? args_.right : args_.left;
      float* plane = memory + side + i * Terms::planes * pitch_;
      for (int c = 0; c < Terms::colours; ++c, plane += pitch_) read_row(images, n, c, y, args_.width, plane);
      const int64_t image = 2 * n + right;
      if constexpr (Terms::gradient) {
        write_gradient(grey.row(image, y), plane);
        plane += pitch_;
      }
      for (int h = 0; h < Terms::halves; ++h, plane += pitch_) {
        if (h < census_.halves())
          census_.write_half(grey, image, y, h, reinterpret_cast<uint32_t*>(plane));
        else
          std::memset(plane, 0, size_t(args_.width) * sizeof(float));
      }
    }
    const CostRow made = row(memory);
    outside_costs<Terms>(made, factors_, memory + side + 2 * Terms::planes * pitch_);
  }

  // Twice the gradient, one-sided at the sides.
  void write_gradient(const float* grey, float* to) const {
    const int64_t width = args_.width;
    for (int64_t x = 0; x < width; ++x) to[x] = grey[x + 1] - grey[x - 1];
    to[0] *= 2;  // the numbers at the sides go on beyond them
    to[width - 1] *= 2;
  }

  const MatchingCost& args_;
  CostFactors factors_;
  Census census_;
  int64_t disparities_, rows_, bands_;  // disparities and rows at a time, bands of rows of a task
  int64_t pitch_, run_pitch_;
};

}  // namespace

void census_transform(const CensusTransform& args, int threads) {
  const Census census(args.window_rows, args.window_columns);
  const int64_t grey_elements = args.batch * args.height * GreyImages::pitch(args.width);
  const int64_t line = GreyImages::pitch(args.width), words = blocks(census.bits(), 64);
  const cpu::Block memory((grey_elements + threads * 2 * line) * int64_t(sizeof(float)));
  const GreyImages grey{static_cast<float*>(memory.data()), args.height, args.width};
  const int64_t per_image = blocks(args.height, grey_rows);
  parallel_phases(
      threads, 2, [&](int64_t) { return args.batch * per_image; },
      [&](int64_t phase, int64_t task, int thread) {
        float* scratch = grey.data + grey_elements + thread * 2 * line;
        const int64_t n = task / per_image, band = task % per_image;
        if (phase == 0) return write_grey(grey, args.image, args.channels, n, n, band, scratch);
        uint32_t *low = reinterpret_cast<uint32_t*>(scratch), *high = low + line;
        const int64_t last = least((band + 1) * grey_rows, args.height);
        for (int64_t y = band * grey_rows; y < last; ++y) {
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
