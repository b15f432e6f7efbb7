#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one call on a machine that has one: docs/gpu.md says how to go in parts.
#
#   scripts/gpu.sh [OUTPUT FOLDER]        (default: benchmarks/results)
#
# These scripts have not run on a card yet.
set -uo pipefail
cd "$(dirname "$0")/.."
output=${1:-benchmarks/results}

scripts/gpu_build.sh || exit
code=0
"${PYTHON:-python3}" -m tests.gpu all --output "$output" || code=$?
"${PYTHON:-python3}" -m benchmarks.gpu --output "$output" || code=$?
exit "$code"
