# The commands of the README. Each makes .venv on its first call and starts at once afterwards.
PYTHON ?= python3
ARGS ?=
VENV ?= .venv
BIN := $(VENV)/bin
# Help and messages then say `make lab1 ARGS=...`.
ADLS := LIGHTNING_ADLS_MAKE=1 $(BIN)/python -m lightning_adls
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: lab0 lab1 lab2 lab3 lab4 train export predict figures report notebooks doctor docs test \
  test-all test-slow lint format clean help \
  bench bench-formats bench-step bench-flow bench-gpu

help:
	@echo "make lab0    fine-tune a BERT, whole and with LoRA (ARGS='--help' for options, as everywhere)"
	@echo "make lab1    quantise it at many widths, prune it to many sparsities"
	@echo "make lab2    search its architecture, with and without compression"
	@echo "make lab3    search number formats for every linear layer"
	@echo "make lab4    time torch.compile, fused attention and packed weights; compare exports"
	@echo "make train   fit, validate, test or predict: ARGS='fit --config configs/train.yaml'"
	@echo "make export  write a run's model for other engines: ARGS='--run lab3/default --to onnx'"
	@echo "make predict classify texts by what was exported: ARGS='FILE \"The plot was not dull.\"'"
	@echo "make figures draw the figures of runs again: ARGS='lightning_logs/lab1/default'"
	@echo "make report  write a lab report of one run or several, side by side: ARGS='lab1/default'"
	@echo "make doctor  say whether this machine has what is needed, and what it can do"
	@echo "make notebooks  docs/notebooks/lab0.ipynb ..., for Jupyter and Colab"
	@echo "make docs    the documentation as a site, in build/site"
	@echo "make test    the test suite, a few cases of each test: minutes"
	@echo "make test-all  every case: twenty minutes"
	@echo "make test-slow  a hundred kills of workers and drivers: some minutes"
	@echo "make lint    ruff and mypy"
	@echo "make bench   three tables of speed, each also by itself, with ARGS:"
	@echo "make bench-formats   the number formats against copying a tensor"
	@echo "make bench-step      a training step with each format against one in float32"
	@echo "make bench-flow      Lab 3 against MASE's flow"
	@echo "make bench-gpu       formats, steps, decoding and Lab 4 on an NVIDIA GPU"

lab0: $(VENV)/.lora
	$(ADLS) lab0 $(ARGS)

lab1: $(VENV)/.package
	$(ADLS) lab1 $(ARGS)

lab2: $(VENV)/.package
	$(ADLS) lab2 $(ARGS)

lab3: $(VENV)/.package
	$(ADLS) lab3 $(ARGS)

lab4: $(VENV)/.export
	$(ADLS) lab4 $(ARGS)

train: $(VENV)/.package
	$(ADLS) train $(ARGS)

export: $(VENV)/.export
	$(ADLS) export $(ARGS)

predict: $(VENV)/.export
	$(ADLS) predict $(ARGS)

figures: $(VENV)/.package
	$(ADLS) figures $(ARGS)

report: $(VENV)/.package
	$(ADLS) report $(ARGS)

doctor: $(VENV)/.package
	$(ADLS) doctor $(ARGS)

notebooks: $(VENV)/.notebooks
	$(BIN)/jupytext --to ipynb docs/notebooks/lab*.py

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet $(ARGS)
	@echo "Open build/site/index.html; to search it, serve it: $(BIN)/python -m http.server --directory build/site"

# A process per core, of one thread each: threads that wait for each other spin.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
test: $(VENV)/.dev
	$(PYTEST) --sample --numprocesses logical --dist worksteal $(ARGS)

test-all: $(VENV)/.dev
	$(PYTEST) --numprocesses logical --dist worksteal $(ARGS)

# A hundred kills of workers and drivers, on a journal and on PostgreSQL.
test-slow: $(VENV)/.dev
	$(PYTEST) tests/slow $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Sizes at which all three are done in half an hour on two cores.
bench: $(VENV)/.bench
	$(BIN)/python benchmarks/formats.py --repeats 10
	$(BIN)/python benchmarks/step.py --rounds 5 --compile layers
	$(BIN)/python benchmarks/step.py --network base --rounds 3 --compile layers
	$(BIN)/python benchmarks/mase_flow.py --reviews 500 --validation 250 --minutes 5

bench-formats: $(VENV)/.package
	$(BIN)/python benchmarks/formats.py $(ARGS)

bench-step: $(VENV)/.package
	$(BIN)/python benchmarks/step.py $(ARGS)

bench-flow: $(VENV)/.bench
	$(BIN)/python benchmarks/mase_flow.py $(ARGS)

bench-gpu: $(VENV)/.bench
	$(BIN)/python benchmarks/formats.py --device cuda --repeats 10
	$(BIN)/python benchmarks/step.py --device cuda --network base --rounds 5 --compile layers
	$(BIN)/python benchmarks/decoding.py --device cuda
	$(ADLS) lab4 --devices '[cuda]' --run gpu

clean:
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; name another with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# PyPI's torch brings gigabytes for NVIDIA's GPUs. Where there is none, torch's own index has a build
# without them; where that index cannot be reached, PyPI's does as well.
CPU_TORCH := https://download.pytorch.org/whl/cpu
$(VENV)/.torch: constraints.txt | $(BIN)/python
	@if [ "$$(uname -sm)" = "Linux x86_64" ] && [ ! -e /proc/driver/nvidia ] \
	  && ! command -v nvidia-smi > /dev/null; then \
	  echo "No NVIDIA GPU here: installing torch's CPU build ..."; \
	  $(PIP) --no-deps --timeout 5 --retries 0 --index-url $(CPU_TORCH) torch 2> $(VENV)/torch.log \
	    || echo "None from $(CPU_TORCH), see $(VENV)/torch.log: PyPI's, which may take gigabytes."; \
	fi
	@touch $@

# The stamp files say what was installed; a change of the requirements installs again.
$(VENV)/.package: EXTRAS :=
$(VENV)/.lora: EXTRAS := [lora]
$(VENV)/.export: EXTRAS := [export]
$(VENV)/.notebooks: EXTRAS := [notebooks]
$(VENV)/.dev: EXTRAS := [dev]
$(VENV)/.bench: EXTRAS := [bench]
$(VENV)/.docs: EXTRAS := [docs]
$(VENV)/.package $(VENV)/.lora $(VENV)/.export $(VENV)/.notebooks $(VENV)/.dev $(VENV)/.bench \
  $(VENV)/.docs: pyproject.toml setup.py constraints.txt | $(VENV)/.torch
	@echo "Installing lightning_adls$(EXTRAS) into $(VENV) (the first time takes a minute or more) ..."
	@$(PIP) --editable '.$(EXTRAS)'
	@touch $@ $(VENV)/.package $(if $(findstring dev,$@),$(addprefix $(VENV)/.,lora export notebooks bench docs))
