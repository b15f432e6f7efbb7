// Grey images and their census.
//
// The census compares grey numbers, and every implementation has to find the same order: where it is computed is not to
// be seen. So grey is (299 R + 587 G) + 114 B of float32 colours, in float64, rounded to float32: the products are
// exact, so that a fused multiply-add changes nothing. Bytes are not scaled before: their grey is a whole number.
#pragma once
#include "fastseg/cpu/pixels.h"

namespace fastseg::FASTSEG_ISA {

constexpr int census_reach = 4;  // pixels from the centre to the border of the largest window
// Vectors that are compared with one neighbour after another, in registers.
constexpr int census_vectors = vector_bytes == 64 ? 8 : 4;

// Numbers of a grey row (299 + 587 + 114 of each pixel) over those of the pixels.
inline double grey_scale(int64_t channels) { return channels == 3 ? 1000.0 : 1.0; }

template <class T>
inline void convert_row(const T* from, int64_t count, float* to) {
  int64_t x = 0;
  if constexpr (!std::is_same_v<T, double>)
    for (; x + lanes<float> <= count; x += lanes<float>) store(to + x, load(from + x));
  for (; x < count; ++x) to[x] = float(load_one(from + x));
}

// Row y of a channel of image n, as float32.
inline void read_row(const Images& images, int64_t n, int64_t channel, int64_t y, int64_t width, float* to) {
  const int64_t at = n * images.batch_stride + channel * images.channel_stride + y * width;
  with_pixel(images.type,
             [&](auto pixel) { convert_row(static_cast<const decltype(pixel)*>(images.data) + at, width, to); });
}

// Grey images whose rows go on beyond their sides: as far as a window reaches with the numbers at the sides, and from
// there with anything, to whole steps of vectors.
struct GreyImages {
  float* data;
  int64_t height, width;

  static constexpr int64_t margin = 16;
  static constexpr int64_t band_rows = 16;  // of a task
  static constexpr int64_t step = census_vectors * lanes<float>;
  static int64_t pitch(int64_t width) { return (width + step - 1) / step * step + 2 * margin; }

  int64_t bands() const { return (height + band_rows - 1) / band_rows; }

  float* row(int64_t image, int64_t y) const { return data + (image * height + y) * pitch(width) + margin; }

  // Rows of a band of `image`, from image n of `images`. `colours` is room for two rows.
  void write_band(const Images& images, int64_t channels, int64_t n, int64_t image, int64_t band,
                  float* colours) const {
    for (int64_t y = band * band_rows; y < height && y < (band + 1) * band_rows; ++y)
      write_row(images, channels, n, image, y, colours);
  }

 private:
  void write_row(const Images& images, int64_t channels, int64_t n, int64_t image, int64_t y, float* colours) const {
    float* to = row(image, y);
    read_row(images, n, 0, y, width, to);
    if (channels == 3) {
      float *green = colours, *blue = colours + width;
      read_row(images, n, 1, y, width, green);
      read_row(images, n, 2, y, width, blue);
      for (int64_t x = 0; x < width; ++x) to[x] = float((299.0 * to[x] + 587.0 * green[x]) + 114.0 * blue[x]);
    }
    for (int64_t i = 1; i <= census_reach; ++i) {
      to[-i] = to[0];
      to[width - 1 + i] = to[width - 1];
    }
  }
};

// Bit `bit` of a word where the neighbour is darker than the centre.
inline WordVec mark_darker(WordVec word, Vec<float> neighbour, Vec<float> centre, uint32_t bit) {
#if defined(__AVX512F__)
  const __mmask16 darker = _mm512_cmp_ps_mask((__m512)neighbour, (__m512)centre, _CMP_LT_OQ);
  return (WordVec)_mm512_mask_or_epi32((__m512i)word, darker, (__m512i)word, _mm512_set1_epi32(int(bit)));
#else
  return word | ((WordVec)(neighbour < centre) & bit);
#endif
}

// The census of rows, in halves of words: half h holds bits 32 h to 32 h + 31.
class Census {
 public:
  Census(int64_t rows, int64_t columns) : rows_(rows), columns_(columns) {}

  int64_t bits() const { return rows_ * columns_ - 1; }
  int64_t halves() const { return (bits() + 31) / 32; }

  // Half h of row y for `width` pixels, rounded up to GreyImages::step.
  void write_half(const GreyImages& grey, int64_t image, int64_t y, int64_t h, uint32_t* to) const {
    constexpr int G = census_vectors, L = lanes<float>;
    const float* neighbours[32];
    const int64_t first = 32 * h, count = bits() - first < 32 ? bits() - first : 32;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t bit = first + i, place = bit + (2 * bit >= bits());  // the centre has no bit
      const int64_t wanted = y + place / columns_ - rows_ / 2;
      const int64_t row = wanted < 0 ? 0 : wanted < grey.height ? wanted : grey.height - 1;
      neighbours[i] = grey.row(image, row) + place % columns_ - columns_ / 2;
    }
    const float* centres = grey.row(image, y);
    for (int64_t x = 0; x < grey.width; x += G * L) {
      Vec<float> centre[G];
      WordVec word[G];
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) centre[g] = load(centres + x + g * L), word[g] = WordVec{};
      for (int64_t i = 0; i < count; ++i)
#pragma GCC unroll 8
        for (int g = 0; g < G; ++g)
          word[g] = mark_darker(word[g], load(neighbours[i] + x + g * L), centre[g], uint32_t(1) << i);
#pragma GCC unroll 8
      for (int g = 0; g < G; ++g) std::memcpy(to + x + g * L, &word[g], sizeof word[g]);
    }
  }

 private:
  int64_t rows_, columns_;
};

}  // namespace fastseg::FASTSEG_ISA
