// One multigrid cycle, the preconditioner. A level solves its even lines, then its odd lines given the even ones; what
// is left is a residual on the even lines alone, which the next level takes. The way back mirrors the way down, so that
// the cycle is symmetric. A line is solved exactly; where weights jump by orders of magnitude from pixel to pixel,
// nothing less converges fast (docs/wls.md has what was measured).
//
// Several sources go through a cycle together: they share factors and links, which are more than half of what moves.
//
// Floor, bytes a pixel in float32: level 0 reads right-hand side, neighbours, links and factors and writes lines four
// times over half of the pixels: 64. Further levels have six links instead of two: 100, over as many pixels together as
// level 0 has. Some 60 operations a pixel.
#pragma once
#include "wls_level.h"

namespace fastseg::FASTSEG_ISA {

// Right-hand side and solution of a level, by parity; those of the next source are `apart` floats further on.
struct WlsVectors {
  float *even, *odd, *even_source, *odd_source;
  int64_t apart;
};

inline WlsVectors vectors_of(float* work, const WlsPlan& plan, int depth) {
  const WlsLevel& level = plan.level[depth];
  float* first = origin(work + level.work, level);
  return {first, first + level.size, first + 2 * level.size, first + 3 * level.size, plan.work};
}

// x = T^-1 (rhs) down and up some lines; rhs(offset in the level's arrays, source) gives a vector of the right-hand
// side. Solutions of further sources are `apart` floats from the first one's.
template <int Sources, int Vectors, class RightHandSide>
inline void solve_lines(const WlsLevel& level, const float* factor, const float* inverse, float* x, int64_t apart,
                        int64_t first, const RightHandSide& rhs) {
  Vec<float> z[Vectors][Sources];
  int64_t at = first;
  for (auto& of_vector : z)
    for (auto& one : of_vector) one = Vec<float>{};
  for (int64_t y = 0; y < level.rows; ++y, at += level.pitch) {
    for (int v = 0; v < Vectors; ++v) {
      const int64_t i = at + v * lanes<float>;
      const Vec<float> above = load(factor + i - level.pitch);
      for (int r = 0; r < Sources; ++r) z[v][r] = rhs(i, r) + above * z[v][r];
      for (int r = 0; r < Sources; ++r) store(x + i + r * apart, z[v][r]);
    }
  }
  for (auto& of_vector : z)
    for (auto& one : of_vector) one = Vec<float>{};
  for (int64_t y = 0; y < level.rows; ++y) {
    at -= level.pitch;
    for (int v = 0; v < Vectors; ++v) {
      const int64_t i = at + v * lanes<float>;
      const Vec<float> scale = load(inverse + i), below = load(factor + i);
      for (int r = 0; r < Sources; ++r) z[v][r] = load(x + i + r * apart) * scale + below * z[v][r];
      for (int r = 0; r < Sources; ++r) store(x + i + r * apart, z[v][r]);
    }
  }
}

enum class Neighbours { zero, known };

template <int Sources, bool Diagonal>
void solve_even(const WlsLevel& level, const WlsMatrix& m, const WlsVectors& v, Neighbours odd, int threads) {
  const auto solve = [&](int64_t first, auto vectors, const auto& rhs) {
    solve_lines<Sources, vectors.value>(level, m.even_factor, m.even_inverse, v.even, v.apart, first, rhs);
  };
  for_line_blocks<Sources>(level, threads, [&](int64_t first, auto vectors) {
    if (odd == Neighbours::zero)
      solve(first, vectors, [&](int64_t i, int r) { return load(v.even_source + i + r * v.apart); });
    else
      solve(first, vectors, [&](int64_t i, int r) {
        return load(v.even_source + i + r * v.apart) + from_odd<Diagonal>(m, v.odd + r * v.apart, i, level.pitch);
      });
  });
}

template <int Sources, bool Diagonal>
void solve_odd(const WlsLevel& level, const WlsMatrix& m, const WlsVectors& v, int threads) {
  for_line_blocks<Sources>(level, threads, [&](int64_t first, auto vectors) {
    solve_lines<Sources, vectors.value>(
        level, m.odd_factor, m.odd_inverse, v.odd, v.apart, first, [&](int64_t i, int r) {
          return load(v.odd_source + i + r * v.apart) + from_even<Diagonal>(m, v.even + r * v.apart, i, level.pitch);
        });
  });
}

// Rows of a tile that is transposed through the first-level cache; a tile has `pad` lines.
constexpr int64_t wls_tile_rows = 32;

// Calls body(first line, first row, rows) for each tile of even lines.
template <class Body>
inline void for_tiles(const WlsLevel& level, int threads, const Body& body) {
  const int64_t across = (level.even_lines() + WlsLevel::pad - 1) / WlsLevel::pad;
  const int64_t down = (level.rows + wls_tile_rows - 1) / wls_tile_rows;
  parallel_spans(threads_for(level, threads), across * down, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t row = i % down * wls_tile_rows, left = level.rows - row;
      body(i / down * WlsLevel::pad, row, left < wls_tile_rows ? left : wls_tile_rows);
    }
  });
}

// The residual on even lines, transposed, is the next level's right-hand side. Odd lines have none.
template <int Sources, bool Diagonal>
void restrict_residual(const WlsLevel& level, const WlsMatrix& m, const WlsVectors& v, const WlsLevel& next,
                       const WlsVectors& coarse, int threads) {
  for_tiles(level, threads, [&](int64_t first, int64_t row, int64_t rows) {
    alignas(64) float tile[Sources][wls_tile_rows + 1][WlsLevel::pad];
    for (int64_t y = 0; y < rows; ++y)
      for (int64_t k = 0; k < WlsLevel::pad; k += lanes<float>) {
        const int64_t at = (row + y) * level.pitch + first + k;
        for (int r = 0; r < Sources; ++r)
          store(tile[r][y] + k, from_odd<Diagonal>(m, v.odd + r * v.apart, at, level.pitch));
      }
    const int64_t count = level.even_lines() - first < WlsLevel::pad ? level.even_lines() - first : WlsLevel::pad;
    for (int r = 0; r < Sources; ++r) {
      if (rows % 2) std::memset(tile[r][rows], 0, sizeof tile[r][rows]);
      for (int64_t k = 0; k < count; ++k) {
        const int64_t to = r * v.apart + (first + k) * next.pitch + row / 2;
        float *even = coarse.even_source + to, *odd = coarse.odd_source + to;
        for (int64_t j = 0; 2 * j < rows; ++j) even[j] = tile[r][2 * j][k], odd[j] = tile[r][2 * j + 1][k];
      }
    }
  });
}

// The next level's solution corrects the even lines.
template <int Sources>
inline void add_correction(const WlsLevel& level, const WlsVectors& v, const WlsLevel& next, const WlsVectors& coarse,
                           int threads) {
  for_tiles(level, threads, [&](int64_t first, int64_t row, int64_t rows) {
    const int64_t count = level.even_lines() - first < WlsLevel::pad ? level.even_lines() - first : WlsLevel::pad;
    for (int r = 0; r < Sources; ++r) {
      alignas(64) float tile[wls_tile_rows + 1][WlsLevel::pad] = {};
      for (int64_t k = 0; k < count; ++k) {
        const int64_t from = r * v.apart + (first + k) * next.pitch + row / 2;
        const float *even = coarse.even + from, *odd = coarse.odd + from;
        for (int64_t j = 0; 2 * j < rows; ++j) tile[2 * j][k] = even[j], tile[2 * j + 1][k] = odd[j];
      }
      for (int64_t y = 0; y < rows; ++y)
        for (int64_t k = 0; k < WlsLevel::pad; k += lanes<float>) {
          float* x = v.even + r * v.apart + (row + y) * level.pitch + first + k;
          store(x, load(x) + load(tile[y] + k));
        }
    }
  });
}

template <int Sources, bool Diagonal>
void cycle_level(const WlsPlan& plan, const float* system, float* work, int depth, int threads);

// Vectors of level `depth`: solution = cycle(source).
template <int Sources>
inline void cycle(const WlsPlan& plan, const float* system, float* work, int depth, int threads) {
  depth == 0 ? cycle_level<Sources, false>(plan, system, work, depth, threads)
             : cycle_level<Sources, true>(plan, system, work, depth, threads);
}

template <int Sources, bool Diagonal>
void cycle_level(const WlsPlan& plan, const float* system, float* work, int depth, int threads) {
  const WlsLevel& level = plan.level[depth];
  const WlsMatrix m = matrix_of(system, level, depth == 0);
  const WlsVectors v = vectors_of(work, plan, depth);
  solve_even<Sources, Diagonal>(level, m, v, Neighbours::zero, threads);
  if (depth + 1 == plan.levels) return;  // one line: solved
  solve_odd<Sources, Diagonal>(level, m, v, threads);
  const WlsLevel& next = plan.level[depth + 1];
  const WlsVectors coarse = vectors_of(work, plan, depth + 1);
  restrict_residual<Sources, Diagonal>(level, m, v, next, coarse, threads);
  cycle<Sources>(plan, system, work, depth + 1, threads);
  add_correction<Sources>(level, v, next, coarse, threads);
  solve_odd<Sources, Diagonal>(level, m, v, threads);
  solve_even<Sources, Diagonal>(level, m, v, Neighbours::known, threads);
}

}  // namespace fastseg::FASTSEG_ISA
