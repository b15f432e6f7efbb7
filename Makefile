# Every target sets up .venv by itself when it is missing or older than what it is made from.
export PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test bench test-gpu bench-gpu lint clean

demo: $(READY)
	$(BIN)/fastseg demo

test: $(READY)
	$(BIN)/python -m pytest -q -n auto --dist loadgroup -m "not gpu"

bench: $(READY)
	$(BIN)/fastseg bench --huge-pages

# On a machine with an NVIDIA GPU, with the Python that PYTHON names: docs/gpu.md. No .venv, and no package index.
test-gpu:
	scripts/gpu_build.sh
	$(PYTHON) -m tests.gpu all

bench-gpu:
	scripts/gpu_build.sh
	$(PYTHON) -m benchmarks.gpu

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files 'csrc/*')

clean:
	rm -rf $(VENV) build dist *.egg-info fastseg/_C*.so

$(READY): pyproject.toml setup.py constraints.txt CMakeLists.txt $(shell find csrc -type f)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $(READY)
