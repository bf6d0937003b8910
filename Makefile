# Everything here needs only Python 3.11 or newer, make and git; the rest is installed into .venv from hashed locks.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
BY_FILE := --numprocesses=auto --maxprocesses=4 --dist=loadfile
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url

.PHONY: help setup demo dev unit test check soak bench lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(READY)  ## make .venv with everything development needs

$(READY): requirements-dev.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "traced-relay needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version); the first time this takes a minute" >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)  ## three calls through the embedded queue, with their waterfalls and records
	@$(BIN)/traced-relay demo

dev: $(READY)  ## relay and queue on this machine, kept running
	@$(BIN)/traced-relay dev

unit: $(READY)  ## the fast tests, for the inner loop
	@$(BIN)/pytest -q $(BY_FILE) --hypothesis-profile=quick -m "not whole and not soak"

test: $(READY)  ## all tests but the soak
	@$(BIN)/pytest $(BY_FILE) -m "not soak"

check: $(READY)  ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

soak: $(READY)  ## storms and long runs
	@$(BIN)/pytest -m soak

bench: $(READY)  ## measure, as ratios to a floor in the same run
	@$(BIN)/python -m bench

lock: $(READY)  ## compile the locks from pyproject.toml
	$(LOCK) --extra firestore pyproject.toml -o requirements.txt
	$(LOCK) --all-extras -c requirements.txt pyproject.toml -o requirements-dev.txt

clean:  ## remove what the targets above made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
