# Installs into the active virtual environment, or creates .venv.
ifdef VIRTUAL_ENV
BIN := $(VIRTUAL_ENV)/bin
else
BIN := .venv/bin
endif
PYTHON ?= python3
INSTALLED := $(BIN)/.knot-fed-installed

.PHONY: demo test slow-test resolve wheel-test tutorial-test container-test browser-test docker-test check bench docs notebooks dist hub sbom audit clean

demo: $(INSTALLED)
	$(BIN)/flower-simulation --app . --num-supernodes 3

test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

slow-test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile -m "slow and not long" tests

notebooks: $(INSTALLED)
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pytest -o addopts= -o filterwarnings=default --nbmake --nbmake-timeout=600 docs/tutorials/*.ipynb

resolve: $(INSTALLED)
	.ci/resolve $(BIN)/uv

wheel-test: $(INSTALLED)
	$(BIN)/python -m pytest -m long tests/end_to_end/test_wheel.py

tutorial-test: $(INSTALLED)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "slow or long" tests/tutorials

container-test: $(INSTALLED)
	$(BIN)/python -m pytest -m "docker and long" tests/docker

browser-test: $(INSTALLED)
	$(BIN)/python -m pytest -m browser tests/reporting tests/docs_site

docker-test: $(INSTALLED)
	$(BIN)/python -m pytest -m "docker and not long" tests/docker

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

bench: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[bench]"
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.transport

# Without a network; the variables silence advertisements of other site generators.
docs: $(INSTALLED)
	NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/python -m mkdocs build --strict

dist: $(INSTALLED)
	.ci/dist $(BIN)/python $(BIN)/uv

hub: $(INSTALLED)
	$(BIN)/python .ci/hub.py build/hub/knot-fed

sbom: $(INSTALLED)
	mkdir -p build
	$(BIN)/uv tool run --no-config --quiet --from cyclonedx-bom==7.5.0 cyclonedx-py environment --pyproject pyproject.toml \
		--output-reproducible --output-file build/sbom.json $(BIN)/python

audit: $(INSTALLED)
	$(BIN)/uv tool run --no-config --quiet --from pip-audit==2.10.1 pip-audit --strict --no-deps --disable-pip -r constraints.txt

clean:
	rm -rf .venv dist build site .mypy_cache .pytest_cache .ruff_cache

$(BIN)/python:
	$(PYTHON) -m venv .venv

$(INSTALLED): $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@
