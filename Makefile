# Two commands: `make run` searches, `make test` checks. Both set everything up first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
SPACE  ?= convnext.yaml

.PHONY: help run test quick lint bench setup lock clean
.DEFAULT_GOAL := run

help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  \1\t\2/' | expand -t 10

run: $(READY)  ## search on the built-in data, then ensemble, verdict, bundle, report
	$(BIN)/python search/run.py --space $(SPACE)

test: $(READY)  ## the whole suite; the slow, real-data runs come last
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest

quick: $(READY)  ## the suite without the slow runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow"

lint: $(READY)  ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(READY)  ## everything in tests/benchmarks, written to benchmarks.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/run_all.py

setup: $(READY)  ## make the environment; another: make VENV=/path ... (installs the locked versions there)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "segsearch needs Python 3.11 or newer, got %d.%d; set one with: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $(READY)

lock:  ## resolve pyproject.toml's ranges anew (needs uv)
	uv pip compile --universal --python-version 3.11 --extra dev --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.lock

clean:  ## remove .venv (never an environment named by VENV=) and what tools leave behind
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
