// Exact weighted-least-squares filtering on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the
// best one that the processor has. wls_setup.h sets up, wls_cycle.h is the preconditioner, wls_gradients.h the solver.
#include "wls_gradients.h"
#include "wls_setup.h"

namespace fastseg::FASTSEG_ISA {

void wls_setup(const WlsSetup& args, int threads) {
  const WlsPlan plan = wls_plan(args.height, args.width);
  const WlsSetupWork work(args, plan, threads);
  parallel_phases(
      threads_for(plan.level[0], threads), work.phases(), [&](int64_t phase) { return work.tasks(phase); },
      [&](int64_t phase, int64_t task, int) { work.run(phase, task); });
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
