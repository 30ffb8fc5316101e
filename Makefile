# `make` lists the targets. Set-up happens by itself the first time and again only when the lock or pyproject.toml changes.
#
#   PYTHON    the interpreter that .venv is made from        make setup PYTHON=python3.12
#   PIP_ARGS  for pip, at set-up: torch without CUDA, say    make setup PIP_ARGS="--extra-index-url https://download.pytorch.org/whl/cpu"
#   ARGS      for the command that a target runs             make train ARGS="--seed 3"

PYTHON ?= python3
PIP_ARGS ?=
ARGS ?=

BIN := .venv/bin
READY := .venv/.ready

.DEFAULT_GOAL := help
.PHONY: setup train test lint format bench docs lock help

setup: $(READY) ## make .venv with everything that the other targets need

$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) > /dev/null || { echo "There is no $(PYTHON) here; install Python 3.10 or newer, or name one: make setup PYTHON=/path/to/python" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "gumbel_rl needs Python 3.10 or newer, and $(PYTHON) is $$($(PYTHON) --version 2>&1); name another: make setup PYTHON=python3.12" >&2; exit 1; }
	@echo "Setting up .venv (once; a few minutes, most of it torch)"
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || $(PYTHON) -m venv --clear .venv
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet $(PIP_ARGS) -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@

train: setup ## train the default agent on CartPole-v1 (ARGS="..." for more)
	$(BIN)/python train_agent.py --env CartPole-v1 $(ARGS)

test: setup ## run the tests (ARGS="-m 'not slow'" for the quick ones)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup docs ## check style, format, types, the arrows between packages, and that the docs build
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## put the code into the project's format and fix what can be fixed by itself
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup ## add to the published comparison what is missing (ARGS="--jobs 8")
	PATH="$(CURDIR)/$(BIN):$$PATH" bash benchmarks/published.sh $(ARGS)

docs: setup ## build the documentation into site/, warnings being errors
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

lock: setup ## pin the newest versions within pyproject.toml's ranges into requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --quiet uv
	sed -n '/^#/p' requirements.lock > .venv/requirements.lock
	$(BIN)/uv pip compile --quiet --universal --python-version 3.10 --extra dev --upgrade --no-annotate --no-header pyproject.toml \
		| grep -Ev '^(cuda|nvidia|triton)' >> .venv/requirements.lock
	mv .venv/requirements.lock requirements.lock

help: ## list the targets
	@sed -nE 's/^([a-z]+):.*## (.*)$$/  make \1\t\2/p' Makefile | expand -t 16
