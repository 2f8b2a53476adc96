"""Programs on a character device: the C clients find the same as on a FUSE file, but for what CUSE
does not carry.
"""

import functools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.clients import unwatched
from tests.clients.build import build, why_not_32_bit
from tests.clients.test_clients import CLIENTS, PATIENCE, to_set_rlimit_mode
from tests.clients.test_mock_clients import CLIENTS as MOCK_CLIENTS
from tests.debian import NotHere
from tests.support import IOMMUD

from . import selftest
from .command import Command, Done
from .daemon import USED, number, refusal, serving
from .machine import Machine

Client = Callable[[str], Command]
FILE_CALLS = Path(__file__).with_name("file_calls.py")

# CUSE does not look at what the answer to an open says of the file's offset: lseek says 0, pread
# reads (a device without: ESPIPE).
OFFSETS = {
    "file_ops": {"seek to the start", "where is it", "seek to the end", "seek to data"},
    "mock/fault": {"lseek", "pread"},
    "mock/veventq": {"lseek", "pread"},
}
ARGUMENTS = {
    "option": ["--privileged"],
    "mock/accounting": ["--mm"],
    "mock/change_process": ["--mm"],
    "mock/map_file": ["--iommud"],
    "mock/memory": ["--iommud"],
    "mock/processes": ["--iommud"],
}
# It looks at more if it is root in the first user namespace, which on FUSE it may not be.
MORE_AS_ROOT = {"option"}
# `race`: nothing of it is the kernel's, and it would take minutes. `descriptor`, `device`: what one
# open file knows of another's, of which `serve` has a process each (docs/not-done.md).
# `protections`: Linux 6.1 cannot tell guard regions.
LEFT_OUT = {"race", "descriptor", "device", "protections"}
NAMES = [*CLIENTS, *(f"mock/{name}" for name in MOCK_CLIENTS if name not in LEFT_OUT), "mock/type1"]
# It asks for what only FUSE can do; see test_nothing_can_be_mapped.
MAPS = {"mock/viommu"}

LIMIT = 200.0  # seconds for a client
FEW_TIMES = {
    "FEW_TIMES": "1"
    # what clients do thousands of times they do a twentieth as often (often() in checks.h), here
    # and on FUSE
}


def findings(text: str) -> list[str]:
    """What a client looked at, whatever it found."""
    lines = [re.sub(r" \(got .*\) \S+:\d+$", "", line) for line in text.splitlines()]
    return [
        re.sub(r"^(not )?ok \d+ - ", "", line) for line in lines if not re.match(r"1\.\.|# \d+ of \d+ failed", line)
    ]


def wrong(done: Done) -> set[str]:
    """What it found wrong, but for what nobody can refuse (unwatched.py)."""
    lines = done.stdout.splitlines()
    found = unwatched.wrong(done.stdout)
    others = [line for line in lines if not line.startswith(("ok ", "not ok ", "# ", "1.."))]
    assert (others, done.stderr, done.late) == ([], "", False), str(done)
    assert lines, str(done)
    return {text.partition(" (got ")[0] for text in found}


@pytest.fixture(scope="module")
def client(vm: Machine, served: Command) -> Client:
    """Starts a client on /dev/iommu, each once: the second time it gives what it said the first
    time.
    """

    @functools.cache
    def start(name: str) -> Command:
        return vm.start(build(name), *ARGUMENTS.get(name, []), limit=LIMIT, env=FEW_TIMES)

    return start


@pytest.mark.parametrize("name", [name for name in NAMES if name not in MAPS])
def test_same_as_on_fuse(name: str, client: Client) -> None:
    arguments = ARGUMENTS.get(name, [])
    running = client(name)  # on the one processor, while FUSE has another
    prefix = to_set_rlimit_mode() if {"--privileged", "--mm"} & set(arguments) else []
    on_fuse = [*prefix, IOMMUD, "run", "--vfio", "--mock", "--", build(name), *arguments]
    said = subprocess.run(
        on_fuse, capture_output=True, text=True, timeout=PATIENCE, check=True, env={**os.environ, **FEW_TIMES}
    ).stdout
    done = running.wait()
    assert wrong(done) == OFFSETS.get(name, set()), str(done)
    ours, theirs = findings(done.stdout), findings(said)
    if name in MORE_AS_ROOT:
        assert set(ours) >= set(theirs)
    else:
        assert ours == theirs


def test_nothing_can_be_mapped(vm: Machine, served: Command) -> None:
    """A device without mmap says ENODEV; so this one does, and offers nothing to be mapped."""
    assert wrong(vm.run(build("mock/viommu"), "--no-mmap")) == set()


@pytest.mark.parametrize("name", ["ioas_map", "ioas_iova_ranges", "mock/fault", "mock/processes"])
def test_32_bit_client(name: str, vm: Machine, served: Command) -> None:
    why = why_not_32_bit()
    if why is not None:
        pytest.skip(why)
    done = vm.run(build(name, "32"), *ARGUMENTS.get(name, []), limit=LIMIT, env=FEW_TIMES)
    assert wrong(done) == OFFSETS.get(name, set()), str(done)


@pytest.mark.parametrize(
    ("name", "what"),
    [
        pytest.param(
            "slow_memory",
            ["SIGINT ends one that waits", "SIGKILL ends one that waits"],
            id="signals while an ioctl waits",
        ),
        pytest.param("mock/descriptor", ["a duplicate is the same access"], id="descriptors"),
        pytest.param("mock/fault", ["epoll: to read"], id="epoll"),
        pytest.param("mock/veventq", ["wakes who polls"], id="poll"),
    ],
)
def test_what_is_among_it(name: str, what: list[str], client: Client) -> None:
    said = client(name).wait().stdout
    for each in what:
        assert re.search(rf"^ok \d+ - {each}", said, re.MULTILINE), said


def test_a_killed_client_is_forgotten(vm: Machine, served: Command, probe: str) -> None:
    doomed = vm.start(probe, "wait")
    assert doomed.line() == "ioas 1"
    doomed.kill(signal.SIGKILL)
    assert doomed.wait().status == -signal.SIGKILL
    assert vm.run(probe, "once").check().stdout == USED


def test_another_user(vm: Machine, served: Command) -> None:
    """The node is root's and its group's."""
    nobody = (65534, 65534, [65534])
    assert vm.run("cat", "/dev/iommu", user=nobody).stderr == "cat: /dev/iommu: Permission denied\n"
    member = (65534, 65534, [0])
    assert wrong(vm.run(build("destroy"), user=member)) == set()


def test_a_second_instance(vm: Machine, served: Command, probe: str) -> None:
    """Each has its own objects, and ends for itself; a name may have directories."""
    with serving(vm, "pool/iommu-2"):
        assert number(vm, "pool!iommu-2") != number(vm, "iommu")
        assert vm.run(probe, "once", "/dev/pool/iommu-2").check().stdout == USED
        assert vm.run(probe, "once").check().stdout == USED
        # What is taken is refused, before anything is registered.
        taken = refusal(vm, IOMMUD, "serve", "--cuse", "pool/iommu-2")
        assert "/dev/pool/iommu-2 is served by another iommud already" in taken
    assert vm.run("test", "-e", "/dev/pool").status == 1
    assert vm.run(probe, "once").check().stdout == USED
    assert "/dev/iommu is served by another iommud already" in refusal(vm, IOMMUD, "serve", "--vfio")


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


def test_kernel_selftest(vm: Machine, served: Command) -> None:
    """What of it is left out, and why, selftest.py says."""
    try:
        assert not (wrong := selftest.complaints(vm)), wrong
    except NotHere as reason:
        pytest.skip(f"kernel selftest: not run here: {reason}")
