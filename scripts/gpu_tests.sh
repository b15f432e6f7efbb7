#!/usr/bin/env bash
# The tests that need an NVIDIA GPU, in parts that fit ten minutes each:
#
#   scripts/gpu_tests.sh [ops|families|kernels|alone|all] [OPTION OF PYTEST ...]
#
# ops: every op with every backend, and the networks. families: what each family adds. kernels: the Triton kernels with
# the cases of their interpreter. alone: more than 2^31 elements, and times, one after another on an empty card.
# The others run in WORKERS processes (default 4) where pytest-xdist is there. PYTHON chooses the Python.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
part=${1:-all}
[[ $# -eq 0 ]] || shift

alone="31_elements or 32_bits or time_beside"
together=()
if "$python" -c 'import xdist' 2>/dev/null; then
  together=(-n "${WORKERS:-4}")
fi

case $part in
  ops)
    "$python" -m pytest -q -rf -m gpu "${together[@]}" -k "not ($alone)" "$@" \
      tests/gpu/test_every_op_gpu.py tests/gpu/test_models_gpu.py
    ;;
  families)
    "$python" -m pytest -q -rf -m gpu "${together[@]}" -k "not ($alone)" "$@" tests/gpu \
      --ignore tests/gpu/test_every_op_gpu.py --ignore tests/gpu/test_models_gpu.py
    ;;
  kernels)
    # Not marked: they take the GPU where there is one, and the interpreter elsewhere.
    files=()
    for file in tests/backends/test_triton_*.py; do
      [[ $file == *_aot.py ]] || files+=("$file")
    done
    "$python" -m pytest -q -rf "${together[@]}" -k "not in_the_interpreter" "$@" "${files[@]}"
    ;;
  alone)
    "$python" -m pytest -q -rfs -m gpu -k "$alone" "$@" tests/gpu
    ;;
  all)
    for each in ops families kernels alone; do
      echo "== $each"
      "$0" "$each" "$@"
    done
    ;;
  *)
    sed -n '2,8p' "$0" >&2
    exit 2
    ;;
esac
