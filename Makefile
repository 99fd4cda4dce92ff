# Everything installs into .venv once; a change of pyproject.toml or constraints.txt installs again.
#
#   make demo FAST=1               the small demonstration (a few minutes)
#   make demo TORCH_INDEX=URL      take torch from this index, for a CPU-only build
#   make demo PYTHON=/path/python  use this interpreter

SHELL := /bin/sh
VENV ?= .venv
BIN := $(VENV)/bin
RUN := $(if $(FAST),demo_fast,demo)
TORCH_INDEX ?=
PYTHON ?=
# One thread each for the libraries that would otherwise fight over two cores.
ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false
# A file of tests goes to one process, which shares what its fixtures have made.
PARALLEL := --numprocesses auto --dist loadfile
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 HF_DATASETS_OFFLINE=1
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq -c constraints.txt \
	$(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.DEFAULT_GOAL := help
.PHONY: help demo test check test-all bench docs clean

help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## the main job end to end, with a report (FAST=1: the small one)
	$(ENV) $(BIN)/metas run $(RUN)

test: $(VENV)/.installed ## style, import rules and the fast tests, offline
	$(BIN)/ruff check src tests
	$(BIN)/lint-imports
	$(ENV) $(OFFLINE) $(BIN)/python -m pytest $(PARALLEL)

check: test $(VENV)/.installed-dev ## make test, and formatting and types
	$(BIN)/ruff format --check src tests
	$(BIN)/pyright --pythonpath $(BIN)/python

test-all: $(VENV)/.installed ## every test that this machine can run
	$(ENV) $(BIN)/python -m pytest $(PARALLEL) -m ''

bench: ## what there is under benchmarks/, and what for; each file says how it is run
	@for study in benchmarks/*.py benchmarks/*/*.py; do echo "$$study: $$(head -1 $$study | tr -d '\"')"; done

docs: $(VENV)/.installed ## write the reference of run-file keys from the schema
	$(BIN)/python -m metas_peft.conf.document > docs/run-files.md

clean: ## remove the environment and caches; outputs stay
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache

# The first interpreter that runs, is of a supported version and can make an environment.
$(BIN)/python:
	@for candidate in $(or $(PYTHON),python3 python3.13 python3.12 python3.11); do \
	  if "$$candidate" -c 'import sys, ensurepip, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' \
	    2>/dev/null; then found=$$candidate; break; fi; \
	done; \
	if [ -z "$$found" ]; then \
	  echo "No Python 3.11, 3.12 or 3.13 with the venv module was found on PATH" \
	    "(looked at: $(or $(PYTHON),python3 python3.13 python3.12 python3.11))." \
	    "Install one, or name it: make $(or $(firstword $(MAKECMDGOALS)),demo) PYTHON=/path/to/python3" >&2; exit 1; \
	fi; \
	echo "Making $(VENV) with $$found"; "$$found" -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing into $(VENV); the first time takes some minutes"
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || $(BIN)/python -m ensurepip >/dev/null
	$(PIP) -e '.[demo,test]'
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e '.[dev]'
	@touch $@
