# `make train` and `make test` are all it takes on a machine with Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make train PRESET=gpt2 ARGS='--data fineweb-edu' trains something else.
PRESET ?= small
ARGS ?=

.PHONY: help train test lint clean

help:
	@echo "make train   train the small GPT on the bundled corpus into runs/small"
	@echo "make test    lint, type-check, and run all tests with coverage"
	@echo "make lint    ruff and pyright alone"
	@echo "make clean   remove the environment; runs/ stays"

train: $(BIN)/.installed
	$(BIN)/python scripts/train.py $(PRESET) $(ARGS)

test: $(BIN)/.installed-dev lint
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=90 -n 2

lint: $(BIN)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: $(PYTHON) is older than 3.11; name a newer one: make PYTHON=python3.12"; exit 2; }
	$(PYTHON) -m venv $(VENV)

$(BIN)/.installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(BIN)/.installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@ $(BIN)/.installed

clean:
	rm -rf $(VENV)
