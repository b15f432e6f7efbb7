// Exact weighted-least-squares filtering on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the
// best one that the processor has. wls_setup.h sets up, wls_cycle.h is the preconditioner, wls_gradients.h the solver.
#include "wls_gradients.h"
#include "wls_setup.h"

namespace fastseg::FASTSEG_ISA {

namespace {

// Two levels' own arrays are alive at a time, so levels take turns.
WlsScratch scratch_of(const WlsPlan& plan, int depth, float* scratch) {
  const WlsLevel& level = plan.level[depth];
  const int64_t size = level.size;
  float* own = origin(scratch + (depth % 2 ? plan.scratch_of_odd : 0), level);
  float* made = origin(scratch + plan.scratch_made, level);
  return {own,
          own + size,
          own + 2 * size,
          own + 3 * size,
          made,
          made + size,
          made + 2 * size,
          made + 3 * size,
          made + 4 * size,
          made + 5 * size,
          made + 6 * size,
          made + 7 * size};
}

}  // namespace

void wls_setup(const WlsSetup& args, int threads) {
  const WlsPlan plan = wls_plan(args.height, args.width);
  const auto clear = [&](float* first, const WlsLevel& level, int64_t count) {
    clear_borders(first - level.pitch - WlsLevel::pad, level, count, threads);
  };
  for (int depth = 0; depth < plan.levels; ++depth) {
    const WlsLevel& level = plan.level[depth];
    const WlsMatrix m = matrix_of(args.system, level, depth == 0);
    WlsScratch s = scratch_of(plan, depth, args.scratch);
    clear(s.left_weight, level, 8);
    if (depth == 0) {
      s.even_next = m.even_next, s.odd_next = m.odd_next;
      clear(m.even_factor, level, 8);
      clear(s.even_sum, level, 2);
      if (args.type == Element::float64)
        read_guide<double>(args, level, m, s, threads);
      else
        read_guide<float>(args, level, m, s, threads);
      set_up_level<false>(level, m, s, threads);
    } else {
      set_up_level<true>(level, m, s, threads);
    }
    if (depth + 1 == plan.levels) return;
    const WlsLevel& next = plan.level[depth + 1];
    const WlsMatrix to = matrix_of(args.system, next, false);
    const WlsScratch own = scratch_of(plan, depth + 1, args.scratch);
    clear(to.even_factor, next, 10);
    clear(own.even_sum, next, 4);
    transpose_matrix(level, s, next, to, own, threads);
  }
}

namespace {

template <class T>
void solve(const WlsSolve& args, int threads) {
  int64_t first = 0;
  for (; first + 3 <= args.sources && args.sources - first != 4; first += 3)
    ConjugateGradients<T, 3>(args, first, threads).solve();
  for (; first + 2 <= args.sources; first += 2) ConjugateGradients<T, 2>(args, first, threads).solve();
  if (first < args.sources) ConjugateGradients<T, 1>(args, first, threads).solve();
}

}  // namespace

void wls_solve(const WlsSolve& args, int threads) {
  static_assert(WlsSolve::together == 3, "at most three sources share a cycle");
  args.type == Element::float64 ? solve<double>(args, threads) : solve<float>(args, threads);
}

}  // namespace fastseg::FASTSEG_ISA
