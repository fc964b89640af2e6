# Everything a user or a contributor runs. `make` alone lists it.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help sweep test test-all check fmt clean
help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

sweep: $(VENV)/.run ## the demo sweep: real activations, 32 trials, a report (arguments: ARGS="...")
	$(BIN)/python -m sae_sweep +sweep=grid_topk $(ARGS)

test: $(VENV)/.dev ## the fast tests: neither slow ones nor Ray's
	$(BIN)/python -m pytest -n auto --dist loadfile -m "not slow and not ray and not postgres and not gpu"

test-all: $(VENV)/.dev ## every test that this machine can run, Ray and PostgreSQL included
	$(BIN)/python -m pytest -n auto --dist worksteal -m "not alone and not gpu"
	$(BIN)/python -m pytest -m "alone and not gpu"

check: $(VENV)/.dev ## format, lint, types, import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(VENV)/.dev ## format and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## remove the virtual environment and the tools' caches; outputs/ stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than Python 3.11: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.run: $(VENV)/.venv pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo]'
	@touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml constraints.txt
	$(BIN)/python -m pip install -q -c constraints.txt -e '.[demo,dev,html,postgres,probe,remote,tensorboard,wandb,trackio,mlflow]'
	@touch $@ $(VENV)/.run
