# Everything works from a fresh clone: the first target that needs it makes a virtual environment in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo test check format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: setup  ## one experiment, from encoded clips to a table of scores
	$(BIN)/mbt fit --config experiments/bottleneck_b4_lf8.yaml

test: setup  ## the default tests: no network, no GPU, minutes
	$(BIN)/pytest -n 2 --dist worksteal

check: setup  ## the gate: format, lint, types, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
