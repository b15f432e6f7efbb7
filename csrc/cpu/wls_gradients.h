// Conjugate gradients in float64 around the float32 cycle. Solution and residual are float64: rounded to float32, a
// solution has a residual of about lambda * 1e4 * 6e-8, which is where float32 alone stalls. The direction and its
// image under A may be rounded, since the residual follows them as they are.
//
// Floor, bytes a pixel and step: direction 12, its image 28, solution and residual 44, products 8.
#pragma once
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

// The vectors of a solve on level 0, by parity.
struct WlsIterates {
  double *even_solution, *odd_solution;
  float *even_direction, *odd_direction, *even_image, *odd_image;
};

// Rows whose sums share a slot, so that sums do not depend on the number of threads.
constexpr int64_t wls_rows_a_slot = 8;

// Calls body(row, sums) for all rows and adds up what it adds to its two sums.
struct TwoSums {
  double first, second;
};
template <class Body>
inline TwoSums sum_rows(const WlsLevel& level, double* slots, int threads, const Body& body) {
  const int64_t count = (level.rows + wls_rows_a_slot - 1) / wls_rows_a_slot;
  parallel_spans(threads_for(level, threads), count, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Vec<double> first{}, second{};
      const int64_t last = (i + 1) * wls_rows_a_slot < level.rows ? (i + 1) * wls_rows_a_slot : level.rows;
      for (int64_t y = i * wls_rows_a_slot; y < last; ++y) body(y, first, second);
      slots[2 * i] = add_lanes(first);
      slots[2 * i + 1] = add_lanes(second);
    }
  });
  TwoSums total{0, 0};
  for (int64_t i = 0; i < count; ++i) total.first += slots[2 * i], total.second += slots[2 * i + 1];
  return total;
}

// A x at some lanes: x plus differences to neighbours times links.
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

template <class T>
class ConjugateGradients {
 public:
  ConjugateGradients(WlsSolve& args, int threads)
      : args_(args),
        threads_(threads),
        plan_(wls_plan(args.height, args.width)),
        level_(plan_.level[0]),
        matrix_(matrix_of(args.system, level_, true)),
        cycle_(vectors_of(args.work, level_)),
        slots_(2 * ((level_.rows + wls_rows_a_slot - 1) / wls_rows_a_slot)) {
    for (int i = 0; i < plan_.levels; ++i) clear_borders(args.work + plan_.level[i].work, plan_.level[i], 4, threads);
    float* rest = args.work + plan_.iterates;
    if (level_.lines == 1)  // no odd line, and so nothing that would write its lane
      for (int64_t y = 0; y < level_.rows; ++y) cycle_.odd[y * level_.pitch] = 0;
    // Arrays of float64 are twice as long and have twice the border.
    clear_wide_borders(reinterpret_cast<double*>(rest));
    clear_borders(rest + 4 * level_.size, level_, 4, threads);
    double* wide = origin(reinterpret_cast<double*>(rest), level_);
    float* narrow = origin(rest + 4 * level_.size, level_);
    const int64_t size = level_.size;
    v_ = {wide, wide + size, narrow, narrow + size, narrow + 2 * size, narrow + 3 * size};
  }

  void solve() {
    const double size = read_source();
    args_.iterations = 0;
    args_.residual = 0;
    double reached = size, before = size;
    int stalled = 0;
    while (reached > args_.tolerance * args_.tolerance * size && args_.iterations < args_.max_iterations) {
      const double wanted = args_.tolerance * args_.tolerance * size;
      descend(wanted > reliable * reached ? wanted : reliable * reached);
      reached = true_residual();
      // Rounding has parted the residual from the solution; from the true one it goes on, as long as that helps.
      stalled = reached < 0.25 * before ? 0 : stalled + 1;
      if (stalled > 2) break;
      if (reached < before) before = reached;
    }
    args_.residual = size > 0 ? __builtin_sqrt(reached / size) : 0;
    write_solution();
  }

 private:
  static constexpr int64_t step = lanes<double>;

  // By how much the residual's sum of squares may fall before it is computed anew. Later, what rounding has added to it
  // would be a part of it that disturbs the directions.
  static constexpr double reliable = 1e-3;

  int64_t columns() const { return (level_.even_lines() + step - 1) / step * step; }

  template <class Body>
  void for_rows(const Body& body) const {
    parallel_spans(threads_for(level_, threads_), level_.rows, [&](int64_t begin, int64_t end) {
      for (int64_t y = begin; y < end; ++y) body(y);
    });
  }

  void clear_wide_borders(double* arrays) {
    parallel_spans(threads_for(level_, threads_), 2 * (level_.rows + 2), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const int64_t row = i % (level_.rows + 2);
        const bool border = row == 0 || row == level_.rows + 1;
        double* to = arrays + i * level_.pitch;
        for (int64_t x = 0; x < (border ? level_.pitch : WlsLevel::pad); ++x) to[x] = 0;
        for (int64_t x = WlsLevel::pad + level_.even_lines(); x < level_.pitch; ++x) to[x] = 0;
      }
    });
  }

  // Residual = source, solution = 0; the sum of squares.
  double read_source() {
    for_rows([&](int64_t y) {
      for (int64_t k = 0, i = y * level_.pitch; k < columns(); k += step, i += step)
        store(v_.even_solution + i, Vec<double>{}), store(v_.odd_solution + i, Vec<double>{});
    });
    return true_residual();
  }

  // Steps until the residual that is carried along has at most `wanted` as its sum of squares.
  void descend(double wanted) {
    while (args_.iterations < args_.max_iterations) {
      cycle(plan_, args_.system, args_.work, 0, threads_);
      // The new direction is conjugate to the last one whatever the cycle's rounding does to its symmetry, and whether
      // or not the residual has been brought back to the true one since.
      turn(args_.iterations == 0 ? 0 : -overlap() / length_);
      const TwoSums products = image();  // direction with its image, direction with the residual
      if (!(products.first > 0)) return;
      length_ = products.first;
      ++args_.iterations;
      if (!(advance(products.second / length_) > 0.81 * wanted)) return;  // a margin for what rounding has lost
    }
  }

  // The cycle's solution times the direction's image.
  double overlap() {
    return sum_rows(level_, slots_.get(), threads_,
                    [&](int64_t y, Vec<double>& sum, Vec<double>&) {
                      for (int64_t k = 0, i = y * level_.pitch; k < columns(); k += step, i += step)
                        sum += load_wide(cycle_.even + i) * load_wide(v_.even_image + i) +
                               load_wide(cycle_.odd + i) * load_wide(v_.odd_image + i);
                    })
        .first;
  }

  void turn(double keep) {
    const int64_t width = (level_.even_lines() + lanes<float> - 1) / lanes<float> * lanes<float>;
    const Vec<float> factor = broadcast<Vec<float>>(float(keep));
    const bool first = keep == 0;  // the direction may hold anything then
    for_rows([&](int64_t y) {
      for (int64_t k = 0, i = y * level_.pitch; k < width; k += lanes<float>, i += lanes<float>) {
        const Vec<float> even = load(cycle_.even + i), odd = load(cycle_.odd + i);
        store(v_.even_direction + i, first ? even : even + factor * load(v_.even_direction + i));
        store(v_.odd_direction + i, first ? odd : odd + factor * load(v_.odd_direction + i));
      }
    });
  }

  // The direction with the residual is not taken from the cycle's solution, to which it would be equal without
  // rounding: with what is left at the end it is not, and steps would lead astray.
  TwoSums image() {
    return sum_rows(level_, slots_.get(), threads_,
                    [&](int64_t y, Vec<double>& with_image, Vec<double>& with_residual) {
                      const float *even = v_.even_direction, *odd = v_.odd_direction;
                      for (int64_t k = 0, i = y * level_.pitch; k < columns(); k += step, i += step) {
                        const Vec<double> even_image = image_of_even(matrix_, even, odd, i, level_.pitch);
                        const Vec<double> odd_image = image_of_odd(matrix_, even, odd, i, level_.pitch);
                        store_narrow(v_.even_image + i, even_image);
                        store_narrow(v_.odd_image + i, odd_image);
                        with_image += load_wide(even + i) * even_image + load_wide(odd + i) * odd_image;
                        with_residual += load_wide(even + i) * load_wide(cycle_.even_source + i) +
                                         load_wide(odd + i) * load_wide(cycle_.odd_source + i);
                      }
                    });
  }

  double advance(double length) {
    const Vec<double> by = broadcast<Vec<double>>(length);
    return sum_rows(level_, slots_.get(), threads_,
                    [&](int64_t y, Vec<double>& squares, Vec<double>&) {
                      const auto move = [&](int64_t i, const float* direction, const float* image, double* solution,
                                            float* source) {
                        store(solution + i, load(solution + i) + by * load_wide(direction + i));
                        const Vec<double> left = load_wide(source + i) - by * load_wide(image + i);
                        store_narrow(source + i, left);
                        return left * left;
                      };
                      for (int64_t k = 0, i = y * level_.pitch; k < columns(); k += step, i += step)
                        squares += move(i, v_.even_direction, v_.even_image, v_.even_solution, cycle_.even_source) +
                                   move(i, v_.odd_direction, v_.odd_image, v_.odd_solution, cycle_.odd_source);
                    })
        .first;
  }

  // Residual = source - A solution, in float64; the sum of squares.
  double true_residual() {
    return sum_rows(level_, slots_.get(), threads_,
                    [&](int64_t y, Vec<double>& squares, Vec<double>&) {
                      constexpr int64_t chunk = 64;
                      const T* row = static_cast<const T*>(args_.source) + y * args_.width;
                      for (int64_t first = 0; first < columns(); first += chunk) {
                        double even[chunk], odd[chunk];  // of the source
                        const int64_t count = columns() - first < chunk ? columns() - first : chunk;
                        for (int64_t k = 0; k < count; ++k) {
                          const int64_t x = 2 * (first + k);
                          even[k] = x < args_.width ? double(row[x]) : 0.0;
                          odd[k] = x + 1 < args_.width ? double(row[x + 1]) : 0.0;
                        }
                        for (int64_t k = 0; k < count; k += step) {
                          const int64_t i = y * level_.pitch + first + k;
                          const double *u = v_.even_solution, *v = v_.odd_solution;
                          const Vec<double> even_left = load(even + k) - image_of_even(matrix_, u, v, i, level_.pitch);
                          const Vec<double> odd_left = load(odd + k) - image_of_odd(matrix_, u, v, i, level_.pitch);
                          store_narrow(cycle_.even_source + i, even_left);
                          store_narrow(cycle_.odd_source + i, odd_left);
                          squares += even_left * even_left + odd_left * odd_left;
                        }
                      }
                    })
        .first;
  }

  void write_solution() {
    for_rows([&](int64_t y) {
      T* row = static_cast<T*>(args_.solution) + y * args_.width;
      const int64_t at = y * level_.pitch;
      for (int64_t k = 0; k < level_.odd_lines(); ++k) {
        row[2 * k] = T(v_.even_solution[at + k]);
        row[2 * k + 1] = T(v_.odd_solution[at + k]);
      }
      if (args_.width % 2) row[args_.width - 1] = T(v_.even_solution[at + level_.even_lines() - 1]);
    });
  }

  WlsSolve& args_;
  const int threads_;
  const WlsPlan plan_;
  const WlsLevel& level_;
  const WlsMatrix matrix_;
  const WlsVectors cycle_;
  const Scratch<double> slots_;
  WlsIterates v_;
  double length_ = 0;  // the direction times its image
};

}  // namespace fastseg::FASTSEG_ISA
