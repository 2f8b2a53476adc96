"""One boot for all tests of the virtual machine."""

import os
from collections.abc import Iterator

import pytest

from tests.kernel_selftest.source import NotHere

from .machine import Machine


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
    finally:
        machine.__exit__()
