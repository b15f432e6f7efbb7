// The context family on the CPU. Compiled once per instruction set; csrc/cpu/dispatch.cpp calls the best one that the
// processor has.
#include <deque>

#include "context_convolution.h"
#include "context_gradient.h"
#include "context_winograd.h"
#include "fastseg/cpu/phases.h"

namespace fastseg::FASTSEG_ISA {
namespace {

// The same call for some of its branches: those that tiles take one by one, and the others together, which come first.
template <class ByTiles>
std::deque<ContextConv> parts_of(const ContextConv& args, const ByTiles& by_tiles) {
  std::deque<ContextConv> parts(1, args);
  ContextBranches& direct = parts[0].branches;
  direct.count = 0;
  for (int64_t b = 0; b < args.branches.count; ++b) {
    ContextConv one = args;
    one.branches.count = 1;
    one.branches.branch[0] = args.branches.branch[b];
    if (by_tiles(one))
      parts.push_back(one);
    else
      direct.branch[direct.count++] = args.branches.branch[b];
  }
  if (!direct.count && parts.size() > 1) parts.pop_front();
  return parts;
}

// From x to y, or transposed from y to dx, in the faster one of two ways.
template <class T>
struct Convolution {
  bool by_tiles;
  WinogradConvolution<T> tiles;
  ContextConvolution<T> direct;

  Convolution(const ContextConv& args, const Pixels<T>& source, bool transposed, bool adds, bool stream, int threads,
              Workspace& workspace)
      : by_tiles(WinogradConvolution<T>::pays(args, transposed)),
        tiles(args, source, transposed, adds, stream, by_tiles, threads, workspace),
        direct(args, source, transposed, stream, !by_tiles && (!transposed || args.dx), threads, workspace) {}

  int64_t weight_tasks() const { return by_tiles ? tiles.weight_tasks() : direct.weight_tasks(); }
  void pack_weights(int64_t task) const { by_tiles ? tiles.pack_weights(task) : direct.pack_weights(task); }
  int64_t tasks() const { return by_tiles ? tiles.tasks() : direct.tasks(); }
  void run(int64_t task, int thread) const { by_tiles ? tiles.run(task, thread) : direct.run(task, thread); }
};

// All branches, part by part, each of which has two phases: its weights, and its products.
template <class T>
struct Convolutions {
  std::deque<ContextConv> args;
  std::deque<Convolution<T>> parts;

  Convolutions(const ContextConv& all, const Pixels<T>& source, bool transposed, bool stream, int threads,
               Workspace& workspace)
      // Sums of 16 bits that are added up part by part would be rounded each time.
      : args(parts_of(all, [&](const ContextConv& one) {
          return (all.branches.count == 1 || !transposed || std::is_same_v<T, compute_t<T>>) &&
                 WinogradConvolution<T>::pays(one, transposed);
        })) {
    workspace.share(count(), [&](int64_t i) {
      parts.emplace_back(args[i], source, transposed, transposed && i > 0, stream, threads, workspace);
    });
  }

  int64_t count() const { return int64_t(args.size()); }
  int64_t weight_tasks(int64_t part) const { return part < count() ? parts[part].weight_tasks() : 0; }
  int64_t tasks(int64_t part) const { return part < count() ? parts[part].tasks() : 0; }
};

template <class T>
struct Forward {
  Workspace workspace;
  Pixels<T> x;
  Convolutions<T> convolutions;

  Forward(const ContextConv& args, int threads, bool stream)
      : workspace(args.workspace),
        x(args.x, args.batch, args.inputs, args.pixels(), workspace),
        convolutions(args, x, false, stream, threads, workspace) {}

  // Copies first, then products.
  void run(int threads) const {
    const auto copies = [&](int64_t phase) { return phase == 0 ? x.tasks() : 0; };
    parallel_phases(
        threads, 2 * convolutions.count(),
        [&](int64_t phase) {
          return phase % 2 ? convolutions.tasks(phase / 2) : copies(phase) + convolutions.weight_tasks(phase / 2);
        },
        [&](int64_t phase, int64_t task, int thread) {
          const Convolution<T>& part = convolutions.parts[phase / 2];
          if (phase % 2)
            part.run(task, thread);
          else if (task < copies(phase))
            x.copy(task);
          else
            part.pack_weights(task - copies(phase));
        });
  }
};

// Gradients of the parameters, part by part, each of which has three phases: the numbers of x beside each other, the
// products, and the sums of what slices of the image have.
template <class T>
struct Gradients {
  using A = compute_t<T>;
  struct Part {
    InputGroups<T> groups;
    ContextGradient<T> gradient;

    Part(const ContextConv& args, const Pixels<T>& grad, const Pixels<T>& x, int threads, Workspace& workspace)
        : groups(args, x, correlated_inputs<A>(args.branches),
                 args.x && !gradient_by_panel<A>(args) && !gradient_by_tiles<T>(args), workspace),
          gradient(args, grad, x, groups, threads, workspace) {}
  };
  std::deque<ContextConv> args;
  std::deque<Part> parts;

  Gradients(const ContextConv& all, const Pixels<T>& grad, const Pixels<T>& x, int threads, Workspace& workspace)
      : args(parts_of(all, gradient_by_tiles<T>)) {
    workspace.share(count(), [&](int64_t i) { parts.emplace_back(args[i], grad, x, threads, workspace); });
  }

  int64_t count() const { return int64_t(args.size()); }
  int64_t group_tasks(int64_t part) const { return part < count() ? parts[part].groups.tasks() : 0; }
  int64_t tasks(int64_t part) const { return part < count() ? parts[part].gradient.tasks() : 0; }
  int64_t last_tasks(int64_t part) const { return part < count() ? parts[part].gradient.last_tasks() : 0; }
};

template <class T>
struct Backward {
  Workspace workspace;
  Pixels<T> grad, x;
  Convolutions<T> convolutions;
  Gradients<T> gradients;

  Backward(const ContextConv& args, int threads, bool stream)
      : workspace(args.workspace),
        grad(args.y, args.batch, args.branches.outputs(), args.output_pixels(), workspace),
        x(args.x, args.batch, args.inputs, args.pixels(), workspace),
        convolutions(args, grad, true, stream, threads, workspace),
        gradients(args, grad, x, threads, workspace) {}

  // Copies first, then part by part of both: weights, inputs beside each other, products, sums.
  void run(int threads) const {
    constexpr int64_t phases = 4;
    const int64_t copies = grad.tasks() + x.tasks();
    const auto first_tasks = [&](int64_t phase) {
      const int64_t part = phase / phases;
      switch (phase % phases) {
        case 0:
          return part == 0 ? copies : 0;
        case 1:
          return gradients.group_tasks(part);
        case 2:  // the longer tasks first, so that no thread is left with one at the end
          return gradients.tasks(part);
        default:
          return gradients.last_tasks(part);
      }
    };
    parallel_phases(
        threads, phases * most(convolutions.count(), gradients.count()),
        [&](int64_t phase) {
          const int64_t part = phase / phases, more = phase % phases == 0   ? convolutions.weight_tasks(part)
                                                      : phase % phases == 2 ? convolutions.tasks(part)
                                                                            : 0;
          return first_tasks(phase) + more;
        },
        [&](int64_t phase, int64_t task, int thread) {
          const int64_t part = phase / phases, first = first_tasks(phase);
          if (phase % phases == 0 && task >= first)
            convolutions.parts[part].pack_weights(task - first);
          else if (phase % phases == 0)
            task < grad.tasks() ? grad.copy(task) : x.copy(task - grad.tasks());
          else if (phase % phases == 1)
            gradients.parts[part].groups.copy(task);
          else if (phase % phases == 3)
            gradients.parts[part].gradient.run_last(task);
          else if (task < first)
            gradients.parts[part].gradient.run(task, thread);
          else
            convolutions.parts[part].run(task - first, thread);
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
