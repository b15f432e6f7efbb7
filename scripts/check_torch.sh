#!/usr/bin/env bash
# Runs the tests of ops and layers against another torch, in a temporary environment: the check of the oldest supported
# version (2.11.0) and of each new one.
#
# Usage: scripts/check_torch.sh VERSION
set -euo pipefail
version=${1:?usage: scripts/check_torch.sh VERSION, for example 2.11.0}
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

python3 -m venv "$work/venv"
pip="$work/venv/bin/python -m pip install --quiet"
$pip "torch==$version" numpy hypothesis pytest
# A copy, so that the checkout keeps the build of its own environment.
git -C "$root" archive HEAD | tar -x -C "$work" --one-top-level=fastseg
FASTSEG_CUDA=OFF $pip --no-deps "$work/fastseg"
cd "$work/fastseg"
rm -rf fastseg csrc # the installed package is what is tested
"$work/venv/bin/python" -c "import torch, fastseg; print('torch', torch.__version__, 'fastseg', fastseg.__version__)"
"$work/venv/bin/python" -m pytest -q tests/ops tests/nn tests/backends/test_select.py tests/backends/test_memory.py
