// Where the arrays of a multigrid hierarchy lie. Compiled once: it holds nothing that a vector would help.
#include "fastseg/wls.h"

namespace fastseg {
namespace {

constexpr int64_t rounded_up(int64_t count, int64_t unit) { return (count + unit - 1) / unit * unit; }

// Rows a multiple of 4 KB apart would share a few sets of the caches, and lines are walked row by row.
int64_t pitch_of(int64_t lines) {
  const int64_t pitch = rounded_up((lines + 1) / 2, WlsLevel::pad) + 2 * WlsLevel::pad;
  return pitch % 256 == 0 ? pitch + WlsLevel::pad : pitch;
}

int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }

}  // namespace

WlsPlan wls_plan(int64_t height, int64_t width) {
  WlsPlan plan{};
  int64_t largest[2] = {0, 0};  // array of an even and of an odd level
  for (int64_t rows = height, lines = width;;) {
    WlsLevel& level = plan.level[plan.levels];
    level = {rows, lines, pitch_of(lines), 0, plan.system, plan.work};
    level.size = (rows + 2) * level.pitch;
    const int arrays = plan.levels == 0 ? 8 : 10;
    plan.system += arrays * level.size;
    plan.work += 4 * level.size;
    largest[plan.levels % 2] = larger(largest[plan.levels % 2], level.size);
    ++plan.levels;
    if (lines == 1 || plan.levels == WlsPlan::max_levels) break;
    const int64_t kept = level.even_lines();
    lines = rows;
    rows = kept;
  }
  // The solution in float64, direction and its image, each of two parities.
  plan.iterates = plan.work;
  plan.work += (2 * 2 + 4) * plan.level[0].size;
  // Sources lie this far from each other; a multiple of 4 KB would make their vectors share sets of the caches.
  plan.work = rounded_up(plan.work, 1024) + 17 * WlsLevel::pad;
  plan.scratch_of_odd = 4 * largest[0];
  plan.scratch_made = plan.scratch_of_odd + 4 * largest[1];
  plan.scratch = plan.scratch_made + 8 * larger(largest[0], largest[1]);
  return plan;
}

}  // namespace fastseg
