// Phases of tasks in one parallel region, for kernels whose passes depend on each other.
#pragma once
#include <sched.h>

#include <cstdint>

namespace fastseg::FASTSEG_ISA {

// Calls body(phase, task, thread) for every task of every phase; tasks of a phase run in any order on any thread, after
// all tasks of the phase before. A barrier waits for every thread, and where another process has taken the core of one,
// for its time slice (8 ms were measured, for a pass of 0.2 ms). So threads take tasks one by one, and a phase waits
// for tasks: a thread without a core holds up nobody until the end of the region, unless it was amid a task.
template <class Tasks, class Body>
inline void parallel_phases(int threads, int64_t phases, const Tasks& tasks, const Body& body) {
  if (threads <= 1) {
    for (int64_t phase = 0; phase < phases; ++phase)
      for (int64_t task = 0; task < tasks(phase); ++task) body(phase, task, 0);
    return;
  }
  struct alignas(128) Counter {
    int64_t value = 0;
  };
  Counter taken, done;
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int thread = 0; thread < threads; ++thread) {
    int64_t before = 0;  // tasks of earlier phases
    int64_t ticket = __atomic_fetch_add(&taken.value, 1, __ATOMIC_RELAXED);
    for (int64_t phase = 0; phase < phases; ++phase) {
      const int64_t end = before + tasks(phase);
      while (ticket < end) {
        for (int spin = 1; __atomic_load_n(&done.value, __ATOMIC_ACQUIRE) < before; ++spin)
          if (spin % 1024 == 0) sched_yield();  // to the thread that is waited for, perhaps
        body(phase, ticket - before, thread);
        __atomic_fetch_add(&done.value, 1, __ATOMIC_RELEASE);
        ticket = __atomic_fetch_add(&taken.value, 1, __ATOMIC_RELAXED);
      }
      before = end;
    }
  }
}

}  // namespace fastseg::FASTSEG_ISA
