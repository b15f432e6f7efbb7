// The planes that costs of a row are made from, for kernels that take rows in any order.
#pragma once
#include "matching_cost_census.h"
#include "matching_cost_rows.h"

namespace fastseg::FASTSEG_ISA {

template <class Terms>
class CostPlanes {
 public:
  // Gradient and census are made from grey images, which have to be there before: grey_tasks() calls of write_grey.
  static constexpr bool has_grey = Terms::gradient || Terms::halves > 0;

  explicit CostPlanes(const MatchingCost& args)
      : args_(args),
        factors_(args, grey_scale(args.channels)),
        census_(args.window_rows, args.window_columns),
        // Whole steps of the census, and what row_costs reads beyond.
        pitch_((args.width + lanes<float> + GreyImages::step - 1) / GreyImages::step * GreyImages::step + 2 * side) {}

  const CostFactors& factors() const { return factors_; }
  int64_t grey_elements() const {
    return has_grey ? 2 * args_.batch * args_.height * GreyImages::pitch(args_.width) : 0;
  }
  int64_t grey_tasks() const { return 2 * args_.batch * grey(nullptr).bands(); }
  // `scratch` is room for two rows.
  void write_grey(float* memory, int64_t task, float* scratch) const {
    const GreyImages images = grey(memory);
    const int64_t image = task / images.bands();
    images.write_band(image % 2 ? args_.right : args_.left, args_.channels, image / 2, image, task % images.bands(),
                      scratch);
  }

  // Planes of the base image, of the other one, and the costs outside; pixel 0 lies at `side`.
  int64_t row_elements() const { return (2 * Terms::planes + 1) * pitch_; }
  CostRow row(float* memory) const {
    float* base = memory + side;
    return {base,        base + Terms::planes * pitch_, base + 2 * Terms::planes * pitch_, pitch_,
            args_.width, args_.right_view ? -1 : 1};
  }

  // Row y of image n, into `row_elements` numbers.
  void prepare(float* grey_memory, int64_t n, int64_t y, float* memory) const {
    const GreyImages greys = grey(grey_memory);
    for (int i = 0; i < 2; ++i) {
      const bool right = args_.right_view != (i == 1);
      const Images& images = right ? args_.right : args_.left;
      float* plane = memory + side + i * Terms::planes * pitch_;
      for (int c = 0; c < Terms::colours; ++c, plane += pitch_) read_row(images, n, c, y, args_.width, plane);
      const int64_t image = 2 * n + right;
      if constexpr (Terms::gradient) {
        write_gradient(greys.row(image, y), plane);
        plane += pitch_;
      }
      for (int h = 0; h < Terms::halves; ++h, plane += pitch_) {
        if (h < census_.halves())
          census_.write_half(greys, image, y, h, reinterpret_cast<uint32_t*>(plane));
        else
          std::memset(plane, 0, size_t(args_.width) * sizeof(float));
      }
    }
    outside_costs<Terms>(row(memory), factors_, memory + side + 2 * Terms::planes * pitch_);
  }

 private:
  static constexpr int64_t side = (most_disparities + lanes<float> + 15) / 16 * 16;

  GreyImages grey(float* memory) const { return {memory, args_.height, args_.width}; }

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
  int64_t pitch_;
};

}  // namespace fastseg::FASTSEG_ISA
