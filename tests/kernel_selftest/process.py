"""A command in a session of its own, of which nothing is left afterwards; and what the machine lets
us do.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

HUGEPAGES = Path("/proc/sys/vm/nr_hugepages")
KILL_SECONDS = 10.0


@dataclass
class Output:
    """Lines of stdout and stderr, each with the seconds from the start at which it came; the exit
    status (negative: a signal); how long it all took.
    """

    lines: list[tuple[float, str]]
    status: int
    seconds: float
    timed_out: bool


def collect(command: Sequence[str], log: Path, limit: float) -> Output:
    """Runs the command for at most `limit` seconds; what it prints goes to `log` too."""
    late = threading.Event()
    lines = []
    began = time.monotonic()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    ) as process:

        def end() -> None:
            late.set()
            end_session(process.pid)

        timer = threading.Timer(limit, end)
        timer.start()
        try:
            with open(log, "w", encoding="utf-8") as record:
                for line in process.stdout or ():
                    record.write(line)
                    lines.append((time.monotonic() - began, line))
            process.wait()  # the command cleans up behind itself, if the limit leaves it the time
        finally:
            timer.cancel()
            end_session(process.pid)
    return Output(lines, process.wait(), time.monotonic() - began, late.is_set())


def end_session(session: int) -> None:
    """Kills what is left of a session, and what it forks meanwhile: a test harness may use many
    process groups.
    """
    # a process that waits for a device that never answers cannot be killed
    patience = time.monotonic() + KILL_SECONDS
    while (left := members(session)) and time.monotonic() < patience:
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)  # until they are dead


def members(session: int) -> list[int]:
    """The processes of a session that are alive."""
    found = []
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # gone meanwhile
            state, _parent, _group, its_session = place.read_text(errors="replace").rpartition(")")[2].split()[:4]
            if int(its_session) == session and state not in "ZX":
                found.append(int(place.parent.name))
    return found


def capable(capability: int) -> bool:
    """Whether this process has a capability (CAP_*) in effect."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return bool(int(fields["CapEff"], 16) >> capability & 1)


@contextlib.contextmanager
def huge_pages(needed: int) -> Iterator[None]:
    """Sees to it that there are `needed` huge pages (root only), and puts the number back."""
    before = HUGEPAGES.read_text() if HUGEPAGES.is_file() else ""
    if not before or int(before) >= needed:
        yield
        return
    try:
        HUGEPAGES.write_text(f"{needed}\n")
        if int(HUGEPAGES.read_text()) < needed:
            print(f"only {HUGEPAGES.read_text().strip()} of {needed} huge pages: tests that use them may fail")
        yield
    finally:
        HUGEPAGES.write_text(before)
