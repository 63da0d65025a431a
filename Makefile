# SPDX-License-Identifier: Apache-2.0
# hafm_hf: `make demo` turns the example vocal into a song, `make test` runs every check. Both set up .venv first.
# Needs Python >= 3.11, git and pip. torch is a CPU build where requirements/torch_index.py finds one; from elsewhere:
#   make demo TORCH_INDEX="--index-url https://…"     (empty: the index that pip is set up with)

PYTHON ?= $(shell command -v python3.11 || command -v python3 || echo python)
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints-cpu.txt
BIN := $(VENV)/bin
# Python compiles what it imports; compiling all 21,000 files at once would take a minute.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile -c $(CONSTRAINTS)
EXAMPLE ?= examples/vocal.wav
OUT ?= demo
DIST ?= dist

# One thread a process: two OpenMP threads that fight over busy cores are slower than one.
export OMP_NUM_THREADS ?= 1
# pip compiles nothing here, so that without the caches every start of Python would compile torch and transformers
# anew: 12 processor seconds rather than 5.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-space test-workshop torture conformance audit lint format dist venv venv-dev clean

help:
	@echo "make demo   set up, then turn $(EXAMPLE) into an instrumental and a mix in $(OUT)/"
	@echo "make test   set up, then ruff, mypy and the test suite, without the network"
	@echo "make test-space   the tests of the Space alone; screenshots in build/test-artefacts/space"
	@echo "make test-workshop   the tests of how hafm-tiny is made, one of which trains a whole model in small"
	@echo "make torture   faults, load and hostile input, thousands of tries; prints what was lost"
	@echo "make conformance   transformers' own tests of models and configurations (needs the network once)"
	@echo "make audit  known vulnerabilities of the locked packages (pip-audit; needs the network)"
	@echo "make lint   ruff, mypy and import-linter only"
	@echo "make dist   wheel and source distribution in $(DIST)/, checked by twine (DRAFT=1: for a try)"
	@echo "make venv   the set-up alone ($(VENV), CPU, exact versions of $(CONSTRAINTS))"

$(BIN)/python:
	@echo "==> creating $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)

# torch by itself and pinned first: a resolver that meets it unpinned may choose a CUDA build of several GB.
$(VENV)/.core: pyproject.toml $(CONSTRAINTS) | $(BIN)/python
	@$(PIP) $$($(BIN)/python requirements/torch_index.py) torch
	@echo "==> installing hafm_hf and its locked dependencies"
	@$(PIP) hatchling editables
	@$(PIP) --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.core
	@echo "==> installing the training, data, evaluation and test dependencies"
	@$(PIP) -r requirements/test.txt
	@echo "==> installing encodec and torchvggish (references of parity tests) without their CUDA dependencies"
	@$(PIP) --no-deps encodec torchvggish resampy
	@touch $@

$(VENV)/.workshop: $(VENV)/.dev recipes/hafm_tiny/requirements.txt
	@echo "==> installing what the recipes of hafm-tiny need (pyworld needs a C++ compiler)"
	@$(PIP) -r recipes/hafm_tiny/requirements.txt || echo "    not installed: the tests that need it will skip"
	@touch $@

venv: $(VENV)/.core
venv-dev: $(VENV)/.dev

demo: $(VENV)/.core
	@echo "==> hafm accompany $(EXAMPLE) --out $(OUT) --seed 1 --overwrite"
	@HF_HUB_OFFLINE=1 $(BIN)/hafm accompany $(EXAMPLE) --out $(OUT) --seed 1 --overwrite

lint: $(VENV)/.dev
	@echo "==> ruff"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@echo "==> mypy"
	@$(BIN)/mypy
	@echo "==> import-linter"
	@PYTHONPATH=recipes $(BIN)/lint-imports --no-cache

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: lint
	@echo "==> pytest, two processes, no hub"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --durations 10

test-space: $(VENV)/.dev
	@echo "==> pytest of the Space, in a real browser where there is chromium"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/space

test-workshop: $(VENV)/.workshop
	@echo "==> pytest of recipes/hafm_tiny, two processes, no hub"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n 2 --dist loadfile --durations 10 recipes/hafm_tiny/tests

torture: $(VENV)/.dev
	@echo "==> pytest of faults, every one as often as its marker says (about an hour on two slow cores)"
	@HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m fault --torture -n 2 --dist loadfile --durations 10

conformance: $(VENV)/.dev
	@echo "==> transformers' own tests of models, from its source distribution; none of them is part of this repository"
	@$(PIP) parameterized
	@HF_HUB_OFFLINE=1 PYTHONPATH=tests $(BIN)/python tests/conformance/run.py

# --strict: a package that could not be looked up is an error, and not a clean result
audit: $(VENV)/.core
	@$(PIP) pip-audit
	@$(BIN)/pip-audit --strict --requirement $(CONSTRAINTS) --no-deps --disable-pip --progress-spinner off

# Built from the source distribution, so a file that the latter lacks is missed here; with the real address filled in.
dist: $(VENV)/.dev
	@echo "==> building into $(DIST)"
	@rm -rf build/draft build/source $(DIST)/hafm_hf-*
	@$(BIN)/python -m build --sdist --no-isolation --outdir build/draft . >/dev/null
	@folder=$$($(BIN)/python requirements/addresses.py build/draft/*.tar.gz build/source $(if $(DRAFT),--draft)) \
		&& $(BIN)/python -m build --no-isolation --outdir $(abspath $(DIST)) $$folder
	@$(BIN)/python -m twine check --strict $(DIST)/hafm_hf-*

clean:
	rm -rf $(VENV) build $(DIST) $(OUT)
