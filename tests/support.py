"""What the tests of whole processes share: the command, a way to run as another user, and ways to
wait that are not sleeps.
"""

import os
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from tempfile import gettempdir

from cuse_glue.tracing import ptrace

ROOT = Path(__file__).resolve().parent.parent
IOMMUD = str(Path(sys.executable).parent / "iommud")
PATIENCE = 30.0  # seconds until something that should have happened counts as never
AS_NOBODY = [sys.executable, str(ROOT / "tests" / "as_nobody.py")]


def wait_for_end(pid: int) -> None:
    """Return when the process has ended (it need not be a child of ours); fail if it does not."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        wait_for_input(fd, f"the end of process {pid}")
    finally:
        os.close(fd)


def wait_for_input(fd: int, what: str) -> None:
    """Return when `fd` can be read."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000), f"{what} did not come in {PATIENCE} s"


def processes_with(marker: str) -> set[int]:
    """The processes that were started with the string `marker` in their environment."""
    found = set()
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                if marker.encode() in Path("/proc", name, "environ").read_bytes():
                    found.add(int(name))
            except OSError:
                pass  # it ended while we looked
    return found


def daemon_and_watcher(marker: str, program: int) -> tuple[int, int]:
    """The two processes that `iommud run` has beside the program, which was started with `marker`
    in its environment.
    """
    rest = processes_with(marker) - {program}
    (watcher,) = (pid for pid in rest if Path("/proc", str(pid), "comm").read_text() == "iommud-watch\n")
    (daemon,) = rest - {watcher}
    return daemon, watcher


def wait_for_call(pid: int, number: int, second: int | None = None) -> None:
    """Return when a thread of the process waits in the system call with this number (and this
    second argument).
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        for tid in os.listdir(f"/proc/{pid}/task"):
            call = ptrace.blocked_call(int(tid))
            if call is not None and call[0] == number and second in (None, call[2]):
                return
        assert time.monotonic() < deadline, f"process {pid} made no call {number} in {PATIENCE} s"


def mentions(content: bytes, path: Path) -> bool:
    """Whether a path is named there, itself or what lies below it: /check is not, where
    /usr/check_wraps or "match/check" is.
    """
    return re.search(rb"(?<![\w.-])" + re.escape(str(path).encode()) + rb"(?![\w.-])", content) is not None


def mounts_at(path: str) -> list[str]:
    """The lines of mountinfo whose mount point is `path`, in this process's namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if line.split(" ")[4] == path]


def mounts_below(directory: Path) -> list[Path]:
    """The mount points in this directory, in this process's namespace."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    points = [Path(line.split(" ")[4]) for line in lines]
    return [point for point in points if point != directory and point.is_relative_to(directory)]


def mounts_of_the_machine() -> list[str]:
    """The lines of mountinfo in this process's namespace, but for what is mounted below the
    directory for temporary files: other tests come and go there at the same time.
    """
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return [line for line in lines if not Path(line.split(" ")[4]).is_relative_to(gettempdir())]


def lacking(*packages: str) -> str:
    """Has Debian packages installed that are missing, if that can be. Why it cannot, for people;
    empty: they are here.
    """
    done = subprocess.run([ROOT / "scripts" / "need", *packages], capture_output=True, text=True)
    return done.stderr.strip() if done.returncode else ""


def make(target: str, *variables: str) -> subprocess.CompletedProcess[str]:
    """`make TARGET VARIABLE=VALUE...`, without the options of the make that runs the tests."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL")
    }
    command = ["make", "--no-print-directory", "-C", str(ROOT), target, *variables]
    return subprocess.run(command, env=environment, capture_output=True, text=True)
