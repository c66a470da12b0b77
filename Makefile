# Everything a person or a machine runs. Each target makes what it needs, .venv included: make, python3 and pip are enough.

PYTHON ?= python3
MINUTES ?= 8
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# Without an NVIDIA driver: the tested pair of torch and triton, in the CPU build of torch where one is at hand.
CONSTRAINTS := $(if $(shell command -v nvidia-smi 2>/dev/null),,-c constraints-cpu.txt)
PROOF := $(BIN)/python -m pytest tests/proof -s -q

# The Triton of GPU machines, and what the kernel suite needs beside it.
VENV36 := .venv-triton36
STAMP36 := $(VENV36)/.installed

# What the survey's proof is measured against.
GALSIM := $(VENV)/.galsim
# And the trainer's.
DIFFUSERS := $(VENV)/.diffusers
# What others read a job's result with.
DATASETS := $(VENV)/.datasets

.PHONY: help demo test check fix proof-core proof-kernels proof-survey proof-train proof-export proof-judge proof-jobs bench gpu long clean
.DEFAULT_GOAL := help

help:
	@echo "make demo        the whole story in a few minutes: simulate, train, sample, evaluate, export, a page to look at"
	@echo "make test        the test suite"
	@echo "make check       everything a change must pass: ruff, mypy, the suite with its architecture test; edits nothing"
	@echo "make fix         formats, and mends what ruff can mend"
	@echo "make proof-core  measures the figures of the end-to-end road, and prints each with its N"
	@echo "make proof-kernels  compiles every launch row for its card, runs the kernel suite under Triton 3.6 too, measures CPU ratios"
	@echo "make proof-survey  compares the simulated survey's pixels with GalSim's, and measures images a second"
	@echo "make proof-train  trains on several ranks that are stopped, killed and resumed in other numbers, and compares with one"
	@echo "make proof-export  exports every form of the models, and measures seconds, pace beside torch and memory"
	@echo "make proof-judge  plants every fault in simulated sets; the evaluation must name each, and stay silent on a good set"
	@echo "make proof-jobs  kills bulk jobs until they are done, races for shards, reads the result with datasets and pandas"
	@echo "make bench       measures kernels and steps again and compares with the committed rows of this kind of machine"
	@echo "make gpu         everything a GPU machine should do, in 8 minutes; installs nothing, goes on where it stopped"
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
	@$(BIN)/python -m pytest -q --durations=8 --numprocesses=2 --dist=loadfile

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

# Triton last and alone: a torch may ask for another one.
$(STAMP36): constraints-cpu.txt constraints-triton36.txt
	@echo "installing Triton 3.6 with numpy below 2.4 into $(VENV36), a minute or a few"
	@$(PYTHON) -m venv $(VENV36)
	@$(VENV36)/bin/python -m pip install -qq --no-compile --disable-pip-version-check $(CONSTRAINTS) \
		torch 'numpy<2.4' safetensors pyarrow pytest pytest-timeout hypothesis
	@$(VENV36)/bin/python -m pip install -qq --no-compile --disable-pip-version-check -c constraints-triton36.txt --no-deps triton
	@touch $@

proof-kernels: $(STAMP) $(STAMP36)
	@$(PROOF) --tier proof -m proof_kernels
	@echo "the kernel suite under Triton 3.6:"
	@$(VENV36)/bin/python -m pytest -q -p no:cacheprovider tests/kernels

# GalSim goes along with the newest numpy, so it shares the environment; what is there already is left as it is.
$(GALSIM): $(STAMP) constraints-galsim.txt
	@echo "installing GalSim into $(VENV), 60 MB"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check $(CONSTRAINTS) -c constraints-galsim.txt GalSim
	@touch $@

proof-survey: $(GALSIM)
	@$(BIN)/python -c 'import galsim' || { rm -f $(GALSIM); exit 1; }
	@$(PROOF) --tier proof -m proof_survey

# What a train step is measured against; it brings huggingface_hub along.
$(DIFFUSERS): $(STAMP)
	@echo "installing diffusers into $(VENV), 30 MB"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check $(CONSTRAINTS) 'diffusers>=0.36,<1'
	@touch $@

proof-train: $(DIFFUSERS)
	@$(PROOF) --tier proof -m proof_train
	@$(BIN)/python -m pytest -q -p no:cacheprovider tests/test_benchmarks_pace.py

proof-export: $(STAMP)
	@$(PROOF) --tier proof -m proof_export

proof-judge: $(STAMP)
	@$(PROOF) --tier proof -m proof_judge

# It brings pandas along.
$(DATASETS): $(STAMP)
	@echo "installing datasets into $(VENV), 150 MB"
	@$(BIN)/python -m pip install -qq --no-compile --disable-pip-version-check $(CONSTRAINTS) 'datasets>=3'
	@touch $@

proof-jobs: $(DATASETS)
	@$(PROOF) --tier proof -m proof_jobs

bench: $(STAMP)
	@$(BIN)/python -m benchmarks check

# A GPU machine has no internet: nothing is installed, and the python that has torch does it all.
gpu:
	@PYTHONPATH=. $(PYTHON) -m benchmarks gpu --minutes $(MINUTES)

long: $(STAMP) $(GALSIM) $(DIFFUSERS) $(DATASETS)
	@$(PROOF) --tier long

clean:
	@rm -rf $(VENV) $(VENV36) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
