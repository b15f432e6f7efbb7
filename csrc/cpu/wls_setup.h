// Sets the multigrid hierarchy up: weights of level 0, factors of every line, matrices of the further levels.
//
// The next level's matrix is P' A P: an odd line is interpolated from its two even neighbours with the weights that its
// own equations give to a neighbour that is constant along the line, T w = links (Schaffer's semicoarsening). Float32
// would lose what holds the matrix away from singular, row sums as small as 1 beside links of 1e4 lambda, if diagonals
// were stored. So the row sums themselves go from level to level, diagonals are sums of positive numbers and never
// differences, and pivots follow as what a line has beyond its next link.
//
// Floor: about 200 bytes and 150 operations a pixel over all levels, and a logarithm, a log1p and a power a link.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/phases.h"
#include "fastseg/cpu/vec_math.h"
#include "wls_cycle.h"

namespace fastseg::FASTSEG_ISA {

// Links of neighbouring pixels a and b of the guide: lambda / (|log((a + tiny) / (b + tiny))|^alpha + eps). The
// difference is taken before the logarithm, which keeps it exact where a is near b.
template <class T>
void guide_weights(const T* a, const T* b, int64_t count, const WlsSetup& args, float* to) {
  constexpr T tiny = T(2.2e-16);
  for (int64_t i = 0; i < count; ++i) {
    const T low = a[i] < b[i] ? a[i] : b[i], high = a[i] < b[i] ? b[i] : a[i];
    to[i] = float((high - low) / (low + tiny));
  }
  const Vec<float> lambda = broadcast<Vec<float>>(float(args.lambda)), eps = broadcast<Vec<float>>(float(args.eps));
  const float alpha = float(args.alpha);
  for (int64_t i = 0; i < count; i += lanes<float>) {  // `to` has room for whole vectors
    const Vec<float> difference = log1p(load(to + i));
    const Vec<float> power = exp(alpha * log(difference > 1e-36f ? difference : broadcast<Vec<float>>(1e-36f)));
    store(to + i, lambda / ((difference > 1e-36f ? power : Vec<float>{}) + eps));
  }
}

// What a level is made from, and what it makes for the next one, not yet transposed. In scratch memory.
struct WlsScratch {
  float *even_sum, *odd_sum;    // row sums of the level's matrix
  float *even_next, *odd_next;  // links from row to row
  float *left_weight, *right_weight, *loss;
  float *sum, *down, *across, *down_right, *down_left;
};

// Rows begin to end of level 0.
template <class T>
void read_guide(const WlsSetup& args, const WlsLevel& level, const WlsMatrix& m, const WlsScratch& s, int64_t begin,
                int64_t end) {
  const int64_t width = args.width, room = (width + 2 * WlsLevel::pad) / WlsLevel::pad * WlsLevel::pad;
  const T* guide = static_cast<const T*>(args.guide);
  const Scratch<float> links(room);
  for (int64_t y = begin; y < end; ++y) {
    const T* row = guide + y * width;
    const int64_t at = y * level.pitch;
    guide_weights(row, row + 1, width - 1, args, links.get());
    links[width - 1] = links[width] = 0;
    for (int64_t k = 0; k < level.even_lines(); ++k) {
      s.even_sum[at + k] = 1;
      s.odd_sum[at + k] = k < level.odd_lines() ? 1 : 0;
      m.left[at + k] = links[2 * k];
      m.right[at + k] = links[2 * k + 1];
    }
    if (y + 1 < level.rows)
      guide_weights(row, row + width, width, args, links.get());
    else
      std::memset(links.get(), 0, size_t(width) * sizeof(float));
    links[width] = 0;
    for (int64_t k = 0; k < level.even_lines(); ++k) {
      m.even_next[at + k] = links[2 * k];
      m.odd_next[at + k] = links[2 * k + 1];
    }
  }
}

// T = L D L' down some lines. beyond(offset) is the row's sum within its line: all that the diagonal has beyond the
// links to the rows above and below.
template <int Vectors, class Beyond>
inline void factor_lines(const WlsLevel& level, const float* next, float* factor, float* inverse, int64_t first,
                         const Beyond& beyond) {
  Vec<float> carried[Vectors];
  for (int v = 0; v < Vectors; ++v) carried[v] = Vec<float>{};
  int64_t at = first;
  for (int64_t y = 0; y < level.rows; ++y, at += level.pitch) {
    for (int v = 0; v < Vectors; ++v) {
      const int64_t i = at + v * lanes<float>;
      const Vec<float> link = load(next + i), excess = beyond(i) + carried[v], pivot = excess + link;
      const Vec<float> reciprocal = pivot > 0.0f ? 1.0f / pivot : Vec<float>{};  // lanes beyond the last line: 0
      store(inverse + i, reciprocal);
      store(factor + i, link * reciprocal);
      carried[v] = excess * (link * reciprocal);
    }
  }
}

template <bool Diagonal, int count>
void factor(const WlsLevel& level, const WlsMatrix& m, const WlsScratch& s, int64_t first) {
  factor_lines<count>(level, s.even_next, m.even_factor, m.even_inverse, first, [&](int64_t i) {
    Vec<float> sum = load(s.even_sum + i) + load(m.left + i) + load(m.right + i - 1);
    if constexpr (Diagonal) {
      sum += load(m.left_down + i - level.pitch) + load(m.right_down + i - level.pitch - 1);
      sum += load(m.left_up + i + level.pitch) + load(m.right_up + i + level.pitch - 1);
    }
    return sum;
  });
  factor_lines<count>(level, s.odd_next, m.odd_factor, m.odd_inverse, first, [&](int64_t i) {
    Vec<float> sum = load(s.odd_sum + i) + load(m.left + i) + load(m.right + i);
    if constexpr (Diagonal)
      sum += load(m.left_down + i) + load(m.right_down + i) + load(m.left_up + i) + load(m.right_up + i);
    return sum;
  });
}

template <bool Diagonal>
inline Vec<float> links_to_left(const WlsMatrix& m, int64_t i) {
  if constexpr (Diagonal) return load(m.left + i) + load(m.left_down + i) + load(m.left_up + i);
  return load(m.left + i);
}
template <bool Diagonal>
inline Vec<float> links_to_right(const WlsMatrix& m, int64_t i) {
  if constexpr (Diagonal) return load(m.right + i) + load(m.right_down + i) + load(m.right_up + i);
  return load(m.right + i);
}

// Interpolation from the lines on the left and on the right. T loss = row sums says how much of a constant is lost; how
// the rest divides is the mean of two answers: that of the whole line, T weight = links, and that of the pixel's own
// links. Either one alone needs up to a third more steps (docs/wls.md).
template <bool Diagonal, int count>
void interpolate(const WlsLevel& level, const WlsMatrix& m, const WlsScratch& s, int64_t first) {
  const auto solve = [&](float* to, const auto& rhs) {
    solve_lines<1, count>(level, m.odd_factor, m.odd_inverse, to, 0, first, rhs);
  };
  solve(s.left_weight, [&](int64_t i, int) { return links_to_left<Diagonal>(m, i); });
  solve(s.right_weight, [&](int64_t i, int) { return links_to_right<Diagonal>(m, i); });
  solve(s.loss, [&](int64_t i, int) { return load(s.odd_sum + i); });
  for (int64_t y = 0, at = first; y < level.rows; ++y, at += level.pitch) {
    for (int64_t i = at; i < at + count * lanes<float>; i += lanes<float>) {
      const Vec<float> to_left = links_to_left<Diagonal>(m, i), to_right = links_to_right<Diagonal>(m, i);
      const Vec<float> both = to_left + to_right, left = load(s.left_weight + i), right = load(s.right_weight + i);
      const Vec<float> kept = 1.0f - load(s.loss + i);
      // Links of further levels may be negative: then the line alone answers, as in lanes beyond the last line.
      const auto usable = (to_left >= 0.0f) & (to_right >= 0.0f) & (both > 0.0f);
      const Vec<float> share = kept / both;
      store(s.left_weight + i, usable ? 0.5f * (left + share * to_left) : left);
      store(s.right_weight + i, usable ? 0.5f * (right + share * to_right) : right);
    }
  }
}

// Rows begin to end of P' A P before it is transposed. Its links: down to the row below, across to the next even line,
// and two diagonals.
template <bool Diagonal>
void coarse_matrix(const WlsLevel& level, const WlsMatrix& m, const WlsScratch& s, int64_t begin, int64_t end) {
  const int64_t pitch = level.pitch, runs = (level.even_lines() + lanes<float> - 1) / lanes<float>;
  const auto at_or_zero = [&](const float* p, int64_t i) {
    if constexpr (Diagonal) return load(p + i);
    return Vec<float>{};
  };
  for (int64_t y = begin; y < end; ++y) {
    for (int64_t run = 0; run < runs; ++run) {
      const int64_t i = y * pitch + run * lanes<float>;
      // Row sums: what odd lines lose, even lines take over through their links.
      store(s.sum + i, load(s.even_sum + i) + from_odd<Diagonal>(m, s.loss, i, pitch));
      // Through odd line k, between even lines k (l, left) and k + 1 (r, right).
      const auto through = [&](int64_t at, const float* from, const float* to, const float* from_up,
                               const float* to_down) {
        return load(from + at) * load(s.odd_next + at) * load(to + at + pitch) +
               load(from + at) * at_or_zero(to_down, at) + at_or_zero(from_up, at + pitch) * load(to + at + pitch);
      };
      const float *l = s.left_weight, *r = s.right_weight;
      const Vec<float> down = load(s.even_next + i) + through(i, l, l, m.left_up, m.left_down) +
                              through(i - 1, r, r, m.right_up, m.right_down);
      store(s.down + i, down);
      store(s.down_right + i, through(i, l, r, m.left_up, m.right_down));
      store(s.down_left + i, through(i, r, l, m.right_up, m.left_down));
      // The diagonal of the odd line's own equations.
      Vec<float> diagonal = load(s.odd_sum + i) + load(s.odd_next + i) + load(s.odd_next + i - pitch) +
                            load(m.left + i) + load(m.right + i);
      if constexpr (Diagonal)
        diagonal += load(m.left_down + i) + load(m.right_down + i) + load(m.left_up + i) + load(m.right_up + i);
      store(s.across + i,
            load(l + i) * load(m.right + i) + load(m.left + i) * load(r + i) - load(l + i) * diagonal * load(r + i));
    }
  }
}

// Rows begin to end of the next level's own arrays: this level's lines.
inline void transpose_matrix(const WlsLevel& level, const WlsScratch& s, const WlsLevel& next, const WlsMatrix& to,
                             const WlsScratch& own, int64_t begin, int64_t end) {
  const int64_t pitch = level.pitch;
  for (int64_t j = 0; j < next.even_lines(); ++j) {
    const bool odd = j < next.odd_lines();
    for (int64_t k = begin; k < end; ++k) {
      const int64_t o = k * next.pitch + j, even_row = 2 * j * pitch + k, odd_row = even_row + pitch;
      own.even_sum[o] = s.sum[even_row];
      own.even_next[o] = s.across[even_row];
      own.odd_sum[o] = odd ? s.sum[odd_row] : 0;
      own.odd_next[o] = odd ? s.across[odd_row] : 0;
      to.left[o] = odd ? s.down[even_row] : 0;
      to.right[o] = odd ? s.down[odd_row] : 0;
      to.left_down[o] = odd ? s.down_left[even_row] : 0;
      to.left_up[o] = odd ? s.down_right[even_row - 1] : 0;
      to.right_down[o] = odd ? s.down_right[odd_row] : 0;
      to.right_up[o] = odd ? s.down_left[odd_row - 1] : 0;
    }
  }
}

// Setting up as phases for parallel_phases. Levels too small for several threads are one task together.
class WlsSetupWork {
 public:
  WlsSetupWork(const WlsSetup& args, const WlsPlan& plan, int threads) : args_(args), plan_(plan), threads_(threads) {
    while (shared_ < plan.levels - 1 && threads_for(plan.level[shared_], threads) > 1) ++shared_;
  }

  int64_t phases() const { return pieces * shared_ + 1; }

  int64_t tasks(int64_t phase) const {
    return phase == pieces * shared_ ? 1 : tasks(int(phase / pieces), Piece(phase % pieces));
  }

  void run(int64_t phase, int64_t task) const {
    if (phase < pieces * shared_) return run(int(phase / pieces), Piece(phase % pieces), task);
    for (int depth = shared_; depth < plan_.levels; ++depth)
      for (int piece = 0; piece < pieces; ++piece)
        for (int64_t i = 0; i < tasks(depth, Piece(piece)); ++i) run(depth, Piece(piece), i);
  }

 private:
  enum class Piece { clear, read, lines, coarse, transpose };
  static constexpr int pieces = 5;
  static constexpr int64_t rows_a_task = 16;  // which share cache lines where they are transposed

  static int64_t tasks_of(int64_t rows) { return (rows + rows_a_task - 1) / rows_a_task; }

  bool last(int depth) const { return depth + 1 == plan_.levels; }
  WlsBlocks blocks(int depth) const { return {plan_.level[depth], 1, threads_}; }

  int64_t tasks(int depth, Piece piece) const {
    const WlsLevel& level = plan_.level[depth];
    switch (piece) {
      case Piece::clear:  // arrays
        return made + (depth == 0 ? finest : 0) + (last(depth) ? 0 : further);
      case Piece::read:
        return depth == 0 ? tasks_of(level.rows) : 0;
      case Piece::lines:
        return blocks(depth).count();
      case Piece::coarse:
        return last(depth) ? 0 : tasks_of(level.rows);
      case Piece::transpose:
        return last(depth) ? 0 : tasks_of(plan_.level[depth + 1].rows);
    }
    return 0;
  }

  void run(int depth, Piece piece, int64_t task) const {
    const WlsLevel& level = plan_.level[depth];
    const WlsMatrix m = matrix_of(args_.system, level, depth == 0);
    WlsScratch s = scratch(depth);
    if (depth == 0) s.even_next = m.even_next, s.odd_next = m.odd_next;
    const auto rows = [&](int64_t count, const auto& body) {
      const int64_t begin = task * rows_a_task, end = begin + rows_a_task;
      body(begin, end < count ? end : count);
    };
    switch (piece) {
      case Piece::clear:
        return clear(depth, task);
      case Piece::read:
        return rows(level.rows, [&](int64_t begin, int64_t end) {
          args_.type == Element::float64 ? read_guide<double>(args_, level, m, s, begin, end)
                                         : read_guide<float>(args_, level, m, s, begin, end);
        });
      case Piece::lines:
        return blocks(depth).walk(task, [&](int64_t first, auto vectors) {
          depth == 0 ? set_up_lines<false, vectors.value>(level, m, s, first)
                     : set_up_lines<true, vectors.value>(level, m, s, first);
        });
      case Piece::coarse:
        return rows(level.rows, [&](int64_t begin, int64_t end) {
          depth == 0 ? coarse_matrix<false>(level, m, s, begin, end) : coarse_matrix<true>(level, m, s, begin, end);
        });
      case Piece::transpose:
        return rows(plan_.level[depth + 1].rows, [&](int64_t begin, int64_t end) {
          const WlsLevel& next = plan_.level[depth + 1];
          transpose_matrix(level, s, next, matrix_of(args_.system, next, false), scratch(depth + 1), begin, end);
        });
    }
  }

  template <bool Diagonal, int Vectors>
  static void set_up_lines(const WlsLevel& level, const WlsMatrix& m, const WlsScratch& s, int64_t first) {
    factor<Diagonal, Vectors>(level, m, s, first);
    if (level.lines > 1) interpolate<Diagonal, Vectors>(level, m, s, first);
  }

  // Arrays whose borders are cleared: those that a level makes for the next one, on level 0 its part of the system and
  // its sums, and the next level's part of the system and own arrays.
  static constexpr int64_t made = 8, finest = 8 + 2, further = 10 + 4;

  void clear(int depth, int64_t task) const {
    const WlsLevel& level = plan_.level[depth];
    const auto array = [](float* first, int64_t i, const WlsLevel& of) { clear_border(first + i * of.size, of); };
    if (task < made) return array(scratch(depth).left_weight, task, level);
    task -= made;
    if (depth == 0) {
      if (task < 8) return array(matrix_of(args_.system, level, true).even_factor, task, level);
      if (task < finest) return array(scratch(0).even_sum, task - 8, level);
      task -= finest;
    }
    const WlsLevel& next = plan_.level[depth + 1];
    if (task < 10) return array(matrix_of(args_.system, next, false).even_factor, task, next);
    array(scratch(depth + 1).even_sum, task - 10, next);
  }

  // Two levels' own arrays are alive at a time, so levels take turns.
  WlsScratch scratch(int depth) const {
    const WlsLevel& level = plan_.level[depth];
    const int64_t size = level.size;
    float* own = origin(args_.scratch + (depth % 2 ? plan_.scratch_of_odd : 0), level);
    float* out = origin(args_.scratch + plan_.scratch_made, level);
    return {own,
            own + size,
            own + 2 * size,
            own + 3 * size,
            out,
            out + size,
            out + 2 * size,
            out + 3 * size,
            out + 4 * size,
            out + 5 * size,
            out + 6 * size,
            out + 7 * size};
  }

  const WlsSetup& args_;
  const WlsPlan& plan_;
  const int threads_;
  int shared_ = 0;  // levels that several threads set up
};

}  // namespace fastseg::FASTSEG_ISA
