// The wls family: (I + lambda L) u = g on an image's grid, solved by conjugate gradients with a multigrid
// preconditioner of lines (docs/wls.md). L's weights are 1 / (|difference of log guide|^alpha + eps) between
// neighbours.
#pragma once
#include "fastseg/tensor.h"

namespace fastseg {

// One level of the multigrid hierarchy. Its lines run down the rows of memory, so that vectors lie across lines. Even
// lines stay on the next level, odd ones do not; each parity has arrays of its own, with zeros around them: one row
// above and below, `pad` columns left and right. The next level is transposed: its lines run across this one's.
struct WlsLevel {
  static constexpr int64_t pad = 16;
  int64_t rows;    // pixels of a line
  int64_t lines;   // of both parities
  int64_t pitch;   // floats from row to row
  int64_t size;    // floats of an array
  int64_t system;  // where its first array is in the system, in floats
  int64_t work;    // where its first array is in the workspace of a solve, in floats

  int64_t even_lines() const { return (lines + 1) / 2; }
  int64_t odd_lines() const { return lines / 2; }
};

struct WlsPlan {
  static constexpr int max_levels = 128;
  int levels;
  WlsLevel level[max_levels];
  int64_t system;          // floats that a system keeps
  int64_t scratch;         // floats while it is set up
  int64_t work;            // floats of a solve
  int64_t iterates;        // where the vectors of conjugate gradients begin in the workspace
  int64_t scratch_of_odd;  // where arrays of odd levels begin in the scratch memory
  int64_t scratch_made;    // and those that a level makes for the next one
};

// Of an image of H x W pixels, both at least 1.
WlsPlan wls_plan(int64_t height, int64_t width);

struct WlsSetup {
  int64_t height, width;
  const void* guide;  // [height, width], dense, not negative
  Element type;       // float32 or float64
  double lambda, alpha, eps;
  float* system;   // written
  float* scratch;  // uninitialised
};

struct WlsSolve {
  // As many sources are solved side by side.
  static constexpr int64_t together = 3;

  int64_t sources, height, width;
  const float* system;
  const void* source;      // [sources, height, width], dense
  void* solution;          // likewise, written
  Element type;            // float32 or float64
  float* work;             // uninitialised, WlsPlan::work for each of min(sources, together)
  double tolerance;        // of |g - A u| / |g|
  int64_t max_iterations;  // of each source
  int64_t* iterations;     // [sources], written
  double* residual;        // [sources], |g - A u| / |g| of the solution before it is rounded, written
};

namespace cpu {
void wls_setup(const WlsSetup& args, int threads);
void wls_solve(const WlsSolve& args, int threads);
}  // namespace cpu

}  // namespace fastseg
