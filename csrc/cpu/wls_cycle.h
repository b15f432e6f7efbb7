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

// What a cycle does on a level, in pieces that threads take one by one.
template <int Sources, bool Diagonal>
class WlsLevelWork {
 public:
  WlsLevelWork(const WlsPlan& plan, const float* system, float* work, int depth, int threads)
      : level_(plan.level[depth]),
        next_(plan.level[depth + 1 < plan.levels ? depth + 1 : depth]),
        m_(matrix_of(system, level_, depth == 0)),
        v_(vectors_of(work, plan, depth)),
        coarse_(vectors_of(work, plan, depth + 1 < plan.levels ? depth + 1 : depth)),
        blocks_(level_, Sources, threads) {}

  int64_t blocks() const { return blocks_.count(); }
  int64_t strips() const { return (level_.even_lines() + WlsLevel::pad - 1) / WlsLevel::pad; }

  void solve_even(int64_t block, Neighbours odd) const {
    const auto solve = [&](int64_t first, auto vectors, const auto& rhs) {
      solve_lines<Sources, vectors.value>(level_, m_.even_factor, m_.even_inverse, v_.even, v_.apart, first, rhs);
    };
    blocks_.walk(block, [&](int64_t first, auto vectors) {
      if (odd == Neighbours::zero)
        solve(first, vectors, [&](int64_t i, int r) { return load(v_.even_source + i + r * v_.apart); });
      else
        solve(first, vectors, [&](int64_t i, int r) {
          return load(v_.even_source + i + r * v_.apart) +
                 from_odd<Diagonal>(m_, v_.odd + r * v_.apart, i, level_.pitch);
        });
    });
  }

  void solve_odd(int64_t block) const {
    blocks_.walk(block, [&](int64_t first, auto vectors) {
      solve_lines<Sources, vectors.value>(level_, m_.odd_factor, m_.odd_inverse, v_.odd, v_.apart, first,
                                          [&](int64_t i, int r) {
                                            return load(v_.odd_source + i + r * v_.apart) +
                                                   from_even<Diagonal>(m_, v_.even + r * v_.apart, i, level_.pitch);
                                          });
    });
  }

  // The residual on even lines, transposed, is the next level's right-hand side. Odd lines have none. A strip is `pad`
  // lines.
  void restrict_residual(int64_t strip) const {
    for_tiles(strip, [&](int64_t first, int64_t count, int64_t row, int64_t rows) {
      alignas(64) float tile[Sources][tile_rows + 1][WlsLevel::pad];
      for (int64_t y = 0; y < rows; ++y)
        for (int64_t k = 0; k < WlsLevel::pad; k += lanes<float>) {
          const int64_t at = (row + y) * level_.pitch + first + k;
          for (int r = 0; r < Sources; ++r)
            store(tile[r][y] + k, from_odd<Diagonal>(m_, v_.odd + r * v_.apart, at, level_.pitch));
        }
      for (int r = 0; r < Sources; ++r) {
        if (rows % 2) std::memset(tile[r][rows], 0, sizeof tile[r][rows]);
        for (int64_t k = 0; k < count; ++k) {
          const int64_t to = r * v_.apart + (first + k) * next_.pitch + row / 2;
          float *even = coarse_.even_source + to, *odd = coarse_.odd_source + to;
          for (int64_t j = 0; 2 * j < rows; ++j) even[j] = tile[r][2 * j][k], odd[j] = tile[r][2 * j + 1][k];
        }
      }
    });
  }

  // The next level's solution corrects the even lines.
  void add_correction(int64_t strip) const {
    for_tiles(strip, [&](int64_t first, int64_t count, int64_t row, int64_t rows) {
      for (int r = 0; r < Sources; ++r) {
        alignas(64) float tile[tile_rows + 1][WlsLevel::pad] = {};
        for (int64_t k = 0; k < count; ++k) {
          const int64_t from = r * v_.apart + (first + k) * next_.pitch + row / 2;
          const float *even = coarse_.even + from, *odd = coarse_.odd + from;
          for (int64_t j = 0; 2 * j < rows; ++j) tile[2 * j][k] = even[j], tile[2 * j + 1][k] = odd[j];
        }
        for (int64_t y = 0; y < rows; ++y)
          for (int64_t k = 0; k < WlsLevel::pad; k += lanes<float>) {
            float* x = v_.even + r * v_.apart + (row + y) * level_.pitch + first + k;
            store(x, load(x) + load(tile[y] + k));
          }
      }
    });
  }

 private:
  // Rows of a tile that is transposed through the first-level cache.
  static constexpr int64_t tile_rows = 32;

  template <class Body>
  void for_tiles(int64_t strip, const Body& body) const {
    const int64_t first = strip * WlsLevel::pad, left = level_.even_lines() - first;
    for (int64_t row = 0; row < level_.rows; row += tile_rows)
      body(first, left < WlsLevel::pad ? left : WlsLevel::pad, row,
           level_.rows - row < tile_rows ? level_.rows - row : tile_rows);
  }

  const WlsLevel &level_, &next_;
  const WlsMatrix m_;
  const WlsVectors v_, coarse_;
  const WlsBlocks blocks_;
};

// A cycle as phases for parallel_phases: solution = cycle(source) on level 0. Levels too small for several threads are
// one task together.
template <int Sources>
class WlsCycle {
 public:
  WlsCycle(const WlsPlan& plan, const float* system, float* work, int threads)
      : plan_(plan), system_(system), work_(work), threads_(threads) {
    while (shared_ < plan.levels - 1 && threads_for(plan.level[shared_], threads) > 1) ++shared_;
  }

  // Down the shared levels, the rest, and up again.
  int64_t phases() const { return 3 * shared_ + 1 + 3 * shared_; }

  int64_t tasks(int64_t phase) const {
    const Step step = step_of(phase);
    if (step.piece == Piece::rest) return 1;
    return with_level(step.depth, [&](const auto& level) {
      return step.piece == Piece::restrict_residual || step.piece == Piece::add_correction ? level.strips()
                                                                                           : level.blocks();
    });
  }

  void run(int64_t phase, int64_t task) const {
    const Step step = step_of(phase);
    if (step.piece == Piece::rest) return run_alone(shared_);
    with_level(step.depth, [&](const auto& level) {
      run_piece(level, step.piece, task);
      return int64_t(0);
    });
  }

 private:
  enum class Piece { even_alone, odd_first, restrict_residual, rest, add_correction, odd_again, even_last };
  struct Step {
    Piece piece;
    int depth;
  };

  Step step_of(int64_t phase) const {
    const int64_t down = 3 * shared_;
    if (phase < down) return {Piece(phase % 3), int(phase / 3)};
    if (phase == down) return {Piece::rest, shared_};
    const int64_t up = phase - down - 1;
    return {Piece(int64_t(Piece::add_correction) + up % 3), int(shared_ - 1 - up / 3)};
  }

  template <class Level>
  static void run_piece(const Level& level, Piece piece, int64_t task) {
    switch (piece) {
      case Piece::even_alone:
        return level.solve_even(task, Neighbours::zero);
      case Piece::odd_first:
      case Piece::odd_again:
        return level.solve_odd(task);
      case Piece::restrict_residual:
        return level.restrict_residual(task);
      case Piece::add_correction:
        return level.add_correction(task);
      case Piece::even_last:
        return level.solve_even(task, Neighbours::known);
      case Piece::rest:
        return;
    }
  }

  template <class Body>
  int64_t with_level(int depth, const Body& body) const {
    if (depth == 0) return body(WlsLevelWork<Sources, false>(plan_, system_, work_, depth, threads_));
    return body(WlsLevelWork<Sources, true>(plan_, system_, work_, depth, threads_));
  }

  // This level and those below it.
  void run_alone(int depth) const {
    with_level(depth, [&](const auto& level) {
      const auto all = [&](Piece piece, int64_t count) {
        for (int64_t task = 0; task < count; ++task) run_piece(level, piece, task);
      };
      all(Piece::even_alone, level.blocks());
      if (depth + 1 == plan_.levels) return int64_t(0);  // one line: solved
      all(Piece::odd_first, level.blocks());
      all(Piece::restrict_residual, level.strips());
      run_alone(depth + 1);
      all(Piece::add_correction, level.strips());
      all(Piece::odd_again, level.blocks());
      all(Piece::even_last, level.blocks());
      return int64_t(0);
    });
  }

  const WlsPlan& plan_;
  const float* system_;
  float* work_;
  const int threads_;
  int shared_ = 0;  // levels that several threads walk
};

}  // namespace fastseg::FASTSEG_ISA
