# Everything here needs only Python 3.11 or newer, make and git; the rest is installed into .venv from hashed locks.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEV_READY := $(VENV)/.ready-dev
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --no-deps
# A lock is complete, so nothing is resolved: a release of tomorrow cannot change what is installed today.
LOCKED := $(INSTALL) --require-hashes --only-binary=:all:
CHECK := out=$$($(BIN)/pip check --disable-pip-version-check) || { echo "$$out" >&2; exit 1; }
BY_FILE := --dist=loadfile --no-loadscope-reorder
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-strip-extras --no-header --no-emit-index-url

.PHONY: help setup demo dev unit test check soak bench lock clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

setup: $(DEV_READY)  ## make .venv with everything development needs

$(READY): requirements.txt requirements-build.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "traced-relay needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }
	@echo "Setting up $(VENV) with $$($(PYTHON) --version); the first time takes about a minute." >&2
	@$(PYTHON) -m venv --clear $(VENV)
	@$(LOCKED) -r requirements-build.txt -r requirements.txt
	@$(INSTALL) --no-build-isolation -e .
	@$(CHECK)
	@touch $@

$(DEV_READY): $(READY) requirements-dev.txt
	@echo "Adding what development needs to $(VENV)." >&2
	@$(LOCKED) -r requirements-dev.txt
	@$(CHECK)
	@touch $@

demo: $(READY)  ## three calls through the embedded queue, with their waterfalls
	@$(BIN)/traced-relay demo

dev: $(READY)  ## relay and queue on this machine, kept running
	@$(BIN)/traced-relay dev

unit: $(DEV_READY)  ## the fast tests, for the inner loop
	@$(BIN)/pytest -q --numprocesses=auto --maxprocesses=4 $(BY_FILE) --hypothesis-profile=quick -m "not whole and not soak" tests/unit tests/architecture

# More workers than processors, since many tests wait for other processes.
test: $(DEV_READY)  ## all tests but the soak
	@$(BIN)/pytest --numprocesses=4 $(BY_FILE) -m "not soak"

check: $(DEV_READY)  ## format, lint, types
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy

soak: $(DEV_READY)  ## storms and long runs
	@$(BIN)/pytest -m soak

bench: $(DEV_READY)  ## measure, as ratios to a floor in the same run
	@$(BIN)/python -m bench

lock:  ## compile the locks from pyproject.toml
	@test -x $(BIN)/uv || $(MAKE) setup
	$(LOCK) --extra firestore pyproject.toml -o requirements.txt
	$(LOCK) --all-extras -c requirements.txt pyproject.toml -o requirements-dev.txt
	$(LOCK) --group build -o requirements-build.txt

clean:  ## remove what the targets above made
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build src/*.egg-info
