# Two commands do everything on a fresh machine with Python 3.11 or newer: `make demo`, `make test`.
#
#   PYTHON=python3.12     another interpreter for the environment
#   VENV=/path/to/venv    another place for it
#   PIP_FLAGS="..."       more options for pip (an index, a cache, --find-links)
#   PYTEST_FLAGS="-k swap"
#   OUT=folder            where the demo writes (first free of demo-out, demo-out-2, ...)

PYTHON ?= python3
VENV ?= .venv
PIP_FLAGS ?=
PYTEST_FLAGS ?=
OUT ?=

BIN := $(VENV)/bin
# Touched when the environment is complete, so that an interrupted installation starts again.
STAMP := $(VENV)/.installed

.PHONY: help demo test lint format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     train a picture, build the engine once, swap, verify, compare with LoRA"
	@echo "make test     run every test"
	@echo "make lint     ruff (rules and format) and mypy --strict"
	@echo "make format   let ruff rewrite what it can"
	@echo "make clean    remove caches and build products (runs and demo folders stay)"

demo: $(STAMP)
	$(BIN)/art-export demo $(if $(OUT),-o "$(OUT)")

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find art_export engines optimum training tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; name one with: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $(PIP_FLAGS) -e '.[dev]'
	touch $@
