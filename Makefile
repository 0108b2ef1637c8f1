# Two commands for a fresh machine with Python 3.11 or newer: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
CONSTRAINTS ?= constraints.txt

.PHONY: help install demo test test-min lint format

help:
	@echo "make demo      set everything up, fine-tune a small ViLT with and without WMA, show the table and the plot"
	@echo "make test      set everything up and pass the tests"
	@echo "make test-min  the same with the oldest versions of everything it needs, in .venv-min"
	@echo "make lint      check style and formatting"
	@echo "make format    put formatting right"

$(INSTALLED): pyproject.toml $(CONSTRAINTS)
	@echo "== Setting up $(VENV): PyTorch, transformers and what else the package needs (some GB, a few minutes)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint $(CONSTRAINTS) --editable ".[dev]"
	@touch $(INSTALLED)

install: $(INSTALLED)

demo: $(INSTALLED)
	@echo "== Training a small ViLT from scratch on digits-captions, plain and with Wasserstein Modality Alignment"
	$(BIN)/hf-mmalign sweep recipes/wma/demo.yaml
	@echo "== Loading the saved model with from_pretrained"
	$(BIN)/hf-mmalign evaluate runs/wma-demo/wma/seed=0

test: $(INSTALLED)
	@echo "== Running the tests, offline"
	$(BIN)/python -m pytest -n 2

test-min:
	$(MAKE) test VENV=.venv-min CONSTRAINTS=constraints-min.txt

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
