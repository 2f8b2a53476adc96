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

from cuse_glue.system import libc
from iommud.commands import machine as host
from tests import daemon
from tests.broker.served import Client, Served, until
from tests.support import mounts_at, wait_for_end

pytestmark = pytest.mark.usefixtures("root")

FIRST, MATE = "0000:e0:00.0", "0000:e0:01.0"
DEVICES = ("--device", "edu,group=7", "--device", "ioat,group=7,driver=ioatdma", "--device", "edu")
VIABLE, NOT_VIABLE = "1", "0"


class Machine:
    """A daemon with a group of which a native driver has the second device, and one without."""

    def __init__(self, directory: Path, stack: ExitStack, *flags: str) -> None:
        self.directory, self._stack = directory, stack
        self.drivers = directory / "sys" / "bus" / "pci" / "drivers"
        self.served = Served(str(directory / "iommu"), *flags, *DEVICES)
        stack.callback(self._close)

    def begin(self) -> Client:
        """A client that has opened /dev/iommu (0)."""
        client = Client(str(self.directory / "iommu"))
        self._stack.callback(client.close)
        assert client.ask("open") == "0"
        return client

    def device(self, number: int) -> str:
        return str(self.directory / "vfio" / "devices" / f"vfio{number}")

    def group(self, number: int) -> str:
        return str(self.directory / "vfio" / str(host.first_group() + number))

    def write(self, path: str, text: str) -> str:
        """To a file of a driver: "0", or the errno's name."""
        try:
            (self.drivers / path).write_text(text)
        except OSError as error:
            return errno.errorcode[error.errno or 0]
        return "0"

    def _close(self) -> None:
        self.served.close()
        sysfs = str(self.directory / "sys")
        while mounts_at(sysfs):
            libc.umount(sysfs, libc.MNT_DETACH)
        container = str(self.directory / "vfio" / "vfio")
        for path in container, *map(self.device, range(3)), *map(self.group, range(2)):
            daemon.take_away(path)


Start = Callable[..., Machine]


@pytest.fixture
def start(open_directory: Path) -> Iterator[Start]:
    with ExitStack() as stack:
        yield lambda *flags: Machine(open_directory, stack, *flags)


@pytest.fixture
def machine(start: Start, open_directory: Path) -> Machine:
    """With --sysfs."""
    return start("--sysfs", str(open_directory / "sys"))


@pytest.mark.parametrize("with_sysfs", [False, True], ids=["alone", "with --sysfs"])
def test_its_group_is_nobodys(start: Start, open_directory: Path, with_sysfs: bool) -> None:
    machine = start(*(["--sysfs", str(open_directory / "sys")] if with_sysfs else []))
    for _ in range(2):  # of another client as well, whose worker starts later
        client = machine.begin()
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
    client = machine.begin()
    assert client.ask(f"open {machine.device(0)}") == "1"
    assert client.ask("bind 1 0") == "EPERM"
    assert machine.write("ioatdma/unbind", MATE) == "0"
    assert client.ask("bind 1 0") == "0"
    assert machine.write("ioatdma/bind", MATE) == "EBUSY"
    other = machine.begin()
    assert other.ask(f"open {machine.device(2)}") == "ENODEV"
    assert machine.write("vfio-pci/new_id", "8086 2021") == "0"
    assert other.ask(f"open {machine.device(2)}") == "1"
    assert other.ask("bind 1 0") == "EPERM", "the client has the group"
    assert client.ask(f"open {machine.device(2)}") == "2"
    assert client.ask("bind 2 0") == "0"
    assert client.ask("vendor 2") == "8086"


def test_a_group_that_is_given_back_is_the_kernels_again(machine: Machine) -> None:
    assert machine.write("ioatdma/unbind", MATE) == "0"
    client = machine.begin()
    assert client.ask(f"open {machine.device(0)}") == "1"
    for _ in range(3):
        assert client.ask("bind 1 0") == "0"
        assert machine.write("ioatdma/bind", MATE) == "EBUSY"
        assert client.ask("close 1") == "0"
        assert machine.write("ioatdma/bind", MATE) == "0", "at once"
        assert client.ask(f"open {machine.device(0)}").isdigit()
        assert client.ask("bind 2 0") == "EPERM"
        assert machine.write("ioatdma/unbind", MATE) == "0"
        client.close()
        client = machine.begin()
        assert client.ask(f"open {machine.device(0)}") == "1"


def test_a_worker_that_is_killed_gives_it_back_to_the_kernel(machine: Machine) -> None:
    assert machine.write("ioatdma/unbind", MATE) == "0"
    client = machine.begin()
    assert client.ask(f"open {machine.device(0)}") == "1"
    assert client.ask("bind 1 0") == "0"
    for worker in machine.served.busy_workers():
        os.kill(worker, signal.SIGKILL)
        wait_for_end(worker)
    until(lambda: machine.write("ioatdma/bind", MATE) == "0")  # it is forgotten in a moment
