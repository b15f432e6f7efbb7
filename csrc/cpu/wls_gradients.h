// Conjugate gradients around the float32 cycle. The solution is float64: rounded to float32, it would have a residual
// of about lambda * 1e4 * 6e-8, which is where float32 alone stalls. Residual, direction and its image may be rounded:
// what that parts from the solution, the true residual in float64 brings back every few steps.
//
// Floor, bytes a pixel and step: product 8, direction 12, its image 24, solution and residual 32.
#pragma once
#include "fastseg/cpu/parallel.h"
#include "fastseg/cpu/phases.h"
#include "wls_cycle.h"

namespace fastseg::FASTSEG_ISA {

typedef float HalfFloats __attribute__((vector_size(vector_bytes / 2)));

inline Vec<double> load_wide(const float* p) {
  HalfFloats v;
  std::memcpy(&v, p, sizeof v);
  return __builtin_convertvector(v, Vec<double>);
}
inline Vec<double> load_wide(const double* p) { return load(p); }
inline void store_narrow(float* p, Vec<double> v) {
  const HalfFloats narrow = __builtin_convertvector(v, HalfFloats);
  std::memcpy(p, &narrow, sizeof narrow);
}

// A x at some lanes of even and of odd lines: x plus differences to neighbours times links.
template <class T>
inline Vec<double> image_of_even(const WlsMatrix& m, const T* even, const T* odd, int64_t i, int64_t pitch) {
  const Vec<double> x = load_wide(even + i);
  return x + load_wide(m.even_next + i) * (x - load_wide(even + i + pitch)) +
         load_wide(m.even_next + i - pitch) * (x - load_wide(even + i - pitch)) +
         load_wide(m.left + i) * (x - load_wide(odd + i)) + load_wide(m.right + i - 1) * (x - load_wide(odd + i - 1));
}
template <class T>
inline Vec<double> image_of_odd(const WlsMatrix& m, const T* even, const T* odd, int64_t i, int64_t pitch) {
  const Vec<double> x = load_wide(odd + i);
  return x + load_wide(m.odd_next + i) * (x - load_wide(odd + i + pitch)) +
         load_wide(m.odd_next + i - pitch) * (x - load_wide(odd + i - pitch)) +
         load_wide(m.left + i) * (x - load_wide(even + i)) + load_wide(m.right + i) * (x - load_wide(even + i + 1));
}

template <class T, int Sources>
class ConjugateGradients {
 public:
  // Of sources first, first + 1, ... of the call.
  ConjugateGradients(const WlsSolve& args, int64_t first, int threads)
      : args_(args),
        first_(first),
        plan_(wls_plan(args.height, args.width)),
        level_(plan_.level[0]),
        threads_(threads_for(level_, threads)),
        matrix_(matrix_of(args.system, level_, true)),
        cycle_(vectors_of(args.work, plan_, 0)),
        whole_cycle_(plan_, args.system, args.work, threads),
        slots_(4 * Sources * slots()) {
    // By task: four vectors of each level, then those of conjugate gradients.
    const int64_t arrays = 4 * plan_.levels + 6;
    parallel_phases(
        threads_, 1, [&](int64_t) { return arrays * Sources; },
        [&](int64_t, int64_t task, int) { clear_vector(args.work + task / arrays * plan_.work, task % arrays); });
    double* wide = origin(reinterpret_cast<double*>(args.work + plan_.iterates), level_);
    float* narrow = origin(args.work + plan_.iterates + 4 * level_.size, level_);
    even_solution_ = wide, odd_solution_ = wide + level_.size;
    even_direction_ = narrow, odd_direction_ = narrow + level_.size;
    even_image_ = narrow + 2 * level_.size, odd_image_ = narrow + 3 * level_.size;
  }

  void solve() {
    const double tolerance = args_.tolerance * args_.tolerance;
    for (int r = 0; r < Sources; ++r) {
      clear_solution(r);
      Progress& p = progress_[r];
      p.size = p.reached = p.best = true_residual(r);
      p.going = p.reached > 0;
      p.wanted = tolerance * p.size;
    }
    while (any_going()) {
      take_step();
      for (int r = 0; r < Sources; ++r)
        if (progress_[r].going) judge(r);
    }
    for (int r = 0; r < Sources; ++r) {
      const Progress& p = progress_[r];
      args_.iterations[first_ + r] = p.steps;
      args_.residual[first_ + r] = p.size > 0 ? __builtin_sqrt(p.reached / p.size) : 0;
      write_solution(r);
    }
  }

 private:
  static constexpr int64_t step = lanes<double>;

  // Rows whose sums share a slot, so that sums do not depend on the number of threads.
  static constexpr int64_t rows_a_slot = 8;

  // By how much the residual's sum of squares may fall before it is computed anew. Later, what rounding has added to it
  // would be a part of it that disturbs the directions.
  static constexpr double reliable = 1e-3;

  // Of one source. Sizes are sums of squares.
  struct Progress {
    bool going = true;
    int64_t steps = 0;
    double size = 0, wanted = 0;   // of the source, and what the residual may have
    double reached = 0, best = 0;  // the true residual, now and ever
    double carried = 0;            // the residual that steps carry along
    double length = 0;             // the direction times its image
    int stalled = 0;               // true residuals since the best one
  };

  // Sums over all pixels that a step takes, each from slots of its own.
  enum Sum { overlap, with_image, with_residual, squares };

  int64_t slots() const { return (level_.rows + rows_a_slot - 1) / rows_a_slot; }
  int64_t columns() const { return (level_.even_lines() + step - 1) / step * step; }

  bool any_going() const {
    for (const Progress& p : progress_)
      if (p.going) return true;
    return false;
  }

  // Whether a source goes on. Rounding parts the residual that is carried along from the solution; from the true one it
  // goes on, as long as that helps. Where nothing is conjugate to the last direction, the next one begins anew.
  void judge(int r) {
    Progress& p = progress_[r];
    const bool out = p.steps >= args_.max_iterations;
    const double lowest = 0.81 * p.wanted;  // a margin for what rounding has lost
    if (!out && p.length > 0 && p.carried > lowest && p.carried > reliable * p.reached) return;
    p.reached = true_residual(r);
    p.stalled = p.reached < 0.25 * p.best ? 0 : p.stalled + 1;
    if (p.reached < p.best) p.best = p.reached;
    p.going = !out && p.reached > p.wanted && p.stalled <= 2;
  }

  template <class Body>
  void for_rows(const Body& body) const {
    parallel_phases(
        threads_, 1, [&](int64_t) { return slots(); },
        [&](int64_t, int64_t task, int) { for_rows_of(task, [&](int64_t at) { body(at / level_.pitch); }); });
  }

  double* slot(Sum sum, int64_t i) const { return slots_.get() + (sum * slots() + i) * Sources; }

  double total(Sum sum, int r) const {
    double result = 0;
    for (int64_t i = 0; i < slots(); ++i) result += slot(sum, i)[r];
    return result;
  }

  template <class Body>
  void for_rows_of(int64_t task, const Body& body) const {
    const int64_t last = (task + 1) * rows_a_slot < level_.rows ? (task + 1) * rows_a_slot : level_.rows;
    for (int64_t y = task * rows_a_slot; y < last; ++y) body(y * level_.pitch);
  }

  // A cycle and what follows from it, as one parallel region.
  void take_step() {
    const int64_t phases = whole_cycle_.phases();
    parallel_phases(
        threads_, phases + 4, [&](int64_t phase) { return phase < phases ? whole_cycle_.tasks(phase) : slots(); },
        [&](int64_t phase, int64_t task, int) {
          if (phase < phases) return whole_cycle_.run(phase, task);
          if (phase == phases) return multiply(task);
          if (phase == phases + 1) return turn(task);
          if (phase == phases + 2) return image(task);
          return advance(task);
        });
    for (int r = 0; r < Sources; ++r) {
      Progress& p = progress_[r];
      p.length = total(with_image, r);
      p.carried = total(squares, r);
      if (p.going && p.length > 0) ++p.steps;
    }
  }

  void clear_vector(float* work, int64_t i) const {
    const int64_t of_levels = 4 * plan_.levels;
    if (i < of_levels) {
      const WlsLevel& level = plan_.level[i / 4];
      float* vector = origin(work + level.work, level) + i % 4 * level.size;
      clear_border(vector, level);
      // With one line there is no odd one, and nothing that would write its lane.
      for (int64_t y = 0; level.lines == 1 && y < level.rows; ++y) vector[y * level.pitch] = 0;
      return;
    }
    float* iterates = work + plan_.iterates;
    if (i < of_levels + 2)
      clear_border(origin(reinterpret_cast<double*>(iterates), level_) + (i - of_levels) * level_.size, level_);
    else
      clear_border(origin(iterates + 4 * level_.size, level_) + (i - of_levels - 2) * level_.size, level_);
  }

  void clear_solution(int r) {
    const int64_t apart = r * plan_.work / 2;
    for_rows([&](int64_t y) {
      for (int64_t k = 0, i = y * level_.pitch + apart; k < columns(); k += step, i += step)
        store(even_solution_ + i, Vec<double>{}), store(odd_solution_ + i, Vec<double>{});
    });
  }

  // The cycle's solution times the direction's image.
  void multiply(int64_t task) {
    for (int r = 0; r < Sources; ++r) {
      Vec<double> sum{};
      if (progress_[r].steps > 0)  // there is an image
        for_rows_of(task, [&](int64_t at) {
          for (int64_t k = 0, i = at + r * plan_.work; k < columns(); k += step, i += step)
            sum += load_wide(cycle_.even + i) * load_wide(even_image_ + i) +
                   load_wide(cycle_.odd + i) * load_wide(odd_image_ + i);
        });
      slot(overlap, task)[r] = add_lanes(sum);
    }
  }

  // Direction = the cycle's solution, made conjugate to the last direction. That holds whatever the cycle's rounding
  // does to its symmetry, and whether or not the residual has been brought back to the true one since.
  void turn(int64_t task) {
    const int64_t width = (level_.even_lines() + lanes<float> - 1) / lanes<float> * lanes<float>;
    for (int r = 0; r < Sources; ++r) {
      const Progress& p = progress_[r];
      const bool alone = p.steps == 0 || !(p.length > 0);  // then it may hold anything
      const Vec<float> keep = broadcast<Vec<float>>(alone ? 0.0f : float(-total(overlap, r) / p.length));
      for_rows_of(task, [&](int64_t at) {
        for (int64_t k = 0, i = at + r * plan_.work; k < width; k += lanes<float>, i += lanes<float>) {
          const Vec<float> even = load(cycle_.even + i), odd = load(cycle_.odd + i);
          store(even_direction_ + i, alone ? even : even + keep * load(even_direction_ + i));
          store(odd_direction_ + i, alone ? odd : odd + keep * load(odd_direction_ + i));
        }
      });
    }
  }

  // The direction with the residual is not taken from the cycle's solution, to which it would be equal without
  // rounding: with what is left at the end it is not, and steps would lead astray.
  void image(int64_t task) {
    Vec<double> length[Sources], along[Sources];
    for (int r = 0; r < Sources; ++r) length[r] = along[r] = Vec<double>{};
    for_rows_of(task, [&](int64_t row) {
      for (int64_t k = 0, i = row; k < columns(); k += step, i += step) {
        Vec<double> of_even[Sources], of_odd[Sources];
        for (int r = 0; r < Sources; ++r) {
          const float *even = even_direction_ + r * plan_.work, *odd = odd_direction_ + r * plan_.work;
          of_even[r] = image_of_even(matrix_, even, odd, i, level_.pitch);
          of_odd[r] = image_of_odd(matrix_, even, odd, i, level_.pitch);
        }
        for (int r = 0; r < Sources; ++r) {
          const int64_t at = i + r * plan_.work;
          const Vec<double> even = load_wide(even_direction_ + at), odd = load_wide(odd_direction_ + at);
          store_narrow(even_image_ + at, of_even[r]);
          store_narrow(odd_image_ + at, of_odd[r]);
          length[r] += even * of_even[r] + odd * of_odd[r];
          along[r] += even * load_wide(cycle_.even_source + at) + odd * load_wide(cycle_.odd_source + at);
        }
      }
    });
    for (int r = 0; r < Sources; ++r) {
      slot(with_image, task)[r] = add_lanes(length[r]);
      slot(with_residual, task)[r] = add_lanes(along[r]);
    }
  }

  void advance(int64_t task) {
    for (int r = 0; r < Sources; ++r) {
      Vec<double> sum{};
      const double length = total(with_image, r);
      if (progress_[r].going && length > 0) {
        const Vec<double> by = broadcast<Vec<double>>(total(with_residual, r) / length);
        const auto move = [&](int64_t narrow, int64_t wide, const float* direction, const float* image,
                              double* solution, float* source) {
          store(solution + wide, load(solution + wide) + by * load_wide(direction + narrow));
          const Vec<double> left = load_wide(source + narrow) - by * load_wide(image + narrow);
          store_narrow(source + narrow, left);
          return left * left;
        };
        for_rows_of(task, [&](int64_t row) {
          for (int64_t k = 0; k < columns(); k += step) {
            const int64_t narrow = row + k + r * plan_.work, wide = row + k + r * plan_.work / 2;
            sum += move(narrow, wide, even_direction_, even_image_, even_solution_, cycle_.even_source) +
                   move(narrow, wide, odd_direction_, odd_image_, odd_solution_, cycle_.odd_source);
          }
        });
      }
      slot(squares, task)[r] = add_lanes(sum);
    }
  }

  // Residual = source - A solution, in float64; the sum of squares.
  double true_residual(int r) {
    const T* source = static_cast<const T*>(args_.source) + (first_ + r) * args_.height * args_.width;
    const double *u = even_solution_ + r * plan_.work / 2, *v = odd_solution_ + r * plan_.work / 2;
    parallel_phases(
        threads_, 1, [&](int64_t) { return slots(); },
        [&](int64_t, int64_t task, int) {
          Vec<double> sum{};
          for_rows_of(task, [&](int64_t at) {
            constexpr int64_t chunk = 64;
            const T* row = source + at / level_.pitch * args_.width;
            for (int64_t first = 0; first < columns(); first += chunk) {
              double even[chunk], odd[chunk];  // of the source
              const int64_t count = columns() - first < chunk ? columns() - first : chunk;
              for (int64_t k = 0; k < count; ++k) {
                const int64_t x = 2 * (first + k);
                even[k] = x < args_.width ? double(row[x]) : 0.0;
                odd[k] = x + 1 < args_.width ? double(row[x + 1]) : 0.0;
              }
              for (int64_t k = 0; k < count; k += step) {
                const int64_t i = at + first + k, to = i + r * plan_.work;
                const Vec<double> of_even = load(even + k) - image_of_even(matrix_, u, v, i, level_.pitch);
                const Vec<double> of_odd = load(odd + k) - image_of_odd(matrix_, u, v, i, level_.pitch);
                store_narrow(cycle_.even_source + to, of_even);
                store_narrow(cycle_.odd_source + to, of_odd);
                sum += of_even * of_even + of_odd * of_odd;
              }
            }
          });
          slot(squares, task)[r] = add_lanes(sum);
        });
    return total(squares, r);
  }

  void write_solution(int r) {
    T* solution = static_cast<T*>(args_.solution) + (first_ + r) * args_.height * args_.width;
    for_rows([&](int64_t y) {
      T* row = solution + y * args_.width;
      const int64_t at = y * level_.pitch + r * plan_.work / 2;
      for (int64_t k = 0; k < level_.odd_lines(); ++k) {
        row[2 * k] = T(even_solution_[at + k]);
        row[2 * k + 1] = T(odd_solution_[at + k]);
      }
      if (args_.width % 2) row[args_.width - 1] = T(even_solution_[at + level_.even_lines() - 1]);
    });
  }

  const WlsSolve& args_;
  const int64_t first_;
  const WlsPlan plan_;
  const WlsLevel& level_;
  const int threads_;
  const WlsMatrix matrix_;
  const WlsVectors cycle_;
  const WlsCycle<Sources> whole_cycle_;
  const Scratch<double> slots_;  // [sums of a step][slots][Sources]
  Progress progress_[Sources];
  // Of the first source; those of the next one are WlsPlan::work floats further on.
  double *even_solution_, *odd_solution_;
  float *even_direction_, *odd_direction_, *even_image_, *odd_image_;
};

}  // namespace fastseg::FASTSEG_ISA
