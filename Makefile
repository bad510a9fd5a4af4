# Two commands matter: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
PARITY := .venv-parity
DEMO := outputs/demo

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all test-parity hostile mistakes faults bench gpu lint format clean

help:  ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

install: $(STAMP)  ## make .venv and install everything, once

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14) and "Python 3.11, 3.12 or 3.13 is needed: make PYTHON=python3.12 ...")'
	@echo "installing into $(VENV), once: a few minutes, about 6 GB with CUDA"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[train,dev]'
	@touch $@

demo: $(STAMP)  ## train a DiT on real digits, sample it with guidance, score it (about 4 minutes on 2 cores)
	@rm -rf $(DEMO)
	$(BIN)/python train.py experiment=digits hydra.run.dir=$(DEMO)
	@$(BIN)/python sample.py checkpoint=$(DEMO)/checkpoints/last.ckpt per_class=10 guidance.scale=1.5 format=npz out=$(DEMO) >/dev/null
	@mv $(DEMO)/grid.png $(DEMO)/samples.png
	@$(BIN)/python evaluate.py checkpoint=$(DEMO)/checkpoints/last.ckpt guidance_scales='[1,1.5]' hydra.run.dir=$(DEMO)/scores
	@echo "picture: $(DEMO)/samples.png"

test: $(STAMP) lint  ## lint, types, import contract and the fast tests (about 12 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-all: $(STAMP) lint  ## the slow tests and the fault campaign as well
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not parity"
	@$(MAKE) --no-print-directory hostile mistakes faults

hostile: $(STAMP)  ## files that are damaged or a stranger's: 300 strikes and 200 values (a minute on 2 cores)
	$(BIN)/python -W ignore -m tests.hostile

mistakes: $(STAMP)  ## 500 command lines with a strange value: each a sentence, or taken (about 10 minutes on 2 cores)
	$(BIN)/python -W ignore -m tests.mistakes

faults: $(STAMP)  ## runs that are killed, starved and damaged must end as if nothing had happened (about 10 minutes on 2 cores)
	$(BIN)/python -m tests.faults

bench: $(STAMP)  ## speed beside diffusers, on the CPU, one thing at a time: benchmarks/README.md (most of an hour on 2 cores)
	$(BIN)/python -m benchmarks.speed

gpu: $(STAMP)  ## everything that is to be known on a GPU, in 12 minutes: docs/gpu.md (QUICK=1: a trial on the CPU; DATA=folder or zip)
	$(BIN)/python -m benchmarks.gpu $(if $(QUICK),--quick --out outputs/gpu-quick) $(if $(DATA),--data $(DATA))

test-parity: $(STAMP)  ## agreement with k-diffusion, in an environment of its own
	@$(PYTHON) -m venv $(PARITY)
	@$(PARITY)/bin/python -m pip install --quiet --constraint constraints.txt --editable . pytest hypothesis torchvision
	@# k-diffusion's own list of requirements does not resolve; this is what importing it takes.
	@$(PARITY)/bin/python -m pip install --quiet 'numpy<2' 'setuptools<81' 'scikit-image>=0.25' 'scipy>=1.13' accelerate \
		clean-fid clip-anytorch dctorch jsonmerge kornia torchdiffeq torchsde
	@$(PARITY)/bin/python -m pip install --quiet --no-deps k-diffusion
	$(PARITY)/bin/python -m pytest -m parity tests/solvers/test_parity_k_diffusion.py

lint: $(STAMP)  ## ruff, pyright, import contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

format: $(STAMP)  ## ruff's format and safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:  ## remove .venv and outputs
	rm -rf $(VENV) $(PARITY) outputs
