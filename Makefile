# `make demo` and `make test` do all the set-up that they need; Python and a package registry are enough.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed

.PHONY: setup demo test test-slow check bench docs

setup: $(STAMP)

$(STAMP): pyproject.toml constraints-dev.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing into .venv (once, minutes)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints-dev.txt -e '.[dev]'
	touch $@

demo: setup
	$(BIN)/dp-diffusers demo --out runs/demo

# Asserts that explain themselves take time to prepare: what failed is run again with them.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --assert=plain -m "not slow" -n 2 || \
	{ $(BIN)/python -m pytest --last-failed --last-failed-no-failures none -m "not slow"; exit 1; }

test-slow: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n 2

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: setup
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/generate_results.py

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/dp-diffusers bench --profile --out runs/bench
