# The commands of the README. Each makes .venv on its first call and starts at once afterwards.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: lab0 lab1 lab2 lab3 lab4 train figures report test test-slow lint format clean help \
  bench bench-formats bench-step bench-flow

help:
	@echo "make lab0    fine-tune a BERT, whole and with LoRA (ARGS='--help' for options, as everywhere)"
	@echo "make lab1    quantise it at many widths, prune it to many sparsities"
	@echo "make lab2    search its architecture, with and without compression"
	@echo "make lab3    search number formats for every linear layer"
	@echo "make lab4    time torch.compile, fused attention and packed MXINT8 weights"
	@echo "make train   fit, validate, test or predict: ARGS='fit --config configs/train.yaml'"
	@echo "make figures draw the figures of runs again: ARGS='lightning_logs/lab1/default'"
	@echo "make report  write a lab report of one run or several, side by side: ARGS='lab1/default'"
	@echo "make test    the test suite"
	@echo "make test-slow  a hundred kills of workers and drivers: some minutes"
	@echo "make lint    ruff and mypy"
	@echo "make bench   three tables of speed, each also by itself, with ARGS:"
	@echo "make bench-formats   the number formats against copying a tensor"
	@echo "make bench-step      a training step with each format against one in float32"
	@echo "make bench-flow      Lab 3 against MASE's flow"

lab0: .venv/.lora
	$(BIN)/python scripts/lab0_finetune.py $(ARGS)

lab1: .venv/.package
	$(BIN)/python scripts/lab1_compression.py $(ARGS)

lab2: .venv/.package
	$(BIN)/python scripts/lab2_nas.py $(ARGS)

lab3: .venv/.package
	$(BIN)/python scripts/lab3_mixed_precision.py $(ARGS)

lab4: .venv/.package
	$(BIN)/python scripts/lab4_performance.py $(ARGS)

train: .venv/.package
	$(BIN)/python scripts/train.py $(ARGS)

figures: .venv/.package
	$(BIN)/python scripts/figures.py $(ARGS)

report: .venv/.package
	$(BIN)/python scripts/report.py $(ARGS)

# A process per core, of one thread each: threads that wait for each other spin.
test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --dist worksteal $(ARGS)

# A hundred kills of workers and drivers, on a journal and on PostgreSQL.
test-slow: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/slow $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Sizes at which all three are done in a quarter of an hour on two cores.
bench: .venv/.bench
	$(BIN)/python benchmarks/formats.py --repeats 10
	$(BIN)/python benchmarks/step.py --rounds 5
	$(BIN)/python benchmarks/step.py --rounds 5 --compile --formats Integer MXInt Binary
	$(BIN)/python benchmarks/mase_flow.py --reviews 500 --validation 250 --minutes 5

bench-formats: .venv/.package
	$(BIN)/python benchmarks/formats.py $(ARGS)

bench-step: .venv/.package
	$(BIN)/python benchmarks/step.py $(ARGS)

bench-flow: .venv/.bench
	$(BIN)/python benchmarks/mase_flow.py $(ARGS)

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; name another with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv

# The stamp files say what was installed; a change of the requirements installs again.
.venv/.package: EXTRAS :=
.venv/.lora: EXTRAS := [lora]
.venv/.dev: EXTRAS := [dev]
.venv/.bench: EXTRAS := [bench]
.venv/.package .venv/.lora .venv/.dev .venv/.bench: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing lightning_adls$(EXTRAS) into .venv (the first time takes a minute or more) ..."
	@$(PIP) --editable '.$(EXTRAS)'
	@touch $@ .venv/.package $(if $(findstring dev,$@),.venv/.lora .venv/.bench)
