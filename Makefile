# Everything a person or a machine runs. Each target makes what it needs, .venv included: make, python3 and pip are enough.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Without an NVIDIA driver: the tested pair of torch and triton, in the CPU build of torch where one is at hand.
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
PROOF := $(BIN)/python -m pytest tests/proof -s -q

.PHONY: help demo test check fix proof-core long clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        the whole story in a few minutes: simulate, train, sample, evaluate, export, a page to look at"
	@echo "make test        the test suite"
	@echo "make check       everything a change must pass: ruff, mypy, the suite with its architecture test; edits nothing"
	@echo "make fix         formats, and mends what ruff can mend"
	@echo "make proof-core  measures the figures of the end-to-end road, and prints each with its N"
	@echo "make long        every proof at its full N: hours; appends rows to benchmarks/results"
	@echo "make clean       removes .venv and caches, never runs/"

$(STAMP): pyproject.toml constraints-cpu.txt
	@echo "installing into $(VENV), a minute or a few (1 to 3 GB)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check $(CONSTRAINTS) -e '.[dev]'
	@touch $@

# Nothing is overwritten: the second demo goes to runs/demo-2.
demo: $(STAMP)
	@out=runs/demo; n=1; while [ -e $$out ]; do n=$$((n + 1)); out=runs/demo-$$n; done; \
	$(BIN)/galaxysd demo --minutes 5 --out $$out

test: $(STAMP)
	@$(BIN)/python -m pytest -q --durations=8

check: $(STAMP)
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --check --quiet .
	@$(BIN)/mypy
	@$(MAKE) --no-print-directory test

fix: $(STAMP)
	@$(BIN)/ruff check --fix --quiet .
	@$(BIN)/ruff format --quiet .

proof-core: $(STAMP)
	@$(PROOF) --tier proof -m proof_core

long: $(STAMP)
	@$(PROOF) --tier long

clean:
	@rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
