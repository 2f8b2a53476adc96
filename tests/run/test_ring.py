"""Queues read and written by those who let the kernel do it: io_uring and libaio. The answers to
io_uring are those of Linux 7.3.
"""

import subprocess
from pathlib import Path

import pytest

from tests.support import IOMMUD, PATIENCE

ANSWERS = "read 40\nwrite 8\npoll 1\nread 40\n"


@pytest.fixture(scope="module", autouse=True)
def rings() -> None:
    if (
        Path("/proc/sys/kernel/io_uring_disabled").exists()
        and Path("/proc/sys/kernel/io_uring_disabled").read_text() == "2\n"
    ):
        pytest.skip("io_uring is switched off")


def run(programs: Path, flags: list[str], *arguments: str) -> str:
    command = [IOMMUD, "run", "--mock", *flags, "--", str(programs / "ring"), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("flags", [[], ["--no-watch"]])
def test_io_uring(programs: Path, flags: list[str]) -> None:
    assert run(programs, flags, "1") == ANSWERS


@pytest.mark.parametrize("mode", [[], ["nonblock"]])
def test_room_for_more_than_there_is(programs: Path, mode: list[str]) -> None:
    """Of a regular file, which ours is to the kernel, io_uring wants all that it has room for."""
    assert run(programs, [], "4", *mode) == ANSWERS


def test_libaio(programs: Path) -> None:
    """Linux says EINVAL."""
    assert run(programs, [], "aio") == "aio 40\n"
