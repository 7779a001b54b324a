# medbreach: `make help` lists what can be made.
PYTHON ?= python3
VENV ?= .venv
RUN := $(VENV)/bin
DISTRIBUTIONS := $(dir $(wildcard plugins/*/pyproject.toml tests/plugin/pyproject.toml))
STAMP := $(VENV)/.complete

# Threads that spin while they wait stall each other on a busy machine.
export OMP_WAIT_POLICY ?= PASSIVE

.PHONY: help setup demo test test-all check docs bench clean

help:  ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(STAMP)  ## Make the environment in .venv, with every plugin of this repository

$(STAMP): pyproject.toml constraints.txt $(DISTRIBUTIONS:%=%pyproject.toml)
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "medbreach needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
	  --editable '.[dev,docs]' $(DISTRIBUTIONS:%=--editable ./%)
	touch $@

demo: $(STAMP)  ## Audit real dermoscopy images: verdict and report
	$(RUN)/medbreach audit case=dermoscopy_2d attack=[blind_guess,invertinggradients] \
	  attack.optim.max_iterations=1200 attack.optim.step_size_decay=cosine-decay \
	  attack.regularization.total_variation.scale=0.05 audit.seeds=3 \
	  --out runs/demo --overwrite --fail-on never

test: $(STAMP)  ## Run the suite (no GPU, nothing slow)
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m "not slow and not gpu" -n auto --maxprocesses 4 --dist loadfile

test-all: $(STAMP)  ## Run every test, slow ones and, where there is one, those for a GPU
	$(RUN)/python -m pytest

check: $(STAMP)  ## Check format, style and types
	$(RUN)/ruff format --check .
	$(RUN)/ruff check .
	$(RUN)/mypy

docs: $(STAMP)  ## Build the documentation into site/
	$(RUN)/mkdocs build --strict

bench: $(STAMP)  ## Print what benchmarks measure
	for file in benchmarks/*.py; do $(RUN)/python $$file || exit 1; done

clean:  ## Remove the environment and what tools left
	rm -rf $(VENV) site .mypy_cache .pytest_cache .ruff_cache
