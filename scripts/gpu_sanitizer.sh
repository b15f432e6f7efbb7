#!/usr/bin/env bash
# compute-sanitizer's memcheck and racecheck over the CUDA C++ kernels:
#
#   scripts/gpu_sanitizer.sh [OUTPUT FOLDER]        (default: benchmarks/results)
#
# Needs compute-sanitizer on PATH and what scripts/gpu_build.sh has built. TOOLS chooses ("memcheck racecheck").
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
output=${1:-benchmarks/results}
mkdir -p "$output"

# torch's allocator would hide an access beyond a tensor inside of a larger block.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
export PYTHONPATH=$PWD
for tool in ${TOOLS:-memcheck racecheck}; do
  log=$output/last-$tool.txt
  # Kernels of torch itself are not the subject. Without a leak check: torch keeps its context to the end.
  compute-sanitizer --tool "$tool" --kernel-regex kns=fastseg --error-exitcode 1 --log-file "$log" \
    "$python" -m tests.gpu.cuda_kernels || { cat "$log"; exit 1; }
  tail -n 1 "$log"
done
