"""`iommud serve` with a device that a native driver has: no worker may have its group.

What a group answers then is compared with Linux in clients/test_group_clients.py (not_viable).
"""

import errno
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.broker.machine import Machine
from tests.broker.served import until
from tests.support import wait_for_end

pytestmark = pytest.mark.usefixtures("root")

FIRST, MATE = "0000:e0:00.0", "0000:e0:01.0"
DEVICES = ("--device", "edu,group=7", "--device", "ioat,group=7,driver=ioatdma", "--device", "edu")
VIABLE, NOT_VIABLE = "1", "0"


def write(machine: Machine, path: str, text: str) -> str:
    """To a file of a driver: "0", or the errno's name."""
    try:
        (machine.sys / "bus" / "pci" / "drivers" / path).write_text(text)
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return "0"


Start = Callable[..., Machine]


@pytest.fixture
def start(open_directory: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *flags: Machine(open_directory, stack, *flags, *DEVICES)


@pytest.fixture
def machine(start: Start, open_directory: Path) -> Machine:
    """With --sysfs."""
    return start("--sysfs", str(open_directory / "sys"))


@pytest.mark.parametrize("with_sysfs", [False, True], ids=["alone", "with --sysfs"])
def test_its_group_is_nobodys(start: Start, open_directory: Path, with_sysfs: bool) -> None:
    machine = start(*(["--sysfs", str(open_directory / "sys")] if with_sysfs else []))
    for _ in range(2):  # of another client as well, whose worker starts later
        client = machine.opened()
        assert client.ask(f"open {machine.group(0)}") == "1"
        assert client.ask("status 1") == NOT_VIABLE
        assert client.ask("close 1") == "0"
        assert client.ask(f"open {machine.device(0)}") == "2"
        assert client.ask("bind 2 0") == "EPERM"
        assert client.ask(f"open {machine.device(2)}") == "ENODEV"
        assert client.ask(f"open {machine.group(1)}") == "3", "the other group"
        assert client.ask("status 3") == VIABLE
        client.close()
    assert machine.served.stop() == (0, "")


def test_what_is_unbound_is_free_for_all(machine: Machine) -> None:
    client = machine.opened()
    assert client.ask(f"open {machine.device(0)}") == "1"
    assert client.ask("bind 1 0") == "EPERM"
    assert write(machine, "ioatdma/unbind", MATE) == "0"
    assert client.ask("bind 1 0") == "0"
    assert write(machine, "ioatdma/bind", MATE) == "EBUSY"
    other = machine.opened()
    assert other.ask(f"open {machine.device(2)}") == "ENODEV"
    assert write(machine, "vfio-pci/new_id", "8086 2021") == "0"
    assert other.ask(f"open {machine.device(2)}") == "1"
    assert other.ask("bind 1 0") == "EPERM", "the client has the group"
    assert client.ask(f"open {machine.device(2)}") == "2"
    assert client.ask("bind 2 0") == "0"
    assert client.ask("vendor 2") == "8086"


def test_a_group_that_is_given_back_is_the_kernels_again(machine: Machine) -> None:
    assert write(machine, "ioatdma/unbind", MATE) == "0"
    client = machine.opened()
    assert client.ask(f"open {machine.device(0)}") == "1"
    for _ in range(3):
        assert client.ask("bind 1 0") == "0"
        assert write(machine, "ioatdma/bind", MATE) == "EBUSY"
        assert client.ask("close 1") == "0"
        assert write(machine, "ioatdma/bind", MATE) == "0", "at once"
        assert client.ask(f"open {machine.device(0)}").isdigit()
        assert client.ask("bind 2 0") == "EPERM"
        assert write(machine, "ioatdma/unbind", MATE) == "0"
        client.close()
        client = machine.opened()
        assert client.ask(f"open {machine.device(0)}") == "1"


def test_a_worker_that_is_killed_gives_it_back_to_the_kernel(machine: Machine) -> None:
    assert write(machine, "ioatdma/unbind", MATE) == "0"
    client = machine.opened()
    assert client.ask(f"open {machine.device(0)}") == "1"
    assert client.ask("bind 1 0") == "0"
    for worker in machine.served.busy_workers():
        os.kill(worker, signal.SIGKILL)
        wait_for_end(worker)
    until(lambda: write(machine, "ioatdma/bind", MATE) == "0")  # it is forgotten in a moment
