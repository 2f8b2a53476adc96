# iommud. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
TESTS := $(VENV)/.stamp-tests
CODE := iommud cuse_glue tests tools scripts/installer.py scripts/lowest.py
DEPENDENCIES = newest
PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(if $(filter lowest,$(DEPENDENCIES)),--constraint $(VENV)/lowest.txt)

.DEFAULT_GOAL := help
PURE := tests/engine tests/uapi tests/ops tests/file tests/selftest tests/cli tests/house tests/devices tests/pci tests/real_clients

.PHONY: help setup demo docs check test lint format kernel-selftest clients vm-test hostile nvme soak bench build install uninstall clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Compiled also where PYTHONDONTWRITEBYTECODE is set: the tests start iommud a thousand times.
setup: $(TESTS)  ## make .venv with the command .venv/bin/iommud (DEPENDENCIES=lowest: with the oldest versions that pyproject.toml allows)
	@$(BIN)/python -m compileall -q iommud cuse_glue

$(STAMP): pyproject.toml scripts/need scripts/lowest.py
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "iommud needs Python 3.11 or newer, and $(PYTHON) is %d.%d: make setup PYTHON=/path/to/a/newer/python3" % v[:2])'
	@scripts/need gcc libc6-dev
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/need python3-venv
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo 'iommud and what it needs go into $(VENV) ...'
	@$(BIN)/python scripts/lowest.py >$(VENV)/lowest.txt
	@$(PIP) --editable .
	@touch $@

$(TESTS): $(STAMP)
	@echo 'what the tests need goes into $(VENV) ...'
	@$(PIP) --editable '.[test]'
	@touch $@

demo: $(STAMP)  ## build a C program that knows nothing of iommud and show its ioctls
	@mkdir -p build
	$(CC) -std=gnu11 -Wall -Wextra -Werror -Iinclude demo/demo.c -o build/demo
	@echo
	$(BIN)/iommud run --why -- build/demo

docs: setup  ## docs/ioctls.md and completion/, from the code
	$(BIN)/python -m tools.ioctl_table
	$(BIN)/python -m tools.completion

lint: setup  ## ruff and mypy --strict
	$(BIN)/ruff format --check --quiet $(CODE) || { echo 'make format lays it out' >&2; exit 1; }
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy --strict $(CODE)

format: setup  ## lay the code out
	$(BIN)/ruff check --quiet --fix --select I $(CODE)
	$(BIN)/ruff format $(CODE)

check: setup  ## in half a minute: lint, types, and the tests that need no device and few examples
	@mkdir -p build
	@$(BIN)/mypy --strict $(CODE) >build/mypy.out 2>&1 & \
	$(BIN)/ruff format --check --quiet $(CODE) && $(BIN)/ruff check $(CODE); style=$$?; \
	$(BIN)/python -m pytest -q --quick $(PURE); tests=$$?; \
	wait $$!; types=$$?; \
	cat build/mypy.out; \
	test $$style = 0 -a $$tests = 0 -a $$types = 0

test: lint  ## everything this machine can run: lint, the kernel's selftest, pytest
	@scripts/need xz-utils || true
	$(BIN)/python -m tests.everything

kernel-selftest: setup  ## the kernel's own selftest of IOMMUFD, unmodified, against the list of expected failures
	@scripts/need xz-utils || true
	$(BIN)/python tests/kernel_selftest/run.py

TIMES = 1
LOAD = 0
ROUNDS = 3
ONLY =
clients: setup  ## programs of others on an emulated device: QEMU, qemu-io, the kernel's selftests of VFIO, Linux in QEMU with disks, DPDK; the quicker ones are part of `make test` (TIMES=20 ONLY=vfio_: the selftests 20 times; LOAD=2: beside two busy loops; ROUNDS=20 ONLY=guest_kill: 20 kills of each kind amid writes)
	$(BIN)/python -m tests.real_clients --times $(TIMES) --load $(LOAD) --rounds $(ROUNDS) $(ONLY)

vm-test: setup  ## the character device (CUSE) in a virtual machine with Debian's stock kernel; part of `make test`
	$(BIN)/python -m pytest -q tests/vm

hostile: setup  ## every attack on `iommud serve` for a minute, and a table of what others felt of it; root, 45 minutes
	$(BIN)/python -m tests.hostile

nvme: ROUNDS = 1000
nvme: setup  ## an emulated NVMe controller: a hundred thousand random commands, and ROUNDS times its driver or its daemon is killed; an hour
	$(BIN)/python -m tests.clients.nvme --rounds $(ROUNDS)

COUNT = 10000000
soak: setup  ## COUNT random ioctls by users of one `iommud serve`, while everything is killed at random; root, hours (COUNT=200000: minutes)
	$(BIN)/python -m tests.soak --calls $(COUNT)

bench: setup  ## round trips beside a C server that does nothing; writes build/bench.json
	$(BIN)/python tests/bench/run.py

# --- installation, by GNU's variables. Of Python the system's own: a service of root and a command for everybody live on it. ---
PREFIX = /usr/local
prefix = $(PREFIX)
bindir = $(prefix)/bin
libdir = $(prefix)/lib
datadir = $(prefix)/share
mandir = $(datadir)/man
sysconfdir = /etc
pkglibdir = $(libdir)/iommud
unitdir = $(prefix)/lib/systemd/system
sysusersdir = $(prefix)/lib/sysusers.d
udevrulesdir = $(prefix)/lib/udev/rules.d
modulesloaddir = $(prefix)/lib/modules-load.d
defaultdir = $(sysconfdir)/default
bashcompletiondir = $(datadir)/bash-completion/completions
zshcompletiondir = $(datadir)/zsh/site-functions
fishcompletiondir = $(datadir)/fish/vendor_completions.d
DIRECTORIES = bindir pkglibdir mandir unitdir sysusersdir udevrulesdir modulesloaddir defaultdir bashcompletiondir zshcompletiondir fishcompletiondir
INSTALL_PYTHON = $(firstword $(wildcard /usr/bin/python3) $(PYTHON))
INSTALLER = scripts/installer.py --destdir '$(DESTDIR)' $(foreach name,$(DIRECTORIES),--$(name) '$($(name))')
APP := build/app

build: $(APP).stamp  ## what `make install` installs (needs the network; as any user)

$(APP).stamp: pyproject.toml $(shell find iommud cuse_glue include -type f -not -name '*.pyc')
	@$(INSTALL_PYTHON) -c 'import sys; v = sys.version_info; sys.exit(v < (3, 11) and "iommud needs Python 3.11 or newer, and $(INSTALL_PYTHON) is %d.%d: make install INSTALL_PYTHON=/path/to/a/newer/python3" % v[:2])'
	@$(INSTALL_PYTHON) -c 'import ensurepip' 2>/dev/null || scripts/need python3-venv
	rm -rf $(APP) build/pip
	$(INSTALL_PYTHON) -m venv build/pip
	build/pip/bin/python -m pip install --quiet --disable-pip-version-check --no-compile --target $(APP) .
	rm -rf $(APP)/bin $(APP)/iommud-*.dist-info/direct_url.json build/pip
	@touch $@

install: build  ## command, man pages, completion and systemd units below PREFIX (/usr/local); DESTDIR and GNU's directory variables work
	@$(INSTALL_PYTHON) $(INSTALLER) install
	@test -n '$(DESTDIR)' || cat systemd/after-install

uninstall:  ## remove what `make install` with the same variables put there
	@$(INSTALL_PYTHON) $(INSTALLER) uninstall

clean:  ## remove what was made here
	rm -rf $(VENV) build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
