// Products of a few inputs and a block of outputs in registers, summed up over pixels: what gradients of weights are.
#pragma once
#include "context_packed.h"

namespace fastseg::FASTSEG_ISA {

// Neighbouring pixels that have a source: where they lie in the panel of a band, and the number of the image at which
// their sources begin.
template <class A>
struct GradientRun {
  const A* grad;
  int64_t source, pixels;
};

// Pixels whose products are added up in float32: of 1024 the error was up to three times that of torch's gradients.
constexpr int64_t most_correlated = 256;

// Adds a vector to float64 sums, one a lane.
inline void add_to_lanes(Vec<double> v, double* to) { store(to, load(to) + v); }
inline void add_to_lanes(Vec<float> v, double* to) {
  typedef float Half __attribute__((vector_size(vector_bytes / 2)));
  Half halves[2];
  std::memcpy(halves, &v, sizeof halves);
  for (int i = 0; i < 2; ++i) add_to_lanes(__builtin_convertvector(halves[i], Vec<double>), to + i * lanes<double>);
}

// Adds the products of `Inputs` inputs of sources, `pitch` from one to the next, and V vectors of outputs, over all
// runs, to sums [Inputs][V].
template <int V, int Inputs, class A>
inline void correlate_runs(const GradientRun<A>* runs, int64_t count, const A* image, int64_t pitch, double* sums) {
  constexpr int L = lanes<A>;
  int64_t r = 0, done = 0;  // the run, and its pixels that are added up
  while (r < count) {
    Vec<A> sum[Inputs][V];
#pragma GCC unroll 8
    for (int c = 0; c < Inputs; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) sum[c][v] = Vec<A>{};
    for (int64_t room = most_correlated; room > 0 && r < count;) {
      const int64_t pixels = least(room, runs[r].pixels - done);
      const A *x = image + runs[r].source + done * pitch, *grad = runs[r].grad + done * V * L;
      for (int64_t p = 0; p < pixels; ++p, x += pitch, grad += V * L) {
        Vec<A> g[V];
#pragma GCC unroll 4
        for (int v = 0; v < V; ++v) g[v] = load(grad + v * L);
#pragma GCC unroll 8
        for (int c = 0; c < Inputs; ++c) {
          const Vec<A> value = broadcast<Vec<A>>(x[c]);
#pragma GCC unroll 4
          for (int v = 0; v < V; ++v) sum[c][v] += value * g[v];
        }
      }
      room -= pixels, done += pixels;
      if (done == runs[r].pixels) ++r, done = 0;
    }
#pragma GCC unroll 8
    for (int c = 0; c < Inputs; ++c)
#pragma GCC unroll 4
      for (int v = 0; v < V; ++v) add_to_lanes(sum[c][v], sums + (c * V + v) * L);
  }
}

// The vectors of outputs of the products that take a block of these.
template <class A>
inline int correlation_vectors(int64_t outputs) {
  const int64_t vectors = ceil_div(outputs, lanes<A>);
  return vectors == 1 ? 1 : tile_output_vectors == 4 && vectors == 2 ? 2 : tile_output_vectors;
}

template <class A>
using Correlation = void (*)(const GradientRun<A>* runs, int64_t count, const A* image, int64_t pitch, double* sums);
template <class A>
inline Correlation<A> correlation(int vectors, int64_t inputs) {
  constexpr int all = int(inputs_together(tile_output_vectors)), more = most_inputs_together;
  if (vectors == 1) return inputs == more ? correlate_runs<1, more, A> : correlate_runs<1, all, A>;
  if (vectors < tile_output_vectors) return inputs == more ? correlate_runs<2, more, A> : correlate_runs<2, all, A>;
  return correlate_runs<tile_output_vectors, all, A>;
}

}  // namespace fastseg::FASTSEG_ISA
