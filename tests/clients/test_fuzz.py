"""Hundreds of thousands of random ioctls by threads, children and children that are killed: the
daemon is as it was before.
"""

import re
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommud.ops.table import ROWS
from iommud.selftest.command import operations
from iommud.selftest.plug import Socket
from iommud.uapi.header import const
from tests.clients.build import build
from tests.clients.daemon import Daemon
from tests.support import PATIENCE, wait_for_input

pytestmark = pytest.mark.usefixtures("root")

CALLS = 200_000
DEVICE_CALLS = 500_000
SECONDS = 900  # the fuzzer ends itself after that many
# bytes a call, of resident memory, beside SLACK bytes: the allocator's. What is left of any object
# is more
GROWTH = 12
SLACK = 2 << 20
# operations from this number on are iommud's own, which the kernel's mock does not have
OURS = 1 << 16
# No device is without an IOMMU. An event takes a device that is attached below a vIOMMU that knows
# it and has a queue; MD_CHECK_MAP a page table, and the very memory that is mapped where it looks;
# the end of an access's pages takes an access of the same open file (the fuzzer's descriptors are
# any file's, and a worker knows its own), and pages of it: of 7,000 calls at times none.
SELDOM = {
    "IOAS_NOIOMMU_GET_PA",
    f"test operation {const('IOMMU_TEST_OP_TRIGGER_VEVENT')}",
    f"test operation {const('IOMMU_TEST_OP_DESTROY_ACCESS_PAGES')}",
    f"test operation {const('IOMMU_TEST_OP_MD_CHECK_MAP')}",
}
KILLS = 8


def fuzz(daemon: Daemon, *arguments: str, program: str = "fuzz") -> str:
    command = [build(program), *arguments, "--seconds", str(SECONDS), daemon.path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + PATIENCE)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    return done.stdout


def settles(daemon: Daemon, descriptors: list[str]) -> None:
    """The last close of a file is not waited for by who closes it, nor are the end of a worker and
    the start of the next spare one.
    """
    deadline = time.monotonic() + PATIENCE
    while not daemon.idle(descriptors) and time.monotonic() < deadline:
        daemon.process.poll()
    now, before = Counter(daemon.descriptors()), Counter(descriptors)
    assert (now - before, before - now) == (Counter(), Counter()), daemon.family()
    assert daemon.unanswered() == 0


@pytest.fixture
def daemon(tmp_path: Path, connections: Path) -> Iterator[Daemon]:
    with Daemon(str(tmp_path / "iommu"), connections) as it:
        yield it


@pytest.fixture
def mock_daemon(open_directory: Path, connections: Path) -> Iterator[Daemon]:
    with Daemon(str(open_directory / "iommu"), connections, "--mock") as it:
        yield it


@pytest.fixture
def noiommu_daemon(open_directory: Path, connections: Path) -> Iterator[Daemon]:
    with Daemon(str(open_directory / "iommu"), connections, "--mock", "--iommu", "none") as it:
        yield it


def leaves_no_trace(daemon: Daemon, program: str, calls: int) -> str:
    """What the fuzzer said."""
    descriptors = daemon.descriptors()
    # what is allocated once
    fuzz(daemon, "--calls", str(calls // 10), "--seed", "1", program=program)
    settles(daemon, descriptors)
    memory = daemon.memory()
    said = fuzz(daemon, "--calls", str(calls), "--threads", "4", "--seed", "2", program=program)
    print(said)
    made = re.search(r"^(\d+) calls .* (\d+) children, (\d+) of them killed, 0 wrong answers$", said, re.MULTILINE)
    assert made
    assert int(made[1]) >= calls
    assert int(made[2]) > int(made[3]) > 0
    assert daemon.process.poll() is None
    settles(daemon, descriptors)
    assert daemon.memory() - memory < SLACK + GROWTH * calls
    daemon.end()
    return said


def test_random_calls_leave_no_trace(daemon: Daemon) -> None:
    leaves_no_trace(daemon, "fuzz", CALLS)


def test_random_calls_with_devices_leave_no_trace(mock_daemon: Daemon) -> None:
    """All commands and all operations of the mock device, with IDs of the right kind, the wrong
    kind, of other files, just destroyed.
    """
    said = leaves_no_trace(mock_daemon, "fuzz_devices", DEVICE_CALLS)
    answers = dict(re.findall(r"^(.{24})(.*)$", said, re.MULTILINE))
    rows = {row.name for row in ROWS} | {f"test operation {number}" for number in operations(Socket()) if number < OURS}
    assert rows <= {name.strip() for name in answers}
    reached = {name.strip() for name, counts in answers.items() if " ok " in counts}
    assert rows - reached <= SELDOM, "what never succeeds is not tried out"


def test_random_calls_with_devices_without_an_iommu_leave_no_trace(noiommu_daemon: Daemon) -> None:
    """And no memory whose physical addresses were told is remembered."""
    leaves_no_trace(noiommu_daemon, "fuzz_devices", DEVICE_CALLS // 4)


def test_killed_in_mid_flight(daemon: Daemon) -> None:
    descriptors = daemon.descriptors()
    for _ in range(KILLS):
        with subprocess.Popen([build("hold"), daemon.path, "4"], stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            wait_for_input(client.stdout.fileno(), "the client's first calls")
            assert client.stdout.readline() == b"ready\n"
            client.kill()
            assert client.wait(PATIENCE) == -signal.SIGKILL
        fuzz(daemon, "--calls", "100")
    settles(daemon, descriptors)
    daemon.end()
