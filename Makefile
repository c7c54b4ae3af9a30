# Every target except `help` and `clean` first creates .venv if it is missing or older than pyproject.toml.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Folders of installed packages that no target imports, or little of them: two fifths of the files.
UNUSED := /(_inductor|backend|brevitas_examples|combinatorics|databricks|distutils|fontTools|gateway|mypy|mypyc|networkx|physics|pip|pygments|ray/dashboard|ray/data|ray/llm|ray/train|rllib|selenium|serve|signal|sklearn|stats|testing|tests|transformers|tune)/
COMPILE = $(BIN)/python -m compileall -qq -x '$(UNUSED)' $(VENV)/lib

# The tests start many processes, each of which would compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help run test check format build clean

help:  ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/make \1\t\2/p' Makefile | expand -t 14

run: $(INSTALLED)  ## compress ResNet-18 on the embedded digits and write a report to runs/
	$(BIN)/python run_pipeline.py --bits 4 --config 6,3,3,2,2

test: $(INSTALLED)  ## run the tests; with SERIESQUANT_DATA set, those on real data too
	$(BIN)/python -m pytest -n auto --maxprocesses 3 --dist loadfile --no-loadscope-reorder

check: $(INSTALLED)  ## lint, format, types, import contracts, links and commands of the documents
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python tools/check_docs.py

format: $(INSTALLED)  ## rewrite the code in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

build: $(INSTALLED)  ## build the source distribution and the wheel into dist/
	$(BIN)/python -m build

clean:  ## remove everything that these targets create, except runs/
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# While pip installs, a second process compiles what is there already, for as long as the shell of that line lives. The
# stamp is touched last, so that the next call repeats a failed or interrupted installation.
$(INSTALLED): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "seriesquant needs Python 3.11 or newer, but '$(PYTHON)' is $$($(PYTHON) --version 2>&1);" \
	    "choose another with: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Installing seriesquant into $(VENV) (minutes the first time; later calls skip it)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --upgrade pip || true  # resolves twice as fast
	@while sleep 3 && kill -0 $$$$; do $(COMPILE) || true; done >/dev/null 2>&1 &\
	  $(BIN)/python -m pip install -qq --disable-pip-version-check --no-compile --editable '.[dev]'
	@$(COMPILE) -j 0 || true  # some files are no Python
	@touch $@
