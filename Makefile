# Everything works from a fresh clone: every target that needs the virtual environment in .venv makes it first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: setup demo sweep ablation-table test check loss-trace format clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

demo: setup  ## one experiment, from encoded clips to a table of scores
	$(BIN)/mbt fit --config experiments/bottleneck_b4_lf8.yaml

# The sweep to run or to show; its runs are in runs/<its name>.
SWEEP ?= sweeps/demo.yaml
NAME ?= $(basename $(notdir $(SWEEP)))

sweep: setup  ## run the unfinished trials of a sweep; SWEEP=sweeps/fusion_layer.yaml for another one
	$(BIN)/mbt sweep $(SWEEP) --name $(NAME)

ablation-table: setup  ## the sweep, then its table and figures in ablation/; RUNS=FOLDER or WANDB=ENTITY/PROJECT/SWEEP for other runs
ifdef WANDB
	$(BIN)/mbt table --wandb $(WANDB)
else ifdef RUNS
	$(BIN)/mbt table $(RUNS)
else
	$(BIN)/mbt sweep $(SWEEP) --name $(NAME); ended=$$?; test $$ended -gt 1 || $(BIN)/mbt table runs/$(NAME) || exit; exit $$ended
endif

test: setup  ## the default tests: no network, no GPU; takes minutes
	$(BIN)/pytest -n 2 --dist worksteal

check: setup  ## all checks: format, lint, types, tests
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest -n 2 --dist worksteal

loss-trace: setup  ## rewrite tests/goldens/loss_trace.json: only for a change that is meant to change numbers
	$(BIN)/python tests/goldens/make/loss_trace.py

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
