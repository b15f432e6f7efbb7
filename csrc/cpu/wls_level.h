// A level's arrays, and walks down its lines.
#pragma once
#include "fastseg/cpu/vec.h"
#include "fastseg/wls.h"

namespace fastseg::FASTSEG_ISA {

// Levels smaller than this are walked by one thread.
constexpr int64_t wls_serial_pixels = 8192;

inline int threads_for(const WlsLevel& level, int threads) {
  return level.rows * level.lines < wls_serial_pixels ? 1 : threads;
}

// The array's element of row 0, line 0 of its parity.
template <class A>
inline A* origin(A* array, const WlsLevel& level) {
  return array + level.pitch + WlsLevel::pad;
}

// What a level knows of its matrix. Off-diagonal elements are negative by nature; links are those without the sign.
struct WlsMatrix {
  // T = L D L' of each line: L's element below the diagonal without the sign, and 1 / D.
  float *even_factor, *even_inverse;
  float *odd_factor, *odd_inverse;
  // Links of odd line k to even line k (left) and k + 1 (right): to the same row, and where levels have them, to the
  // row below (down) and above (up).
  float *left, *right;
  float *left_down, *left_up, *right_down, *right_up;
  // Links from row to row on level 0.
  float *even_next, *odd_next;
};

inline WlsMatrix matrix_of(const float* system, const WlsLevel& level, bool finest) {
  float* arrays[10];
  float* first = origin(const_cast<float*>(system) + level.system, level);
  for (int i = 0; i < (finest ? 8 : 10); ++i) arrays[i] = first + i * level.size;
  WlsMatrix m{};
  m.even_factor = arrays[0], m.even_inverse = arrays[1], m.odd_factor = arrays[2], m.odd_inverse = arrays[3];
  m.left = arrays[4], m.right = arrays[5];
  if (finest) {
    m.even_next = arrays[6], m.odd_next = arrays[7];
  } else {
    m.left_down = arrays[6], m.left_up = arrays[7], m.right_down = arrays[8], m.right_up = arrays[9];
  }
  return m;
}

// Zeros around an array, given its origin, and in the lanes of vectors beyond the last line.
template <class A>
inline void clear_border(A* array, const WlsLevel& level) {
  for (int64_t y = -1; y <= level.rows; ++y) {
    A* row = array + y * level.pitch;
    const bool inside = y >= 0 && y < level.rows;
    const int64_t lines = inside ? level.even_lines() : 0;
    std::memset(row - WlsLevel::pad, 0, WlsLevel::pad * sizeof(A));
    std::memset(row + lines, 0, size_t(level.pitch - WlsLevel::pad - lines) * sizeof(A));
  }
}

inline int64_t vectors_of_lines(const WlsLevel& level) {
  const int64_t runs = (level.even_lines() + WlsLevel::pad - 1) / WlsLevel::pad;
  return runs * (WlsLevel::pad / lanes<float>);
}

// How the lines of a parity are shared out: in blocks of some vectors, so that about four recurrences, of vectors or of
// sources, run side by side, but in no fewer blocks than there is work for. Vectors cover whole runs of `pad` lines;
// lanes beyond the last line hold zeros everywhere.
struct WlsBlocks {
  // What the walk up a block finds again of the walk down, two arrays, should still be in a core's second-level cache.
  static constexpr int64_t kept_bytes = int64_t(1) << 19;

  int64_t vectors, wide;

  WlsBlocks(const WlsLevel& level, int sources, int threads) : vectors(vectors_of_lines(level)) {
    wide = sources == 1 ? 4 : 2;
    while (wide > 1 && (vectors < 2 * wide * threads || 2 * level.rows * wide * vector_bytes > kept_bytes)) wide /= 2;
  }
  int64_t count() const { return (vectors + wide - 1) / wide; }

  // Calls body(first line, std::integral_constant<int, vectors>) for the lines of a block.
  template <class Body>
  void walk(int64_t block, const Body& body) const {
    int64_t v = block * wide;
    const int64_t last = v + wide < vectors ? v + wide : vectors;
    for (; v + 4 <= last; v += 4) body(v * lanes<float>, std::integral_constant<int, 4>{});
    for (; v + 2 <= last; v += 2) body(v * lanes<float>, std::integral_constant<int, 2>{});
    for (; v < last; ++v) body(v * lanes<float>, std::integral_constant<int, 1>{});
  }
};

// The links of odd line `at` times the values of its even neighbours.
template <bool Diagonal>
inline Vec<float> from_even(const WlsMatrix& m, const float* even, int64_t at, int64_t pitch) {
  Vec<float> sum = load(m.left + at) * load(even + at) + load(m.right + at) * load(even + at + 1);
  if constexpr (Diagonal) {
    sum += load(m.left_down + at) * load(even + at + pitch) + load(m.right_down + at) * load(even + at + pitch + 1);
    sum += load(m.left_up + at) * load(even + at - pitch) + load(m.right_up + at) * load(even + at - pitch + 1);
  }
  return sum;
}

// The links of even line `at` times the values of its odd neighbours.
template <bool Diagonal>
inline Vec<float> from_odd(const WlsMatrix& m, const float* odd, int64_t at, int64_t pitch) {
  Vec<float> sum = load(m.left + at) * load(odd + at) + load(m.right + at - 1) * load(odd + at - 1);
  if constexpr (Diagonal) {
    const int64_t above = at - pitch, below = at + pitch;
    sum += load(m.left_down + above) * load(odd + above) + load(m.right_down + above - 1) * load(odd + above - 1);
    sum += load(m.left_up + below) * load(odd + below) + load(m.right_up + below - 1) * load(odd + below - 1);
  }
  return sum;
}

}  // namespace fastseg::FASTSEG_ISA
