"""Descriptors for programs in a box (boxed.c): what a client has given up is no business of the
kernel that gives it a descriptor.
"""

import functools
import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.daemon import Daemon
from tests.support import AS_NOBODY, IOMMUD, PATIENCE, ROOT

pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the program is written for x86-64"),
]

FLAGS = [
    "-std=gnu11",
    "-O1",
    "-g",
    "-pthread",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-Wno-format-extra-args",
    "-Wno-format-nonliteral",
]
OF_ROOT = ["dropped", "group_only", "chrooted", "chrooted_and_dropped", "dropped_and_full", "dropped_threads"]
OF_ANYBODY = [
    "plain", "without_proc", "not_dumpable", "user_namespaces", "pid_namespace", "landlock", "filtered", "full", "any_stack",
    "stack_in_data", "unwritable", "closed", "threads", "restarted",
]  # fmt: skip
SKIP = 77
RUN = [IOMMUD, "run", "--mock"]
# A daemon that is an ordinary user's, without a watcher: it may neither suspend the client's
# filters, nor open the device in its place.
NOT_WITHOUT_WATCH = {"filtered", "landlock", "without_proc"}


@functools.cache
def boxed() -> str:
    """The program."""
    program = ROOT / "build" / "descriptors" / "boxed"
    program.parent.mkdir(parents=True, exist_ok=True)
    source = Path(__file__).with_name("boxed.c")
    subprocess.run(
        [shutil.which("cc") or "gcc", *FLAGS, f"-I{ROOT / 'include'}", str(source), "-o", str(program)], check=True
    )
    return str(program)


def run(*command: str) -> str:
    """What it said, after it has judged for itself that all is right."""
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=3 * PATIENCE, env=os.environ | {"FEW_TIMES": "1"}
    )
    if done.returncode == SKIP:
        pytest.skip(done.stdout)
    lines = done.stdout.splitlines()
    assert not [line for line in lines if not line.startswith(("ok ", "1.."))], done.stdout
    assert (done.returncode, done.stderr) == (0, "")
    assert lines[-1] == f"1..{len(lines) - 1}", "it ended early"
    return done.stdout


@pytest.fixture
def served(open_directory: Path) -> Iterator[str]:
    """A device that root serves, for root alone; in the end nothing was left of what
    clients had.
    """
    with Daemon(str(open_directory / "iommu"), Path("/sys/fs/fuse/connections"), "--mock", "--mode", "0600") as daemon:
        yield daemon.path
        daemon.end()


@pytest.mark.parametrize("case", sorted({*OF_ROOT, *OF_ANYBODY, "interrupted"} - {"dropped_and_full"}))
def test_in_run(case: str) -> None:
    """But for what only the test command is refused: root's watcher does not look at that
    (iommud/ops/giving.py).
    """
    run(*RUN, "--", boxed(), "/dev/iommu", case)


@pytest.mark.parametrize("case", [*OF_ANYBODY, "interrupted"])
def test_in_run_of_an_ordinary_user(case: str) -> None:
    run(*AS_NOBODY, *RUN, "--", boxed(), "/dev/iommu", case)


@pytest.mark.parametrize("case", [*OF_ROOT, *OF_ANYBODY])
def test_in_run_without_the_watch(case: str) -> None:
    run(*RUN, "--no-watch", "--", boxed(), "/dev/iommu", case)


@pytest.mark.parametrize("case", [case for case in OF_ANYBODY if case not in NOT_WITHOUT_WATCH])
def test_in_run_of_an_ordinary_user_without_the_watch(case: str) -> None:
    run(*AS_NOBODY, *RUN, "--no-watch", "--", boxed(), "/dev/iommu", case)


@pytest.mark.parametrize("case", [*OF_ROOT, *OF_ANYBODY])
def test_of_a_device_that_is_served(served: str, case: str) -> None:
    run(boxed(), served, case)


def tracer(name: str, *command: str) -> list[str]:
    """`command` to be run under it. What is missing is installed, if it can be."""
    if subprocess.run([str(ROOT / "scripts" / "need"), name], check=False).returncode or shutil.which(name) is None:
        pytest.skip(f"needs {name}")
    return list(command)


@pytest.mark.parametrize("prefix", [AS_NOBODY], ids=["nobody"])
def test_under_strace(prefix: list[str]) -> None:
    run(*prefix, *RUN, "--", *tracer("strace", "strace", "-f", "-o", os.devnull), boxed(), "/dev/iommu", "threads")


@pytest.mark.parametrize("prefix", [AS_NOBODY], ids=["nobody"])
def test_under_gdb(prefix: list[str]) -> None:
    """It stops in an ioctl that gives a descriptor, and lets it finish."""
    words = [
        "gdb",
        "-q",
        "-nx",
        "-batch",
        "-ex",
        "set debuginfod enabled off",
        "-ex",
        "break queue_alloc",
        "-ex",
        "run",
        "-ex",
        "finish",
    ]
    command = tracer("gdb", *words, "-ex", "delete", "-ex", "continue", "--args")
    done = subprocess.run(
        [*prefix, *RUN, "--", *command, boxed(), "/dev/iommu", "traced"],
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
    )
    assert "Value returned is $1 = 0" in done.stdout, done.stdout + done.stderr
    assert "not ok" not in done.stdout, done.stdout
    assert "exited normally" in done.stdout, done.stdout
