"""Two hundred thousand random ioctls by threads, children and children that are killed: the daemon is as it was before."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuse_glue import libc
from tests.clients.build import build
from tests.support import IOMMUD, PATIENCE, mounts_at, wait_for_input

pytestmark = pytest.mark.usefixtures("root")

CALLS = 200_000
SECONDS = 240  # the fuzzer ends itself after that many
RSS_GROWTH = 4 << 20  # bytes: allocator's slack; a leak of 21 bytes a call would be more
TRIES = 200
KILLS = 8


class Daemon:
    """An `iommud serve --fuse` in a test, and what can be seen of it from outside."""

    def __init__(self, path: str, connections: Path) -> None:
        self.path = path
        self._connections = connections
        self.process = subprocess.Popen([IOMMUD, "serve", "--fuse", path], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        wait_for_input(self.process.stderr.fileno(), "the daemon's first line")
        assert self.process.stderr.readline() == f"iommud: serving {path} (FUSE)\n"

    def descriptors(self) -> list[str]:
        """What its descriptors are, without their numbers."""
        found = []
        for entry in Path("/proc", str(self.process.pid), "fd").iterdir():
            try:
                found.append(re.sub(r"\d+", "N", os.readlink(entry)))
            except FileNotFoundError:
                pass  # closed while we looked
        return sorted(found)

    def memory(self) -> int:
        """Resident, in bytes."""
        status = Path("/proc", str(self.process.pid), "status").read_text()
        found = re.search(r"^VmRSS:\s*(\d+) kB", status, re.MULTILINE)
        assert found
        return int(found[1]) << 10

    def unanswered(self) -> int:
        """Requests that the kernel waits for."""
        connection = self._connections / str(os.minor(os.stat(self.path).st_dev))
        return int((connection / "waiting").read_text())

    def fuzz(self, *arguments: str) -> str:
        command = [build("fuzz"), *arguments, "--seconds", str(SECONDS), self.path]
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS + PATIENCE)
        assert (done.returncode, done.stderr) == (0, ""), done.stdout
        return done.stdout

    def settles(self, descriptors: list[str]) -> None:
        """The last close of a file is not waited for by who closes it: after some more requests it is done."""
        for _ in range(TRIES):
            if self.descriptors() == descriptors and not self.unanswered():
                return
            self.fuzz("--calls", "10", "--areas")
        assert self.descriptors() == descriptors
        assert self.unanswered() == 0

    def stop(self) -> None:
        """It ends when told to, and had nothing to say."""
        self.process.terminate()
        assert self.process.communicate(timeout=PATIENCE)[1] == ""
        assert self.process.returncode == 0
        assert not os.path.exists(self.path)


@pytest.fixture
def connections(tmp_path: Path) -> Iterator[Path]:
    """The kernel's view of all FUSE connections."""
    path = tmp_path / "connections"
    path.mkdir()
    libc.mount("fusectl", str(path), "fusectl", 0)
    yield path
    libc.umount(str(path), libc.MNT_DETACH)


@pytest.fixture
def daemon(tmp_path: Path, connections: Path) -> Iterator[Daemon]:
    path = str(tmp_path / "iommu")
    it = Daemon(path, connections)
    try:
        yield it
    finally:
        it.process.kill()
        print(it.process.communicate()[1])  # shown when the test failed
        while mounts_at(path):
            libc.umount(path, libc.MNT_DETACH)


def test_random_calls_leave_no_trace(daemon: Daemon) -> None:
    descriptors = daemon.descriptors()
    daemon.fuzz("--calls", "20000", "--seed", "1")  # what is allocated once
    daemon.settles(descriptors)
    memory = daemon.memory()
    said = daemon.fuzz("--calls", str(CALLS), "--threads", "4", "--seed", "2")
    print(said)
    made = re.search(r"^(\d+) calls .* (\d+) children, (\d+) of them killed, 0 wrong answers$", said, re.MULTILINE)
    assert made
    assert int(made[1]) >= CALLS
    assert int(made[2]) > int(made[3]) > 0
    assert daemon.process.poll() is None
    daemon.settles(descriptors)
    assert daemon.memory() - memory < RSS_GROWTH
    daemon.stop()


def test_killed_in_mid_flight(daemon: Daemon) -> None:
    descriptors = daemon.descriptors()
    for _ in range(KILLS):
        with subprocess.Popen([build("hold"), daemon.path, "4"], stdout=subprocess.PIPE) as client:
            assert client.stdout is not None
            wait_for_input(client.stdout.fileno(), "the client's first calls")
            assert client.stdout.readline() == b"ready\n"
            client.kill()
            assert client.wait(PATIENCE) == -signal.SIGKILL
        daemon.fuzz("--calls", "100")
    daemon.settles(descriptors)
    daemon.stop()
