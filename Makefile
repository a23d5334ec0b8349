# Two commands: `make run` searches, `make test` checks. Both set .venv up first; with VENV=/path they use that one as it is.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
SPACE  ?= convnext.yaml
# A process that dies ends the run: pytest-xdist's replacement of one gets no tests, and the run would never end.
TWO    := -n 2 --dist loadgroup --no-loadscope-reorder --max-worker-restart 0

ifeq ($(VENV),.venv)
READY     := $(VENV)/.ready
READY_DEV := $(READY)
else
READY     := checked
READY_DEV := checked-dev
export PYTHONPATH := $(CURDIR)$(if $(PYTHONPATH),:$(PYTHONPATH))
endif

.PHONY: help run test quick kills fuzz lint gpu docs bench bench-gpu setup lock clean checked checked-dev
.DEFAULT_GOAL := run

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  \1\t\2/' | expand -t 12

run: $(READY)  ## search on the built-in data, then ensemble, verdict, bundle, report
	$(BIN)/python search/run.py --space $(SPACE)

test: $(READY_DEV)  ## the whole suite; the slow, real-data runs come last
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO)

quick: $(READY_DEV)  ## the suite without the slow runs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(TWO) -m "not slow"

kills: $(READY_DEV)  ## kill a run at each of its 23 moments and compare what is left; submit one as a Ray job, spread one over nodes that share no disk
	SEGSEARCH_KILLS=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -s tests/search/test_kill_series.py tests/search/cluster/test_job_submit.py tests/search/cluster/test_deploy.py tests/search/cluster/test_node_loss.py tests/search/remote/test_whole_run.py tests/search/test_run_lock.py

fuzz: $(READY_DEV)  ## every reader against 10,000 new hostile inputs; hours
	SEGSEARCH_FUZZ=10000 OMP_NUM_THREADS=1 $(BIN)/python -m pytest --timeout 0 tests/fuzz

lint: $(READY_DEV)  ## style, types, import contracts
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/lint-imports

gpu: $(READY_DEV)  ## the code paths of a GPU, without Ray and without a network; skipped where there is none
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/gpu

docs: $(READY_DEV)  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict -f .ci/mkdocs.yml

bench: $(READY_DEV)  ## everything in tests/benchmarks, written to benchmarks.json
	OMP_NUM_THREADS=1 $(BIN)/python tests/benchmarks/run_all.py

bench-gpu: $(READY_DEV)  ## images per second and share of the matrix peak on this machine's GPU
	$(BIN)/python tests/benchmarks/bench_models.py cuda

setup: $(READY_DEV)  ## make .venv with the locked versions; with VENV=/path, only check that environment

checked checked-dev:
	@test -x $(BIN)/python || { echo 'segsearch: VENV must be a Python environment, got $(VENV), which has no bin/python' >&2; exit 2; }
	@$(BIN)/python .ci/check_environment.py $(if $(findstring dev,$@),dev)

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else "segsearch needs Python 3.11 or newer, got %d.%d; set one with: make PYTHON=python3.12" % v[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

lock:  ## resolve pyproject.toml's ranges anew (needs uv)
	uv pip compile --universal --python-version 3.11 --extra dev --no-emit-index-url --no-annotate --no-header pyproject.toml -o requirements.lock

clean:  ## remove .venv (never an environment named by VENV=) and what tools leave behind
	rm -rf .venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
