# `make` lists the targets. VENV=path (without spaces) uses another environment, PYTHON=python3.12 creates it with
# another Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# On Python 3.10, the oldest, or the next that is there: the oldest torch and numpy have no wheels for 3.13 and later.
OLDEST := .venv-oldest
OLDEST_PYTHON = $(shell for python in python3.10 python3.11 python3.12 $(PYTHON); do \
    $$python -c 'import sys; print(sys.executable)' 2>/dev/null && break; done)

# Tests and notebooks are shared among so many processes, file by file, the slowest first; WORKERS=0 for one.
WORKERS ?= 2
test test-oldest repeat: export OMP_NUM_THREADS ?= 1
# A sitting is tested by executing its cells: that goes with the notebooks.
UNIT = tests --ignore=tests/test_sittings.py
NOTEBOOKS = --nbval notebooks/ tests/test_sittings.py
SHARED = -n $(WORKERS) --dist loadfile --no-loadscope-reorder
TIMES ?= 20
NOTEBOOK_TIMES ?= 5

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help lab test test-oldest repeat browser-test strangers coverage format notebooks sync address slides \
    weights records speedrun bench book

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

lab: $(STAMP) ## open the course in JupyterLab (LAB_FLAGS=--no-browser for a remote machine)
	$(BIN)/python -m jupyterlab $(if $(filter 0,$(shell id -u)),--allow-root) $(LAB_FLAGS) notebooks/01_forward_process.ipynb

test: $(STAMP) ## check style and types, run the unit tests, then every notebook against its stored outputs and each sitting alone
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy
	$(BIN)/python -m pytest $(UNIT) $(SHARED)
	$(BIN)/python -m pytest --doctest-modules ddpm_lesson
	$(BIN)/python -m pytest $(NOTEBOOKS) $(SHARED)

test-oldest: $(OLDEST)/.installed ## run the unit tests on the oldest versions that pyproject.toml allows (gigabytes, an hour)
	$(OLDEST)/bin/python -m pytest $(UNIT) $(SHARED)

repeat: $(STAMP) ## run the unit tests TIMES=20 times and the notebooks NOTEBOOK_TIMES=5 times, until one fails (hours)
	for i in $$(seq $(TIMES)); do echo "unit tests, $$i of $(TIMES)"; $(BIN)/python -m pytest -q $(UNIT) $(SHARED) || exit 1; done
	for i in $$(seq $(NOTEBOOK_TIMES)); do echo "notebooks, $$i of $(NOTEBOOK_TIMES)"; \
	    $(BIN)/python -m pytest -q $(NOTEBOOKS) $(SHARED) || exit 1; done

# BROWSER counts only on make's own command line: many desktops set a variable of that name, to any browser.
browser-test: $(STAMP) ## run the notebooks in JupyterLab in a headless browser (NOTEBOOK=02_loss, PAGES=folder, BROWSER=chrome)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[browser]"
	$(BIN)/python tests/browser.py $(NOTEBOOK) $(if $(PAGES),--out "$(PAGES)") \
	    $(if $(filter command line,$(origin BROWSER)),--browser "$(BROWSER)")

strangers: $(STAMP) $(OLDEST)/.installed ## run the notebooks in an imitation of Colab, then offline in a read-only checkout (NOTEBOOK=)
	$(BIN)/python tests/strangers.py colab $(NOTEBOOK)
	$(BIN)/python tests/strangers.py hostile $(NOTEBOOK)

coverage: $(STAMP) ## run the unit tests and list the statements that none of them reaches
	$(BIN)/python -m coverage run -m pytest tests
	$(BIN)/python -m coverage report

format: $(STAMP) ## format the code and repair what ruff can repair
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

notebooks: $(STAMP) ## rebuild the notebooks whose source changed, and execute those whose code did
	$(BIN)/python notebooks/build.py build

sync: $(STAMP) ## bring edits made in JupyterLab back to notebooks/source
	$(BIN)/python notebooks/build.py sync

address: $(STAMP) ## write the repository's address into badges and set-up cells: make address REPO=owner/name
	$(if $(REPO),,$(error say which repository: make address REPO=owner/name))
	$(BIN)/python notebooks/build.py address $(REPO)

slides: $(STAMP) ## write the notebooks' stored figures as PNG files and slides.md (SLIDES=folder)
	$(BIN)/python notebooks/slides.py $(or $(SLIDES),slides)

weights: $(STAMP) ## train and score the shipped weights that are missing (WEIGHTS=digits_ddpm: this one, anew)
	$(BIN)/python data/weights/make_weights.py $(WEIGHTS)

records: $(STAMP) ## record what the shipped weights reach by sampler, steps and guidance
	$(BIN)/python data/records/solvers.py
	$(BIN)/python data/records/variants.py
	$(BIN)/python data/records/trilemma.py
	$(BIN)/python data/records/ddgan_points.py
	$(BIN)/python data/records/mnist_fast.py
	$(BIN)/python data/records/make_records.py $(WEIGHTS)

speedrun: $(STAMP) ## train on MNIST for five minutes, and draw and score its digits after one, two and five
	$(BIN)/python data/records/mnist_fast.py --speedrun

bench: $(STAMP) ## time training, sampling and imports beside diffusers and denoising-diffusion-pytorch (minutes)
	$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[bench]"
	$(BIN)/python benchmarks/unet.py --write
	$(BIN)/python benchmarks/samplers.py --write
	$(BIN)/python benchmarks/imports.py --write
	$(BIN)/python benchmarks/attempts.py --write
	$(BIN)/python benchmarks/shares.py --write
	$(BIN)/python benchmarks/scale.py --write

book: $(STAMP) ## build the course as a site in build/book, from the stored outputs (BOOK=folder: another place)
	$(BIN)/python book/build.py $(BOOK)

# The stamp is written last: an interrupted installation is resumed by the next call. Building without isolation
# lets a reinstallation after a change of pyproject.toml work offline, in seconds.
$(STAMP): pyproject.toml
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	        { echo "'$(PYTHON)' must be Python 3.10 or newer, got: $$($(PYTHON) --version 2>&1)." \
	               "Name another one: make PYTHON=python3.12 ..." >&2; exit 1; }; \
	    $(PYTHON) -c 'import venv, ensurepip' || \
	        { echo "'$(PYTHON)' lacks venv. On Debian and Ubuntu: sudo apt install python3-venv" >&2; exit 1; }; \
	    $(PYTHON) -m venv "$(VENV)"; \
	fi
	@echo "Installing the course's packages into $(VENV): minutes and gigabytes the first time, seconds later"
	@$(BIN)/python -m pip install --quiet "setuptools>=77.0.1"
	@$(BIN)/python -m pip install --quiet --no-build-isolation --editable ".[notebooks,test,eval]"
	@touch "$@"

# Exactly the lower bounds: tests/oldest.py writes them as pip's constraints.
$(OLDEST)/.installed: pyproject.toml tests/oldest.py
	$(OLDEST_PYTHON) -m venv --clear $(OLDEST)
	$(OLDEST)/bin/python -m pip install --quiet --upgrade pip
	$(OLDEST)/bin/python tests/oldest.py > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt setuptools wheel
	$(OLDEST)/bin/python -m pip install --quiet --constraint $(OLDEST)/constraints.txt --no-build-isolation \
	    --editable ".[notebooks,test,eval]"
	@touch "$@"
