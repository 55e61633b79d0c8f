# Every habit of this project is a target. `make` alone lists them.
PY ?= python3
VENV ?= .venv
TORCH ?= torch>=2.10
SECOND_TORCH ?= torch==2.13.0
SECOND_TRITON ?= triton==3.9.0
WORKERS ?= 2
BIN = $(VENV)/bin
PYTHON = $(BIN)/python
CPP = $(shell git ls-files 'csrc/*.cpp' 'csrc/*.h' 'csrc/*.cu' 'csrc/*.cuh')
.DEFAULT_GOAL := help
.PHONY: help demo test test-emulator tiny lint fmt build doctor ptx sass gpu-evidence test-gpu bench-cpu bench-gpu bench-check bench-train figures tables second-torch second-triton wheel clean
OP ?= quantize
ARCH ?= sm_90a

help:  ## list the targets
	@grep -hE '^[a-z][a-z-]*:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16
	@echo; echo "variables: TORCH='$(TORCH)'  SECOND_TORCH='$(SECOND_TORCH)'  SECOND_TRITON='$(SECOND_TRITON)'  VENV=$(VENV)  PY=$(PY)  WORKERS=$(WORKERS) (for test)  ARGS= (for demo, test and bench-check)  OP= ARCH= (for ptx and sass)"

$(PYTHON):
	$(PY) -m venv $(VENV) || $(PY) -m virtualenv $(VENV)

# torch first: the editable install is not isolated, so that it builds against the torch it will run with.
$(VENV)/.installed: pyproject.toml setup.py | $(PYTHON)
	$(PYTHON) -m pip install -q "setuptools>=77" "$(TORCH)"
	$(PYTHON) -m pip install -q --no-build-isolation -e ".[test,verify,lint,examples]"
	touch $@

build: $(VENV)/.installed  ## set up the environment and compile what changed
	@$(PYTHON) setup.py -q build_ext --inplace

demo: build  ## train a small GPT in fp32, bf16, fp16 and fp8, and compare (under 6 minutes on 2 cores)
	$(PYTHON) -m examples.train_lm $(ARGS)

# Each worker begins with its own part of the tests, in order, and so shares what their files compile and cache; one that has
# finished takes over tests of another.
test: build lint second-torch second-triton  ## everything that CI runs: lint, types, all tests
	$(PYTHON) -m pytest -q -n $(WORKERS) --dist worksteal $(ARGS)

test-emulator: build  ## the PTX emulator's own tests
	$(PYTHON) -m pytest -q tests/ptx_emulator $(ARGS)

tiny: build  ## the quick tests only
	$(PYTHON) -m pytest -q -m "not slow" -x $(ARGS)

lint: build  ## ruff, mypy and clang-format, changing nothing
	$(BIN)/ruff format -q --check .
	$(BIN)/ruff check -q .
	$(BIN)/mypy --no-error-summary
	$(BIN)/clang-format --dry-run -Werror $(CPP)

fmt: build  ## format everything
	$(BIN)/ruff format -q .
	$(BIN)/ruff check -q --fix .
	$(BIN)/clang-format -i $(CPP)

# A second torch beside the first, to load the same compiled library under both (tests/test_second_torch.py).
second-torch: $(VENV)-second/.installed

$(VENV)-second/.installed: Makefile
	$(PY) -m venv $(VENV)-second || $(PY) -m virtualenv $(VENV)-second
	$(VENV)-second/bin/python -m pip install -q "$(SECOND_TORCH)" numpy
	touch $@

# A second Triton, that a process finds before the first one (tests/test_second_triton.py): one wheel of 290 MB.
second-triton: $(VENV)-second-triton/.installed

$(VENV)-second-triton/.installed: Makefile | $(VENV)/.installed
	$(PYTHON) -m pip install -q --no-deps --upgrade --target $(VENV)-second-triton "$(SECOND_TRITON)"
	touch $@

doctor: build  ## what runs here and why: op x backend, versions, build facts
	$(PYTHON) -m mpkernels.doctor

ptx: build  ## print the PTX of an op's CUDA kernels: make ptx OP=quantize ARCH=sm_90a
	@$(PYTHON) tests/assembled.py ptx $(OP) $(ARCH)

sass: build  ## print their SASS, registers and spills: make sass OP=quantize ARCH=sm_90a
	@$(PYTHON) tests/assembled.py sass $(OP) $(ARCH)

gpu-evidence: build  ## rewrite docs/gpu-evidence.md: registers, traffic and conflicts of the GPU kernels, from ptxas and the emulator
	@$(PYTHON) tests/gpu_evidence.py
	@$(PYTHON) tests/triton_evidence.py

test-gpu: build  ## the CUDA and Triton backends on this machine's GPU, with no synchronisation allowed inside an op
	$(PYTHON) -m pytest -q tests/ops tests/test_gpu.py -k "(cuda or triton or gpu) and not emulated" $(ARGS)

bench-cpu: build  ## measure every op and bar on the CPU, side by side with its peers, and store the results (15 minutes)
	@missed=0; \
	$(PYTHON) -m benchmarks.run --device cpu --peers --json benchmarks/results/cpu.jsonl || missed=1; \
	$(PYTHON) -m examples.train_lm --out runs/bench && \
	$(PYTHON) -m benchmarks.demo runs/bench/results.json --json benchmarks/results/cpu.jsonl || missed=1; \
	exit $$missed

bench-gpu: build  ## the same on this machine's GPU, CUDA and Triton kernels side by side (under 10 minutes)
	$(PYTHON) -m benchmarks.run --device cuda --backend cuda,triton --peers --seconds 0.5 --minutes 9 --json benchmarks/results

bench-check: build  ## measure again, compare with the stored ratios and print what got slower
	$(PYTHON) -m benchmarks.check $(ARGS)

bench-train: build  ## training steps of a GPT and a DiT by precision, and the memory table; store the results
	$(PYTHON) -m benchmarks.train --device cpu --json benchmarks/results/train-cpu.json
	$(PYTHON) -m benchmarks.memory --json benchmarks/results/memory.json

figures: build  ## redraw the pictures in docs/figures from the stored results
	$(PYTHON) -m benchmarks.figures

tables: build  ## rewrite the generated tables in README.md, docs/benchmarks.md and docs/training-benchmarks.md
	$(PYTHON) -m mpkernels.doctor --write-tables README.md
	$(PYTHON) -m benchmarks.tables
	$(PYTHON) -m benchmarks.training.tables

wheel: build  ## one abi3 wheel for torch 2.10 and later, in dist/
	$(PYTHON) -m pip wheel -q --no-build-isolation --no-deps -w dist .

clean:  ## remove what was built, not the environment
	rm -rf build dist *.egg-info mpkernels/*.so runs
