# The commands of the README. On Windows, or without make, see "Without make" there.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
EXTRAS := gpu,engines,accuracy,scale,offline,test,lint
unexport PYTHONDONTWRITEBYTECODE  # some containers set it, and each process then compiles every module anew

.PHONY: help setup bench test test-quick test-all lint lab soak gallery gpu-check record clean
help: ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

setup: $(READY) ## make .venv and install everything, if not done already

$(READY): pyproject.toml .ci/constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(None if (3, 11) <= v < (3, 14) else "labkit needs Python 3.11 to 3.13, and %s is %d.%d; try: make setup PYTHON=python3.12" % (sys.executable, v[0], v[1]))'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --upgrade pip setuptools
	$(BIN)/python -m pip install --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[$(EXTRAS)]'
	@touch $(READY)

bench: $(READY) ## measure the rungs that this machine can run, quickly (10 minutes at most)
	$(BIN)/labkit bench --quick

PYTEST := $(BIN)/python -m pytest --durations 15
TWO := -n 2 --dist loadfile --max-worker-restart 0  # else a test that killed its process is run again

test: $(READY) ## every promise of the README once, before each commit
	$(PYTEST) -m "not slow and not extended" $(TWO)

QUICK := structure types stats boxes trace preprocess filters practice exercises measure sources results reference
test-quick: $(READY) ## three minutes of it; on another Python: make test-quick PYTHON=python3.13 VENV=.venv-3.13 EXTRAS=accuracy,test
	$(PYTEST) -m "not slow and not extended" $(TWO) $(QUICK:%=tests/test_%.py)

test-all: test ## and further sizes, seeds, faults, browsers: before each release
	$(PYTEST) -m "extended and not slow" $(TWO) --ignore tests/browser
	$(PYTEST) -m "not slow" tests/browser

lint: $(READY) ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lab: $(READY) ## open the notebooks in JupyterLab
	$(BIN)/labkit lab

gallery: $(READY) ## run every notebook; pages for reading in results/gallery
	$(BIN)/labkit gallery

soak: $(READY) ## the tests of minutes to hours, which nothing else runs
	$(BIN)/python -m pytest -m slow

gpu-check: $(if $(PY),,$(READY)) ## on a machine with a GPU: kernels, rungs, CUDA tests, a record (PY=python3: installs nothing)
	$(or $(PY),$(BIN)/python) .ci/gpu_check.py $(or $(STEPS),facts peaks kernels rungs profile tests bench compile)

record: $(READY) ## on a quiet machine, for hours: all that results/reference/NAME holds (TO=NAME, PARTS="int8 page")
	$(BIN)/python .ci/record.py results/reference/$(or $(TO),$(error name the machine: make record TO=NAME)) $(PARTS)

clean: ## remove the virtual environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis build dist *.egg-info
