# Two commands matter: `make demo` and `make test`. Both set everything up first, in .venv.
PYTHON ?= python3
VENV := .venv
READY := $(VENV)/.ready
PEERS := tests/benchmarks/peers/requirements.txt
PEERS_READY := .venv-peers/.ready
PYTEST := $(VENV)/bin/python -m pytest --durations=10
# What starts clusters, servers and processes of its own, or looks at the time, runs alone: all of four folders but for the files that
# are CALM. The rest of the tests run two at a time.
CALM := bad_input evaluate local_run models outputs pages prepare_hostile recovery report_page report_pictures reopening resuming start_up
CALM := $(CALM:%=tests/pipelines/test_%.py) $(patsubst %,tests/pipelines/sweeps/test_%.py,adoption pack packing packs plan schedulers space) \
        tests/security/test_corruptions.py tests/security/test_hostile_files.py
ALONE := $(filter-out $(CALM),$(wildcard $(patsubst %,tests/%/test_*.py,pipelines pipelines/sweeps security chaos)))
SIDE_BY_SIDE := -n 2 --dist worksteal $(ALONE:%=--ignore=%)

.PHONY: demo test test-all style audit lint ui bench bench-peers soak chaos clean
.DEFAULT_GOAL := demo

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "raygan needs Python 3.11 or newer; set PYTHON=python3.x")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY)  ## train on handwritten digits with 2 CPU workers, about 2 minutes
	$(VENV)/bin/raygan train digits

test: $(READY) style  ## the tests that run in minutes, after the linters
	$(PYTEST) -m "not slow" $(SIDE_BY_SIDE)
	$(PYTEST) -m "not slow" $(ALONE)

test-all: $(READY) style  ## also those marked slow
	$(PYTEST) $(SIDE_BY_SIDE)
	$(PYTEST) $(ALONE)

style: $(READY)  ## style, types, import rules
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

lint: style audit  ## style, and known vulnerabilities of the pinned packages

audit: $(READY)
	$(VENV)/bin/python -m tests.audit

ui: $(READY)  ## MLflow's pages on http://127.0.0.1:5000
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(VENV)/bin/mlflow server --host 127.0.0.1 --port 5000 --workers 1 \
	    --backend-store-uri sqlite:///mlflow.db

bench: $(READY)  ## the benchmark suite, under 10 minutes on 2 cores; PIECES="steps memory" for some of it
	$(VENV)/bin/python -m tests.benchmarks.suite $(PIECES)

$(PEERS_READY): $(PEERS)
	$(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r $(PEERS)
	@touch $@

bench-peers: $(READY) $(PEERS_READY)  ## raygan's steps beside those of other trainers, a quarter of an hour; ARGS="dcgan-32 --against torchgan"
	$(VENV)/bin/python -m tests.benchmarks.peers $(ARGS)

soak: $(READY)  ## memory and open files of a training of half an hour
	$(VENV)/bin/python -m tests.benchmarks.soak

chaos: $(READY)  ## faults of every kind over trainings and sweeps, half an hour to an hour; as root
	$(VENV)/bin/python -m tests.chaos

clean:  ## remove the environments; runs and mlflow.db stay
	rm -rf $(VENV) .venv-peers *.egg-info
