PYTHON ?= $(shell python3.11 --version >/dev/null 2>&1 && echo python3.11 || echo python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt
export PATH := $(CURDIR)/$(BIN):$(PATH)
unexport PYTHONDONTWRITEBYTECODE  # modules are compiled on first import: installing takes half the time

.PHONY: help demo test slow check format docs gallery clean

help:  ## print this list
	@sed -nE 's/^([a-z]+):[^#]*## (.*)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 14

demo: .venv/.installed  ## few-shot learning on real growth curves: a table and a picture
	python examples/growth_curves.py

test: .venv/.installed  ## the tests, but for the slow ones
	pytest -m "not slow"

slow: .venv/.installed  ## the slow tests (that there are none is no failure)
	pytest -m slow || [ $$? -eq 5 ]

check: .venv/.installed  ## lint, format, types, layers
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	pre-commit validate-config

format: .venv/.installed  ## format the code and apply the linter's safe fixes
	ruff check --fix .
	ruff format .

docs: .venv/.documenting  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict

gallery: .venv/.installed  ## run all examples and keep what they print and draw, for the documentation (25 minutes)
	python docs/gallery.py

clean:  ## remove what the other targets made
	rm -rf .venv site dist .*_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(PIP) -e ".[dev,benchmarks]"
	touch $@

.venv/.documenting: .venv/.installed
	$(PIP) -e ".[docs]"
	touch $@
