"""One boot for all tests of the virtual machine, and one daemon for those of a module that only use
it.
"""

import os
from collections.abc import Iterator

import pytest

from tests.debian import NotHere
from tests.support import IOMMUD

from .command import Command
from .machine import Machine

_said: list[str] = []


@pytest.fixture(scope="session")
def vm() -> Iterator[Machine]:
    """The running machine. Tests share it, so each leaves it as it was."""
    if os.geteuid() != 0:
        pytest.skip("the virtual machine reads all of this machine's files: needs root")
    machine = Machine()
    try:
        machine.__enter__()
    except NotHere as reason:
        pytest.skip(f"virtual machine: not run here: {reason}")
    try:
        yield machine
        machine.check()
        _said.append(
            f"virtual machine ({machine.accelerator}): up after {machine.booted:.0f} s, ended after {machine.seconds:.0f} s"
            f" ({machine.processor_seconds:.0f} s of a processor)"
        )
    finally:
        machine.__exit__()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in _said:
        terminalreporter.write_line(line)


@pytest.fixture(scope="module")
def served(vm: Machine) -> Iterator[Command]:
    """A daemon at /dev/iommu and /dev/vfio/vfio, with the mock device. It has nothing to say, up to
    its end.
    """
    daemon = vm.start(IOMMUD, "serve", "--cuse", "iommu", "--vfio", "--mock", "--log-level", "info")
    assert daemon.line(2) == "iommud: serving /dev/iommu (CUSE), /dev/vfio/vfio (CUSE)"
    yield daemon
    daemon.kill(15)
    done = daemon.wait(60)
    assert (done.status, done.stderr.count("\n")) == (0, 1), done
