#!/usr/bin/env bash
# Everything that needs a card, in one call: build, tests, sanitizer, benchmarks with each GPU backend forced.
# It has not run on a card yet.
#
# Usage: scripts/gpu.sh [FOLDER]    FOLDER takes the JSON of the benchmarks, default benchmarks/results
# Needs nvcc and, installed beforehand: torch (CUDA), triton, pybind11, pytest, pytest-benchmark, matplotlib.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-benchmarks/results}
mkdir -p "$out"

FASTSEG_CUDA=ON python3 -m pip install --quiet --no-build-isolation --no-deps -e .
python3 -m fastseg.cli info

python3 -m pytest -q -m gpu tests/gpu

# One row length for each variant of the CUDA C++ kernels: registers, shared memory, clusters, streamed, and odd.
for tool in memcheck racecheck synccheck; do
  compute-sanitizer --tool "$tool" --error-exitcode 1 python3 - <<'PYTHON'
import torch
import fastseg

with fastseg.backend("cuda"):
    for size in (8, 16, 64, 96, 31):
        x = torch.randn(1, 2, size, size, size, device="cuda", requires_grad=True)
        fastseg.ops.instance_norm_act(x, residual=x.detach()).sum().backward()
torch.cuda.synchronize()
PYTHON
done

for backend in triton cuda; do
  FASTSEG_BACKEND=$backend python3 -m pytest -q benchmarks --benchmark-only -k "not channels" \
    --benchmark-json="$out/last-$backend.json"
done
python3 benchmarks/report.py "$out/last-triton.json"
