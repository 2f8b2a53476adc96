# iommud. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
TESTS := $(VENV)/.stamp-tests
CODE := iommud cuse_glue tests

.DEFAULT_GOAL := help
.PHONY: help setup demo docs test lint kernel-selftest bench clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(TESTS)  ## make .venv with the command .venv/bin/iommud (a second time takes no time)

$(STAMP): pyproject.toml scripts/need
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "iommud needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make setup PYTHON=/path/to/a/newer/python3" % v[:2])'
	@scripts/need gcc libc6-dev
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/need python3-venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'iommud and what it needs go into $(VENV) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(TESTS): $(STAMP)
	@echo 'what the tests need goes into $(VENV) ...'
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

demo: $(STAMP)  ## build a C program that knows nothing of iommud and show its ioctls
	@mkdir -p build
	$(CC) -std=gnu11 -Wall -Wextra -Werror -Iinclude demo/demo.c -o build/demo
	@echo
	$(BIN)/iommud run --why -- build/demo

docs: setup  ## docs/ioctls.md and completion/, from the code
	$(BIN)/python -m tests.house.ioctl_table
	$(BIN)/python -m tests.house.completion

lint: setup  ## ruff and mypy --strict
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy --strict $(CODE)

test: lint  ## everything this machine can run: lint, the kernel's selftest, pytest
	@scripts/need xz-utils || true
	$(BIN)/python tests/kernel_selftest/run.py || test $$? = 77  # 77: not to be had here, and it has said why
	$(BIN)/python -m pytest -q

kernel-selftest: setup  ## the kernel's own selftest of IOMMUFD, unmodified, against the list of expected failures
	@scripts/need xz-utils || true
	$(BIN)/python tests/kernel_selftest/run.py

bench: setup  ## round trips beside a C server that does nothing; writes build/bench.json
	$(BIN)/python tests/bench/run.py

clean:  ## remove what was made here
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
