"""What the tests of devices and of groups have in common."""

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.broker.machine import Machine

NOBODY = 65534
THREE = ("--device", "edu", "--device", "edu,group=7", "--device", "null,group=7")


@pytest.fixture
def machine(open_directory: Path) -> Iterator[Machine]:
    """Three devices, of which the last two are one group (1). The second one's file belongs to the
    user nobody.
    """
    with ExitStack() as stack:
        machine = Machine(open_directory, stack, "--mode", "0666", *THREE)
        os.chown(machine.device(1), NOBODY, -1)
        yield machine
