// Runs of costs from a buffer into the volume.
#pragma once
#include "fastseg/cpu/vec.h"
#include "fastseg/matching_cost.h"

namespace fastseg::FASTSEG_ISA {

// Writes runs a few vectors at a time: memory takes stores at its own pace, and who computes between them does not wait
// for it (a tenth of the time of a large volume, on four Zen 5 cores).
class RunWriter {
 public:
  RunWriter() = default;
  // `runs` runs of `length` costs: run i from `from + i * from_pitch` to element `at + i * pitch` of the volume.
  RunWriter(const MatchingCost& args, bool stream, const float* from, int64_t from_pitch, int64_t at, int64_t pitch,
            int64_t runs, int64_t length)
      : volume_(args.cost),
        type_(args.type),
        stream_(stream),
        from_(from),
        from_pitch_(from_pitch),
        at_(at),
        pitch_(pitch),
        runs_(runs),
        length_(length) {}

  // Not inlined: one copy of it for all kinds of costs.
  __attribute__((noinline)) void step(int64_t vectors) {
    if (type_ == Element::float16)
      step_in(static_cast<float16*>(volume_), vectors);
    else
      step_in(static_cast<float*>(volume_), vectors);
  }
  void finish() {
    while (runs_ > 0) step(length_);
  }

 private:
  template <class T>
  void step_in(T* volume, int64_t vectors) {
    stream_ ? copy<true>(volume, vectors) : copy<false>(volume, vectors);
  }

  template <bool Stream, class T>
  void copy(T* volume, int64_t vectors) {
    constexpr int L = lanes<float>;
    for (; runs_ > 0; --runs_, from_ += from_pitch_, at_ += pitch_, done_ = 0) {
      T* to = volume + at_;
      int64_t i = done_;
      if (Stream && i == 0)
        for (const int64_t head = misaligned_elements(to, length_); i < head; ++i) store_one(to + i, from_[i]);
      for (; vectors > 0 && i + L <= length_; i += L, --vectors) store<Stream>(to + i, load(from_ + i));
      if (i + L <= length_) {
        done_ = i;
        return;
      }
      for (; i < length_; ++i) store_one(to + i, from_[i]);
    }
  }

  void* volume_ = nullptr;
  Element type_ = Element::float32;
  bool stream_ = false;
  const float* from_ = nullptr;
  int64_t from_pitch_ = 0, at_ = 0, pitch_ = 0, runs_ = 0, length_ = 0;
  int64_t done_ = 0;  // of the first run that is left
};

}  // namespace fastseg::FASTSEG_ISA
