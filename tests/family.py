"""All processes of a daemon, as they are seen from outside: its first one, the descendants of that,
and what is left of them in its session.

Nothing here touches a process's memory, not even by /proc/PID/cmdline or environ: a process that
hangs in its memory would hang the test.
"""

import os
import select
import time
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process: `state` is the letter of /proc/PID/stat."""

    pid: int
    name: str
    state: str
    parent: int
    session: int


def look(pid: int) -> Process | None:
    """The process with this number; None: there is none."""
    try:
        text = Path("/proc", str(pid), "stat").read_text(errors="replace")
    except OSError:
        return None
    head, _, tail = text.rpartition(")")
    state, parent, _, session = tail.split()[:4]
    return Process(pid, head.partition("(")[2], state, int(parent), int(session))


def family(pid: int) -> list[Process]:
    """The process first, its descendants, and everybody in its session if it leads one; without
    those that have ended (zombies).
    """
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit() and (process := look(int(name))) and process.state not in "ZX":
            found[process.pid] = process
    members: set[int] = set()
    more = {pid} | {process.pid for process in found.values() if process.session == pid}
    while more:
        members |= more
        more = {process.pid for process in found.values() if process.parent in members} - members
    return [found[member] for member in sorted(members, key=lambda member: (member != pid, member)) if member in found]


def descriptors(process: Process) -> list[str]:
    """What its descriptors are. Empty when it is gone."""
    found = []
    try:
        for entry in Path("/proc", str(process.pid), "fd").iterdir():
            try:
                found.append(os.readlink(entry))
            except FileNotFoundError:
                pass  # closed while we looked
    except OSError:
        pass
    return found


def wait_gone(processes: list[Process], seconds: float) -> list[Process]:
    """Wait so long, at most, until they have ended. Returns those that have not."""
    end = time.monotonic() + seconds
    left = []
    for process in processes:
        try:
            fd = os.pidfd_open(process.pid)
        except ProcessLookupError:
            continue
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if not poll.poll(max(0.0, end - time.monotonic()) * 1000):
            left.append(process)
        os.close(fd)
    return [now for process in left if (now := look(process.pid)) and now.state not in "ZX"]
