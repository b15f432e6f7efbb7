// Which build of the CPU kernels this processor runs.
#pragma once

namespace fastseg::cpu {

enum class Capability : int { baseline = 0, avx2 = 1, avx512 = 2 };

// The best build that is compiled in and that the processor has. FASTSEG_CPU_CAPABILITY=baseline|avx2|avx512 lowers
// it, for tests and for comparing; it is read once.
Capability capability();
const char* capability_name();

// float32 operations a second (a multiply-add counts two) that `threads` threads reach in registers.
double measure_peak(int threads);

}  // namespace fastseg::cpu
