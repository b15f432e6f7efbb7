// The context family on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the
// processor has.
#include "context_convolution.h"
#include "context_gradient.h"
#include "context_winograd.h"
#include "fastseg/cpu/phases.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// From x to y, or transposed from y to dx, in the faster one of two ways.
template <class T>
struct Convolution {
  bool by_tiles;
  WinogradConvolution<T> tiles;
  ContextConvolution<T> direct;

  Convolution(const ContextConv& args, const Pixels<T>& source, bool transposed, bool stream, int threads,
              Workspace& workspace)
      : by_tiles(WinogradConvolution<T>::pays(args, transposed)),
        tiles(args, source, transposed, stream, by_tiles, threads, workspace),
        direct(args, source, transposed, stream, !by_tiles && (!transposed || args.dx), threads, workspace) {}

  int64_t weight_tasks() const { return by_tiles ? tiles.weight_tasks() : direct.weight_tasks(); }
  void pack_weights(int64_t task) const { by_tiles ? tiles.pack_weights(task) : direct.pack_weights(task); }
  int64_t tasks() const { return by_tiles ? tiles.tasks() : direct.tasks(); }
  void run(int64_t task, int thread) const { by_tiles ? tiles.run(task, thread) : direct.run(task, thread); }
};

template <class T>
struct Forward {
  Workspace workspace;
  Pixels<T> x;
  Convolution<T> convolution;

  Forward(const ContextConv& args, int threads, bool stream)
      : workspace(args.workspace),
        x(args.x, args.batch, args.inputs, args.pixels(), workspace),
        convolution(args, x, false, stream, threads, workspace) {}

  // Copies first, then products.
  void run(int threads) const {
    const int64_t tasks[] = {x.tasks() + convolution.weight_tasks(), convolution.tasks()};
    parallel_phases(
        threads, 2, [&](int64_t phase) { return tasks[phase]; },
        [&](int64_t phase, int64_t task, int thread) {
          if (phase == 1)
            convolution.run(task, thread);
          else if (task < x.tasks())
            x.copy(task);
          else
            convolution.pack_weights(task - x.tasks());
        });
  }
};

template <class T>
struct Backward {
  using A = compute_t<T>;
  Workspace workspace;
  Pixels<T> grad, x;
  Convolution<T> convolution;
  InputGroups<T> groups;
  ContextGradient<T> gradient;

  Backward(const ContextConv& args, int threads, bool stream)
      : workspace(args.workspace),
        grad(args.y, args.batch, args.branches.outputs(), args.output_pixels(), workspace),
        x(args.x, args.batch, args.inputs, args.pixels(), workspace),
        convolution(args, grad, true, stream, threads, workspace),
        groups(args, x, correlated_inputs<A>(args.branches),
               args.x && !gradient_by_panel<A>(args) && !gradient_by_tiles<T>(args), workspace),
        gradient(args, grad, x, groups, threads, workspace) {}

  void run(int threads) const {
    const int64_t copies = grad.tasks() + x.tasks();
    // The longer tasks first, so that no thread is left with one at the end.
    const int64_t tasks[] = {copies + convolution.weight_tasks(), groups.tasks(),
                             gradient.tasks() + convolution.tasks(), gradient.last_tasks()};
    parallel_phases(
        threads, 4, [&](int64_t phase) { return tasks[phase]; },
        [&](int64_t phase, int64_t task, int thread) {
          if (phase == 3)
            gradient.run_last(task);
          else if (phase == 2)
            task < gradient.tasks() ? gradient.run(task, thread) : convolution.run(task - gradient.tasks(), thread);
          else if (phase == 1)
            groups.copy(task);
          else if (task < grad.tasks())
            grad.copy(task);
          else if (task < copies)
            x.copy(task - grad.tasks());
          else
            convolution.pack_weights(task - copies);
        });
  }
};

}  // namespace

void context_conv_forward(const ContextConv& args, int threads, bool stream) {
  with_element(args.x.type, [&](auto element) { Forward<decltype(element)>(args, threads, stream).run(threads); });
}

void context_conv_backward(const ContextConv& args, int threads, bool stream) {
  with_element(args.y.type, [&](auto element) { Backward<decltype(element)>(args, threads, stream).run(threads); });
}

int64_t context_conv_workspace(const ContextConv& args, bool backward, int threads) {
  int64_t bytes = 0;
  with_element(args.y.type, [&](auto element) {
    using T = decltype(element);
    bytes = backward ? Backward<T>(args, threads, false).workspace.used()
                     : Forward<T>(args, threads, false).workspace.used();
  });
  return bytes;
}

}  // namespace fastseg::FASTSEG_ISA
