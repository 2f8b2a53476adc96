"""However it ends, nothing is left: no process, no mount, no file."""

import errno
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import (
    AS_NOBODY,
    IOMMUD,
    PATIENCE,
    daemon_and_watcher,
    mounts_at,
    processes_with,
    wait_for_end,
    wait_for_input,
)

AWAY = f"alloc {errno.ENOTCONN} open {errno.ENOTCONN}"


class Running:
    """A program under `iommud run` that waits for lines on its stdin, and its daemon."""

    def __init__(self, probe: str, prefix: list[str] | None = None) -> None:
        marker = str(uuid.uuid4())
        command = [*(prefix or []), IOMMUD, "run", "--", probe, "wait"]
        environment = {"PATH": os.environ["PATH"], "IOMMUD_TEST": marker}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, bufsize=0
        )
        try:
            assert [self.line(), self.line()] == ["ioas 1", f"refused {errno.ENOENT}"]
            self.daemon, self.watcher = daemon_and_watcher(marker, self.process.pid)
        except BaseException:
            self.stop()
            raise

    def line(self) -> str:
        assert self.process.stdout is not None
        wait_for_input(self.process.stdout.fileno(), "a line")
        return self.process.stdout.readline().decode().strip()

    def ask(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return self.line()

    def stop(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=PATIENCE)

    def assert_nothing_left(self) -> None:
        wait_for_end(self.daemon)
        wait_for_end(self.watcher)
        assert not [line for line in mounts_at("/dev/iommu") if str(self.daemon) in line]


@pytest.fixture(params=["root", "nobody"])
def running(request: pytest.FixtureRequest, probe: str) -> Iterator[Running]:
    if request.param == "nobody" and os.geteuid() != 0:
        pytest.skip("the other one is this already")
    before = sorted(os.listdir("/dev"))
    it = Running(probe, AS_NOBODY if request.param == "nobody" else None)
    try:
        yield it
    finally:
        it.stop()
        it.assert_nothing_left()
    assert sorted(os.listdir("/dev")) == before


def test_the_program_ends(running: Running) -> None:
    assert running.ask() == "alloc 0 open 0"
    running.process.communicate(timeout=PATIENCE)
    assert running.process.returncode == 0
    running.assert_nothing_left()


def test_the_program_is_killed(running: Running) -> None:
    running.process.kill()
    assert running.process.wait(PATIENCE) == -signal.SIGKILL
    running.assert_nothing_left()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_daemon_is_killed(running: Running, number: signal.Signals) -> None:
    os.kill(running.daemon, number)
    wait_for_end(running.daemon)
    assert running.ask() == AWAY
    running.process.communicate(timeout=PATIENCE)
    assert running.process.returncode == 0, "the program itself goes on"


def assert_keeps_nothing(process: int, running: Running) -> dict[str, str]:
    """A process beside the program; returns what its descriptors are."""
    place = Path("/proc", str(process))
    held = {name: os.readlink(place / "fd" / name) for name in os.listdir(place / "fd")}
    assert held["0"] == held["1"] == "/dev/null"
    mine = {os.readlink(f"/proc/{running.process.pid}/fd/{n}") for n in (0, 1)}
    assert not mine & set(held.values())
    assert os.getsid(process) != os.getsid(running.process.pid), "no signal of the terminal reaches it"
    assert (place / "cwd").readlink() == Path("/")
    assert os.readlink(place / "ns" / "mnt") != os.readlink(f"/proc/{running.process.pid}/ns/mnt")
    return held


def test_the_daemon_keeps_nothing_of_the_program(running: Running) -> None:
    held = assert_keeps_nothing(running.daemon, running)
    assert held["2"] == os.readlink("/proc/self/fd/2"), "it says --why there"
    assert "anon_inode:seccomp notify" not in held.values(), "it does not keep the watcher's"


def test_the_watcher_keeps_nothing_but_its_listener(running: Running) -> None:
    held = assert_keeps_nothing(running.watcher, running)
    assert held.pop("2") == "/dev/null"
    assert sorted(held.values()) == ["/dev/null", "/dev/null", "anon_inode:seccomp notify"]


def test_what_a_program_leaves_running_keeps_the_device(probe: str) -> None:
    # The shell ends at once; what it started has its stdin and stdout (a pipe each) and goes on.
    script = f"exec 3<&0; {probe} wait <&3 2>/dev/null & echo $!"
    reader, writer = os.pipe()
    marker = str(uuid.uuid4())
    environment = {"PATH": os.environ["PATH"], "IOMMUD_TEST": marker}
    command = [IOMMUD, "run", "--", "sh", "-c", script]
    process = subprocess.Popen(
        command, stdin=reader, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment, bufsize=0
    )
    os.close(reader)
    assert process.stdout is not None
    assert process.stderr is not None
    lines = {process.stdout.readline() for _ in range(3)}
    assert b"ioas 1\n" in lines
    assert process.wait(PATIENCE) == 0
    (left,) = (int(line) for line in lines if line.strip().isdigit())
    daemon, watcher = daemon_and_watcher(marker, left)

    wait_for_input(process.stderr.fileno(), "the daemon's leave of stderr")
    assert process.stderr.read() == b"", "nobody holds the user's stderr"
    os.write(writer, b"\n")
    assert process.stdout.readline() == b"alloc 0 open 0\n"

    os.close(writer)
    wait_for_end(left)
    wait_for_end(daemon)
    wait_for_end(watcher)
    process.stdout.close()
    process.stderr.close()


MAPS_ITSELF = """
import fcntl, os, struct
device = os.open("/dev/iommu", os.O_RDWR)
ioas = struct.unpack("III", fcntl.ioctl(device, 0x3B81, struct.pack("III", 12, 0, 0)))[2]
fcntl.ioctl(device, 0x3B8F, struct.pack("IIIiQQQ", 40, 6, ioas, device, 0, 4096, 0))
print("mapped")
"""


@pytest.mark.parametrize("prefix", [[], AS_NOBODY], ids=["root", "nobody"])
def test_a_program_that_maps_the_device_itself(prefix: list[str]) -> None:
    """MAP_FILE takes any descriptor. Kept, the device's own would keep the device, and so the
    daemon, for ever.
    """
    if prefix and os.geteuid() != 0:
        pytest.skip("the other one is this already")
    marker = str(uuid.uuid4())
    environment = {"PATH": os.environ["PATH"], "IOMMUD_TEST": marker}
    command = [*prefix, IOMMUD, "run", "--", sys.executable, "-c", MAPS_ITSELF]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as program:
        assert program.stdout is not None
        assert program.stdout.readline() == "mapped\n"
    assert program.returncode == 0
    for process in processes_with(marker):
        wait_for_end(process)
