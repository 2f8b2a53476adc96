"""A real character device: `iommud serve --cuse NAME` from its start to its end, however that comes, and who else may have the name."""

import errno
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import IOMMUD, ROOT

from .command import Command
from .machine import Machine

NAME = "iommu-test"
PATH = f"/dev/{NAME}"
CLASS = "/sys/class/cuse"
RACE = Path(__file__).with_name("race.py")
FILE_CALLS = Path(__file__).with_name("file_calls.py")
USED = "ioas 1\nrefused 2\n"  # what the probe says of a device that works


def start(vm: Machine, name: str = NAME, *flags: str) -> Command:
    daemon = vm.start(IOMMUD, "serve", "--cuse", name, *flags)
    assert daemon.line(2) == f"iommud: serving /dev/{name} (CUSE)"
    return daemon


@contextmanager
def serving(vm: Machine, name: str = NAME, *flags: str) -> Iterator[Command]:
    daemon = start(vm, name, *flags)
    try:
        yield daemon
    finally:
        if daemon.running():
            daemon.kill(signal.SIGTERM)
        daemon.wait(60)


def number(vm: Machine, name: str = NAME) -> str:
    """The device number of the CUSE device, major:minor; empty: there is none."""
    return vm.run("cat", f"{CLASS}/{name}/dev").stdout.strip()


def refusal(vm: Machine, *command: str) -> str:
    done = vm.run(*command)
    assert done.status == 1, str(done)
    assert done.stderr.startswith("iommud: ")
    assert done.stderr.count("\n") == 1, str(done)
    return done.stderr


def test_the_node(vm: Machine, probe: str) -> None:
    with serving(vm, NAME, "--mode", "0640", "--group", "games") as daemon:
        assert vm.run("stat", "-c", "%F %a %U %G", PATH).stdout == "character special file 640 root games\n"
        major, minor = (f"{int(part):x}" for part in number(vm).split(":"))
        assert vm.run("stat", "-c", "%t:%T", PATH).stdout == f"{major}:{minor}\n"
        assert vm.run(probe, "once", PATH).check().stdout == USED
        daemon.kill(signal.SIGINT)
        assert daemon.wait(60).status == 0
        assert daemon.wait().stderr == f"iommud: serving {PATH} (CUSE)\n"
    assert vm.run("test", "-e", PATH).status == 1
    assert number(vm) == ""


def test_an_end_with_a_client_and_a_start_after_a_kill(vm: Machine, probe: str) -> None:
    """The daemon is killed; its client is told, its name is free at once, and new clients are served."""
    daemon = start(vm)
    client = vm.start(probe, "wait", PATH)
    assert (client.line(), client.line()) == ("ioas 1", "refused 2")
    daemon.kill(signal.SIGKILL)
    assert daemon.wait(60).status == -signal.SIGKILL
    assert vm.run("test", "-e", PATH).status == 1, "the kernel takes the node away"
    with serving(vm):
        client.say("\n")
        assert client.line() == f"alloc {errno.ENOTCONN} open 0", "the old one's descriptor is dead, the new one's is to be had"
        client.end_input()
        client.wait().check()
        assert vm.run(probe, "once", PATH).check().stdout == USED


def test_a_killed_client_is_forgotten(vm: Machine, probe: str) -> None:
    with serving(vm):
        client = vm.start(probe, "wait", PATH)
        assert client.line() == "ioas 1"
        client.kill(signal.SIGKILL)
        assert client.wait().status == -signal.SIGKILL
        assert vm.run(probe, "once", PATH).check().stdout == USED


def test_a_second_instance(vm: Machine, served: Command, probe: str) -> None:
    """Each has its own objects, and ends for itself; a name may have directories."""
    with serving(vm, "pool/iommu-2"):
        assert number(vm, "pool!iommu-2") != number(vm, "iommu")
        assert vm.run(probe, "once", "/dev/pool/iommu-2").check().stdout == USED
        assert vm.run(probe, "once").check().stdout == USED
        # What is taken is refused, before anything is registered.
        taken = refusal(vm, IOMMUD, "serve", "--cuse", "pool/iommu-2")
        assert "/dev/pool/iommu-2 is served already" in taken
    assert vm.run("test", "-e", "/dev/pool").status == 1
    assert vm.run(probe, "once").check().stdout == USED
    assert "/dev/iommu is served already" in refusal(vm, IOMMUD, "serve", "--vfio")


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        pytest.param(f"mknod {PATH} c 1 3", "is a real device", id="real device"),
        pytest.param(f"echo mine > {PATH}", "is there already, and not ours to take", id="file"),
        pytest.param(f"ln -s nowhere {PATH}", "is there already, and not ours to take", id="dangling link"),
    ],
)
def test_the_name_is_taken(make: str, sentence: str, vm: Machine) -> None:
    look = f"stat -c '%F %t:%T %s' {PATH}"
    before = vm.run("sh", "-c", f"{make}; {look}").check().stdout
    try:
        assert f"{PATH} {sentence}" in refusal(vm, IOMMUD, "serve", "--cuse", NAME)
        assert vm.run("sh", "-c", look).stdout == before
        assert number(vm) == ""
    finally:
        vm.run("rm", PATH).check()


@pytest.mark.parametrize("name", ["", "/x", "x/", "../x", "a//b", "a/../b", "x!y", "two words", "x" * 300])
def test_what_is_no_name(name: str) -> None:
    """Asked before anything of the machine is."""
    done = subprocess.run([IOMMUD, "serve", "--cuse", name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (1, f"iommud: --cuse {name}: that is no name that a device below /dev can have\n")


def test_a_real_device_comes_at_the_same_moment(vm: Machine) -> None:
    """The kernel registers ours all the same, in silence, and the other one's node stands in front of it."""
    try:
        sentence = refusal(vm, "env", f"PYTHONPATH={ROOT}", sys.executable, str(RACE), f"mknod {PATH} c 1 3", NAME)
        assert f"{PATH} is another device or file, which came there at the same moment" in sentence
        assert vm.run("stat", "-c", "%t:%T %a", PATH).stdout == "1:3 644\n"
        assert number(vm) == ""
    finally:
        vm.run("rm", PATH).check()


def test_another_iommud_comes_at_the_same_moment(vm: Machine, probe: str) -> None:
    """The kernel refuses the later one, and that does nothing to the node of the first."""
    rival = (
        f"setsid {IOMMUD} serve --cuse {NAME} --mode 0600 </dev/null >/dev/null 2>/run/rival & echo $! >/run/rival.pid; "
        "until grep -q serving /run/rival; do sleep 0.1; done"
    )
    try:
        sentence = refusal(vm, "env", f"PYTHONPATH={ROOT}", sys.executable, str(RACE), rival, NAME)
        assert f"/dev/{NAME} (CUSE) was refused by the kernel: another program made a device of that name" in sentence
        assert vm.run("stat", "-c", "%a", PATH).stdout == "600\n"
        assert vm.run(probe, "once", PATH).check().stdout == USED
    finally:
        vm.run("sh", "-c", f"kill $(cat /run/rival.pid); while test -e {PATH}; do sleep 0.1; done").check()


def test_what_cuse_does_not_carry(vm: Machine, served: Command) -> None:
    """docs/not-done.md tells of each that is not as on Linux's own device."""
    said = vm.run(sys.executable, str(FILE_CALLS), "/dev/iommu").check().stdout.splitlines()
    linux = {
        "is a character device": "True",
        "FIONREAD": "ENOTTY",
        "mmap": "ENXIO",
        "lseek": "ESPIPE",
        "read": "EINVAL",
        "read of nothing": "EINVAL",
        "pread": "EINVAL",
        "write": "EINVAL",
        "splice": "EINVAL",
        "epoll_ctl": "EPERM",
        "ftruncate": "EINVAL",
        "fsync": "EINVAL",
    }
    different = {"mmap": "ENODEV", "lseek": "0", "read of nothing": "0", "epoll_ctl": "0"}
    assert dict(line.split(": ") for line in said) == {**linux, **different}
