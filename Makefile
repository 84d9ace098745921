# Two commands matter: `make demo` (the whole life of a model) and `make test`.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
export RAY_USAGE_STATS_ENABLED = 0
export DS_ACCELERATOR ?= cpu
export OMP_NUM_THREADS ?= 1

.PHONY: demo install install-dev test slow hosts lint type format bench chaos clean help

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: install ## the whole life of a model, on data that needs no download
	$(BIN)/orchestrator demo

install: $(VENV)/.installed ## create .venv and install

install-dev: $(VENV)/.installed-dev

$(VENV)/bin/python:
	command -v $(PYTHON) >/dev/null && $(PYTHON) -m venv $(VENV) || python3 -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@ $(VENV)/.installed

test: install-dev ## the default tests
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not chaos and not load and not root and not slow'

slow: install-dev ## tests that take minutes: jobs, engines and corpora through Ray, presets against baselines
	$(BIN)/python -m pytest -m 'slow and not chaos'

hosts: install-dev ## training across hosts, made of network namespaces
	$(BIN)/python -m pytest -m 'root and not chaos'

chaos: install-dev ## the tests that inject faults
	$(BIN)/python -m pytest -m chaos

lint: install-dev type ## style, types and unreachable code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python .ci/unreachable.py

type: install-dev
	$(BIN)/mypy orchestrator serving jobs benchmarks

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The others need an accelerator, data sets or published checkpoints: their first lines say how.
BENCHMARKS := checkpoints corpus_memory long_texts modeling predict pretraining quantization reliability
bench: install-dev ## side-by-side measurements
	for name in $(BENCHMARKS); do $(BIN)/python benchmarks/$$name.py || exit 1; done

clean: ## remove what the commands made (not your zoo)
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
