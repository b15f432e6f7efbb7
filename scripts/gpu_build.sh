#!/usr/bin/env bash
# Builds the library with its CUDA C++ kernels for the card that is there; asks no package index.
#
# Needs nvcc on PATH, and a Python with a CUDA build of torch and the build requirements of pyproject.toml. PYTHON
# chooses it (default: python3). What a previous build left in build/ is used again.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

architecture=$("$python" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())')
FASTSEG_CUDA=ON FASTSEG_CUDA_ARCHITECTURES=${FASTSEG_CUDA_ARCHITECTURES:-$architecture} \
  "$python" -m pip install --quiet --disable-pip-version-check --no-build-isolation --no-deps -e .
"$python" - <<'PYTHON'
import torch

from fastseg.backends import availability

assert availability.cuda_refusal() is None, availability.cuda_refusal()
print(torch.cuda.get_device_name(), "| torch", torch.__version__, "| kernels for", availability.CUDA_ARCHITECTURES)
PYTHON
