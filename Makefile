# Two commands do everything: `make demo` and `make test`. Both set up first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
DEMO   ?= runs/demo

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: setup demo test test-jax lint format figures clean

setup: $(VENV)/.dev

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if v >= (3, 11) else f"paretax needs Python 3.11 or newer, and $(PYTHON) is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)

# What a user needs.
$(VENV)/.user: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[datasets,optuna]'
	@touch $@

# What a developer and CI need on top.
$(VENV)/.dev: $(VENV)/.user
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(VENV)/.user
	rm -rf $(DEMO) $(DEMO)-bundle
	$(BIN)/paretax space examples/digits.yaml
	$(BIN)/paretax search examples/digits.yaml --out $(DEMO)
	$(BIN)/paretax leaderboard $(DEMO)
	$(BIN)/paretax export $(DEMO) --target cpu --where "accuracy>=0.95" --pick knee -o $(DEMO)-bundle
	$(BIN)/paretax verify $(DEMO)-bundle

# Clusters and killed drivers one after another on a quiet machine, then all else on all cores.
test: $(VENV)/.dev
	$(BIN)/python -m pytest -m slow
	$(BIN)/python -m pytest -m "not slow" -n auto --dist loadfile

# What depends on the release of JAX: CI runs it with the newest and the oldest that are supported.
test-jax: $(VENV)/.dev
	$(BIN)/python -m pytest -m "jax and not slow" -n auto --dist loadfile

lint: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Measures what the README says, on a machine where nothing else runs: about an hour for all.
figures: $(VENV)/.dev
	$(BIN)/python benchmarks/record.py $(BENCHMARKS)

clean:
	rm -rf $(VENV) build dist $(DEMO) $(DEMO)-bundle
