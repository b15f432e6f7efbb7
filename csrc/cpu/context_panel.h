// What all taps find of few channels, beside each other: products tap by tap would be too short.
#pragma once
#include <utility>

#include "context_packed.h"
#include "context_taps.h"

namespace fastseg::FASTSEG_ISA {

// N numbers of each of `count` pixels.
template <int N, class A>
inline void copy_numbers(const A* from, int64_t from_pitch, int64_t count, A* to, int64_t to_pitch) {
  for (; count > 0; --count, from += from_pitch, to += to_pitch) std::memcpy(to, from, N * sizeof(A));
}

template <class A>
class TapPanel {
 public:
  // Numbers a pixel, at most: a product takes them at once.
  static constexpr int64_t most_numbers = 128;

  TapPanel(const ImageBands& bands, int64_t taps, int64_t channels) : bands_(bands), taps_(taps), channels_(channels) {}

  static bool pays(int64_t taps, int64_t channels) { return taps > 1 && taps * channels <= most_numbers; }
  // Of a pixel; and of a band, with what groups of inputs read behind it.
  int64_t numbers() const { return taps_ * channels_; }
  int64_t size() const { return bands_.most_pixels() * numbers() + most_inputs_together; }

  // A band of image n, from channel number `channel` on, as [pixels][taps][channels], zeros on padding; offset(tap) is
  // where the sources of a tap lie. Sources of `beside` neighbouring taps lie beside each other.
  template <class T, class Offset>
  void fill(const Pixels<T>& source, int64_t n, int64_t band, int64_t channel, int64_t beside, const Offset& offset,
            A* panel) const {
    const int64_t pitch = numbers(), width = bands_.width.targets, first_row = bands_.first_row(band);
    for (int64_t t = 0; t < taps_; t += beside) {
      const TapOffset tap = offset(t);
      const AxisRun whole = bands_.whole_columns(tap, beside);
      for (int64_t row = first_row; row < bands_.end_row(band); ++row) {
        A* const to = panel + (row - first_row) * width * pitch + t * channels_;
        const auto clear = [&](int64_t begin, int64_t end) {
          for (int64_t x = begin; x < end; ++x)
            for (int64_t i = 0; i < beside * channels_; ++i) to[x * pitch + i] = 0;
        };
        const int64_t source_row = bands_.source_row(row, tap);
        if (source_row < 0) {
          clear(0, width);
          continue;
        }
        clear(0, whole.first);
        clear(whole.end(), width);
        bands_.for_columns(tap, beside, [&](const TapColumns& columns) {
          copy(source.at(n, source_row * bands_.width.sources + columns.source) + channel,
               bands_.width.pace * source.pitch(), columns.taps * channels_, columns.count,
               to + columns.first * pitch + columns.first_tap * channels_, pitch);
        });
      }
    }
  }

 private:
  static constexpr int most_copied = 16;
  using Copy = void (*)(const A*, int64_t, int64_t, A*, int64_t);

  template <int... I>
  static const Copy* copies_of(std::integer_sequence<int, I...>) {
    static constexpr Copy of[] = {copy_numbers<I + 1, A>...};
    return of;
  }
  static void copy(const A* from, int64_t from_pitch, int64_t numbers, int64_t count, A* to, int64_t to_pitch) {
    const Copy* const copies = copies_of(std::make_integer_sequence<int, most_copied>{});
    for (int64_t i = 0; i < numbers; i += most_copied)
      copies[least(numbers - i, most_copied) - 1](from + i, from_pitch, count, to + i, to_pitch);
  }

  const ImageBands& bands_;
  int64_t taps_, channels_;
};

}  // namespace fastseg::FASTSEG_ISA
