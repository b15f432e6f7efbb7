#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one call on a machine that has one:
#
#   scripts/gpu.sh [OUTPUT FOLDER]        (default: benchmarks/results)
#
# Builds with CUDA, runs the tests marked gpu, memcheck and racecheck over the CUDA C++ kernels, and the benchmarks
# with each GPU backend. Needs nvcc and compute-sanitizer on PATH, and a Python with a CUDA build of torch, pytest,
# hypothesis, pytest-benchmark and the build requirements of pyproject.toml. PYTHON chooses it (default: python3).
#
# This script has not run on a card yet.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
output=${1:-$root/benchmarks/results}
mkdir -p "$output"
output=$(cd "$output" && pwd)
python=${PYTHON:-python3}
cd "$root"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

echo "== build"
FASTSEG_CUDA=ON "$python" -m pip install --no-build-isolation --no-deps -e .
"$python" - <<'EOF'
import torch

from fastseg.backends import availability

assert availability.cuda_refusal() is None, availability.cuda_refusal()
print(torch.cuda.get_device_name(), "| torch", torch.__version__, "| kernels for", availability.CUDA_ARCHITECTURES)
EOF

echo "== tests"
"$python" -m pytest -q -m gpu tests
# Not marked: it takes the GPU where there is one.
"$python" -m pytest -q tests/backends/test_triton_norm.py tests/backends/test_triton_depthwise.py \
  tests/backends/test_triton_wls.py tests/backends/test_triton_fast_global_smoother.py \
  tests/backends/test_triton_guided_filter.py tests/backends/test_triton_cross_scale.py \
  tests/backends/test_triton_matching_cost.py tests/backends/test_triton_weighted_median.py

echo "== compute-sanitizer"
# One size for each variant: rows in registers, in shared memory, in a cluster's shared memory, streamed; and odd sizes,
# whose rows are read element by element.
cat >"$work/kernels.py" <<'EOF'
import torch

import fastseg
from fastseg.ops import depthwise_conv2d, depthwise_conv3d, depthwise_instance_norm_act, instance_norm_act

torch.manual_seed(0)
SIZES = ((8, 8, 8), (16, 16, 16), (64, 64, 64), (96, 96, 96), (7, 9, 11), (33, 31, 29), (101, 99, 97))
with fastseg.backend("cuda"):
    for size in SIZES:
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
            for residual in (False, True):
                x, other, grad = (torch.randn(1, 2, *size, device="cuda", dtype=dtype) for _ in range(3))
                weight, bias = (torch.randn(2, device="cuda", requires_grad=True) for _ in range(2))
                y = instance_norm_act(x.requires_grad_(), weight, bias, residual=other if residual else None)
                y.backward(grad)
                torch.cuda.synchronize()
                assert y.isfinite().all() and x.grad.isfinite().all(), (size, dtype, residual)
    # Every compiled kernel, the general ones (float64, stride 3), rows and channels-last, statistics.
    for conv, size in ((depthwise_conv2d, (41, 37)), (depthwise_conv3d, (18, 19, 35))):
        rank = len(size)
        for kernel in (1, 3, 5, 7):
            for stride, dilation in ((1, 1), (2, 1), (3, 1), (1, 2)):
                for dtype in (torch.float32, torch.bfloat16, torch.float64):
                    for layout in (torch.contiguous_format, torch.channels_last if rank == 2 else torch.channels_last_3d):
                        x = torch.randn(2, 16, *size, device="cuda", dtype=dtype).contiguous(memory_format=layout)
                        weight = torch.randn(16, 1, *[kernel] * rank, device="cuda", dtype=dtype, requires_grad=True)
                        padding = kernel // 2 * dilation
                        y = conv(x.requires_grad_(), weight, stride=stride, padding=padding, dilation=dilation)
                        y.backward(torch.randn_like(y))
                        torch.cuda.synchronize()
                        assert y.isfinite().all() and x.grad.isfinite().all(), (kernel, stride, dilation, dtype)
        depthwise_instance_norm_act(torch.randn(2, 16, *size, device="cuda"), torch.randn(16, 1, *[3] * rank).cuda())
EOF
# torch's allocator would hide an access beyond a tensor inside of a larger block.
export PYTORCH_NO_CUDA_MEMORY_CACHING=1
for tool in memcheck racecheck; do
  # Kernels of torch itself are not the subject. Without a leak check: torch keeps its context to the end.
  compute-sanitizer --tool "$tool" --kernel-regex kns=fastseg --error-exitcode 1 --log-file "$output/$tool.txt" \
    "$python" "$work/kernels.py" || { cat "$output/$tool.txt"; exit 1; }
  tail -n 1 "$output/$tool.txt"
done
unset PYTORCH_NO_CUDA_MEMORY_CACHING

echo "== benchmarks"
FASTSEG_BACKEND=triton "$python" -m pytest -q benchmarks --benchmark-json="$output/gpu-triton.json"
# The CUDA C++ kernels of the norm take rows only: a forced backend refuses channels-last.
FASTSEG_BACKEND=cuda "$python" -m pytest -q benchmarks/test_norm.py -k "not channels" \
  --benchmark-json="$output/gpu-cuda-norm.json"
FASTSEG_BACKEND=cuda "$python" -m pytest -q benchmarks/test_depthwise.py --benchmark-json="$output/gpu-cuda.json"
echo "results in $output"
