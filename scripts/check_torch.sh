#!/usr/bin/env bash
# Checks the library with another version of torch, above all the oldest that pyproject.toml allows:
#
#   scripts/check_torch.sh 2.11.0
#
# Makes a temporary virtual environment with that torch (its CPU build where the package index has one), builds the
# wheel, installs it without its dependencies and runs tests/ops and tests/nn on it. One wheel is for every torch, so
# the build itself does not see this torch. PYTHON chooses the interpreter (default: python3).
set -euo pipefail

if [[ $# -ne 1 ]]; then
  echo "usage: $0 VERSION   (a version of torch, for example 2.11.0)" >&2
  exit 2
fi
version=$1
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
python=$work/venv/bin/python

install() {
  "$python" -m pip install --quiet --disable-pip-version-check "$@"
}

# Not every index has builds with a local version such as +cpu.
install "torch==$version+cpu" 2>"$work/no-cpu-build" || install "torch==$version"
install numpy pytest hypothesis

# From a copy of the sources, so that the checkout keeps its own build and the tests see the wheel only.
mkdir "$work/source" "$work/run"
for entry in CMakeLists.txt LICENSE MANIFEST.in README.md csrc fastseg pyproject.toml setup.py; do
  cp -r "$root/$entry" "$work/source"
done
rm -f "$work"/source/fastseg/_C*.so
FASTSEG_CUDA=OFF "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
  --wheel-dir "$work/dist" "$work/source"
install --no-deps "$work"/dist/fastseg_kernels-*.whl

cp -r "$root/tests" "$root/pyproject.toml" "$work/run"
cd "$work/run"
"$python" - "$version" <<'EOF'
import sys

import torch

import fastseg
from fastseg.backends import availability

assert torch.__version__.split("+")[0] == sys.argv[1], torch.__version__
assert "site-packages" in fastseg.__file__, fastseg.__file__
assert availability.COMPILED_REFUSAL is None, availability.COMPILED_REFUSAL
print(f"torch {torch.__version__}, fastseg {fastseg.__version__} from its wheel")
EOF
"$python" -m pytest -q -p no:cacheprovider -m "not gpu" tests/ops tests/nn
