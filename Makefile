# Installs into the active virtual environment, or creates .venv.
ifdef VIRTUAL_ENV
BIN := $(VIRTUAL_ENV)/bin
else
BIN := .venv/bin
endif
PYTHON ?= python3
INSTALLED := $(BIN)/.knot-fed-installed

.PHONY: demo test slow-test notebooks resolve wheel-test browser-test docker-test check bench clean

demo: $(INSTALLED)
	$(BIN)/flower-simulation --app . --num-supernodes 3

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow-test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not long" tests

notebooks: $(INSTALLED)
	$(BIN)/python -m pytest -o addopts= -o filterwarnings=default --nbmake --nbmake-timeout=600 docs/tutorials/*.ipynb

resolve: $(INSTALLED)
	.ci/resolve $(BIN)/uv

wheel-test: $(INSTALLED)
	$(BIN)/python -m pytest -m long tests/end_to_end/test_wheel.py

browser-test: $(INSTALLED)
	$(BIN)/python -m pytest -m browser tests/reporting

docker-test: $(INSTALLED)
	$(BIN)/python -m pytest -m docker tests/docker

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.transport

clean:
	rm -rf .venv dist build .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
