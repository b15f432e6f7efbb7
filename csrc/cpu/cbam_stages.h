// Groups of images go through stages of tasks.
#pragma once
#include "cbam_passes.h"
#include "fastseg/cpu/phases.h"

namespace fastseg::FASTSEG_ISA {

// Images that go through all stages together: as many as the last cache keeps between the passes over them.
struct ImageGroups {
  static constexpr int64_t bytes = int64_t(16) << 20;
  int64_t batch, together;

  ImageGroups(const CbamShape& shape, Element type) : batch(shape.batch) {
    const int64_t image = shape.channels * shape.pixels() * element_size(type);
    together = image < bytes ? bytes / image : 1;
    if (together > batch) together = batch;
  }
  int64_t count() const { return (batch + together - 1) / together; }
  int64_t images(int64_t group) const {
    return batch - group * together < together ? batch - group * together : together;
  }
};

// A stage of one image, or of all images of a group together: how many items, and about how many numbers each touches.
struct Work {
  int64_t items, size;
  bool together = false;
};

// Calls run(stage, image, place in its group, item, thread) for all items of work(stage), of all images of a group (of
// the first one where images are together), then the next stage, then the next group. Items in any order within a
// stage, small ones several at a time.
template <class StageWork, class Run>
inline void run_stages(int threads, const ImageGroups& groups, int64_t stages, const StageWork& work, const Run& run) {
  constexpr int64_t least = 16384;  // numbers that are worth taking a task for
  const auto grain_of = [](const Work& w) { return w.size < least ? least / (w.size > 0 ? w.size : 1) : 1; };
  const auto items_of = [&](const Work& w, int64_t group) {
    return w.together ? w.items : groups.images(group) * w.items;
  };
  parallel_phases(
      threads, groups.count() * stages,
      [&](int64_t phase) {
        const Work w = work(phase % stages);
        const int64_t grain = grain_of(w);
        return (items_of(w, phase / stages) + grain - 1) / grain;
      },
      [&](int64_t phase, int64_t task, int thread) {
        const int64_t stage = phase % stages, group = phase / stages;
        const Work w = work(stage);
        const int64_t grain = grain_of(w), all = items_of(w, group);
        const int64_t end = (task + 1) * grain < all ? (task + 1) * grain : all;
        for (int64_t i = task * grain; i < end; ++i)
          run(stage, group * groups.together + i / w.items, i / w.items, i % w.items, int64_t(thread));
      });
}

}  // namespace fastseg::FASTSEG_ISA
