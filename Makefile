# The commands of the README. Each makes .venv on its first call and starts at once afterwards.
PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: lab3 train test lint format bench clean help

help:
	@echo "make lab3    search number formats for every linear layer of a BERT (ARGS='--help' for options)"
	@echo "make train   fit, validate, test or predict: ARGS='fit --config configs/train.yaml'"
	@echo "make test    the test suite"
	@echo "make lint    ruff and mypy"
	@echo "make bench   the number formats against copying a tensor"

lab3: .venv/.package
	$(BIN)/python scripts/lab3_mixed_precision.py $(ARGS)

train: .venv/.package
	$(BIN)/python scripts/train.py $(ARGS)

test: .venv/.dev
	$(BIN)/python -m pytest $(ARGS)

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: .venv/.package
	$(BIN)/python benchmarks/formats.py $(ARGS)

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is older than Python 3.11; name another with PYTHON=..."; exit 2; }
	$(PYTHON) -m venv .venv

# The stamp files say what was installed; a change of the requirements installs again.
.venv/.package: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing lightning_adls into .venv (the first time takes a minute or more) ..."
	@$(PIP) --editable .
	@touch $@

.venv/.dev: pyproject.toml constraints.txt | .venv/bin/python
	@echo "Installing lightning_adls and its test tools into .venv (the first time takes a minute or more) ..."
	@$(PIP) --editable '.[dev]'
	@touch $@ .venv/.package
