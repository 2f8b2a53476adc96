"""`iommud serve --sysfs`: the devices in /sys, known to all workers."""

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.broker.machine import Machine
from tests.support import AS_NOBODY, wait_for_call

pytestmark = pytest.mark.usefixtures("root")

WRITE = 1  # of x86-64
UNBIND = "bus/pci/drivers/vfio-pci/unbind"
BIND = "bus/pci/drivers/vfio-pci/bind"
READ = "import sys; print(open(sys.argv[1]).read(), end='')"
SEND = "import sys; open(sys.argv[1], 'w').write(sys.argv[2])"


@pytest.fixture
def machine(open_directory: Path) -> Iterator[Machine]:
    """Two devices, and the tree."""
    with ExitStack() as stack:
        yield Machine(
            open_directory, stack, "--sysfs", str(open_directory / "sys"), "--device", "edu", "--device", "null"
        )


@pytest.fixture
def names(machine: Machine) -> list[str]:
    """The devices' addresses."""
    return addresses(machine)


def addresses(machine: Machine) -> list[str]:
    return sorted(entry.name for entry in (machine.sys / "bus/pci/devices").iterdir())


def test_modes_and_owners_are_those_of_linux(machine: Machine, names: list[str]) -> None:
    home = machine.sys / "bus/pci/devices" / names[0]
    for path, mode in (("vendor", 0o444), ("config", 0o644), ("driver_override", 0o644), ("remove", 0o220)):
        status = os.stat(home / path)
        assert (stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid) == (mode, 0, 0), path
    assert (home / "vendor").read_text() == "0x1234\n"
    assert os.path.basename(os.readlink(home / "driver")) == "vfio-pci"
    assert [entry.name for entry in (home / "vfio-dev").iterdir()] == ["vfio0"]
    found = subprocess.run([*AS_NOBODY, sys.executable, "-c", READ, str(home / "vendor")], capture_output=True)
    assert found.stdout == b"0x1234\n"
    refused = subprocess.run(
        [*AS_NOBODY, sys.executable, "-c", SEND, str(machine.sys / UNBIND), names[0]], capture_output=True
    )
    assert b"PermissionError" in refused.stderr


def test_what_is_unbound_and_bound_is_known_to_all(machine: Machine, names: list[str]) -> None:
    client = machine.begin()
    assert client.ask("open") == "0"
    assert client.ask(f"open {machine.device(0)}") == "1"
    assert client.ask("close 1") == "0"
    for name in names:
        (machine.sys / UNBIND).write_text(name)
    assert client.ask(f"open {machine.device(0)}") == "ENODEV"
    (machine.sys / BIND).write_text(names[1])
    assert client.ask(f"open {machine.device(0)}") == "2", "the first number that is free"
    assert client.ask(f"open {machine.device(1)}") == "ENODEV"
    assert client.ask("bind 2 0") == "0"
    assert (machine.sys / "bus/pci/devices" / names[1] / "vfio-dev" / "vfio0").is_dir()
    with pytest.raises(OSError) as refused:
        (machine.sys / BIND).write_text(names[1])
    assert refused.value.errno == errno.EBUSY


def test_an_unbind_waits_for_whoever_has_it_open(machine: Machine, names: list[str]) -> None:
    client = machine.begin()
    assert client.ask("open") == "0"
    assert client.ask(f"open {machine.device(0)}") == "1"
    assert client.ask("bind 1 0") == "0"
    assert client.ask("wanted 1") == "0"
    late = machine.begin()
    assert late.ask("open") == "0"
    assert late.ask(f"open {machine.device(0)}") == "1"
    command = [sys.executable, "-c", SEND, str(machine.sys / UNBIND), names[0]]
    with subprocess.Popen(command) as unbind:
        wait_for_call(unbind.pid, WRITE)
        assert client.ask("wait-wanted") == "1", "it is told that somebody wants it"
        other = machine.begin()
        assert other.ask(f"open {machine.device(0)}") == "ENODEV"
        assert unbind.poll() is None
        assert late.ask("bind 1 0") == "ENODEV", "it is being taken away"
        assert client.ask("close 1") == "0"
        assert unbind.poll() is None
        assert late.ask("close 1") == "0"
        assert unbind.wait() == 0
    assert not (machine.sys / "bus/pci/devices" / names[0] / "vfio-dev").exists()
    (machine.sys / BIND).write_text(names[0])
    assert late.ask(f"open {machine.device(0)}") == "2"
    assert late.ask("bind 2 0") == "0"


def test_an_unbind_that_is_killed_has_done_nothing(machine: Machine, names: list[str]) -> None:
    client = machine.begin()
    assert client.ask(f"open {machine.device(0)}") == "0"
    command = [sys.executable, "-c", SEND, str(machine.sys / UNBIND), names[0]]
    with subprocess.Popen(command) as unbind:
        wait_for_call(unbind.pid, WRITE)
        unbind.kill()
    while client.ask(f"open {machine.device(0)}") == "ENODEV":
        pass  # the write is called off a moment after its process has ended
    assert (machine.sys / "bus/pci/devices" / names[0] / "driver").exists()


def test_it_goes_with_the_daemon_and_is_taken_over(machine: Machine, names: list[str]) -> None:
    machine.served.process.kill()
    machine.served.process.wait()
    replaced = machine.serve()
    assert addresses(machine) == names
    assert replaced.stop() == (0, "")
    assert not machine.sys.exists()


def test_without_its_process_the_daemon_ends(machine: Machine) -> None:
    (server,) = machine.served.family("iommud-sysfs")
    os.kill(server.pid, 9)
    assert machine.served.process.wait() == 70
