"""Which threads live in an address space, and which of them can be stopped best.

A process that waits in vfork (posix_spawn, system) cannot be stopped until its child has executed a
program or ended. But that child lives in the same memory, and can be stopped. So can others that
share the memory, which may be processes (clone with CLONE_VM) as well as threads. A number that is
found here may soon be another thread's. So whoever has seized a thread by it asks whether that
thread lives there (`lives_in`).
"""

import errno
import os
import re
from collections.abc import Iterator
from typing import Final

from ..process.raw_memory import same_memory
from ..request.address_space import Mm
from . import ptrace

_STATE: Final = re.compile(rb".*\) (\w)", re.DOTALL)  # in /proc/TID/stat

IDLE, BUSY, ASKING, STUCK, GONE = range(5)  # how well a thread can be stopped, best first


def members(mm: Mm) -> Iterator[tuple[int, int]]:
    """Threads that seem to live in `mm`, and how well they can be stopped; the best come first.

    A thread that sleeps is returned before all have been looked at.
    """
    found: dict[int, int] = {}
    queue = _threads(mm.pid)
    while queue:
        tid = queue.pop()
        how = effort(tid)
        if tid in found or how == GONE:
            continue
        found[tid] = how
        if how == IDLE:
            yield tid, how
        elif how == STUCK:
            queue += (child for pid in _children(tid) if same_memory(pid, tid) for child in _threads(pid))
    yield from sorted((one for one in found.items() if one[1] != IDLE), key=lambda one: one[1])


def lives_in(mm: Mm, tid: int) -> bool:
    """Whether thread `tid`, which is our tracee, lives in `mm` now."""
    if mm.lives_in(tid):
        return True
    # A thread that is in `mm` afterwards was in it when we compared: no thread comes back into an
    # address space that it has left.
    return any(same_memory(tid, other) and mm.lives_in(other) for other in mm.threads())


def effort(tid: int) -> int:
    """IDLE: it sleeps in a call that is no ioctl. BUSY: it runs. ASKING: it is in an ioctl, perhaps
    one of ours, without an answer yet. STUCK: it cannot be stopped now. GONE: it has ended.
    """
    try:
        with open(f"/proc/{tid}/stat", "rb") as file:
            state = _STATE.match(file.read())
        if state is None or state[1] in b"XZ":
            return GONE
        if state[1] == b"D":
            return STUCK
        call = ptrace.waiting_in(tid)
    except OSError as error:
        return GONE if error.errno in (errno.ESRCH, errno.ENOENT) else ASKING
    if call is None:
        return BUSY
    found = ptrace.machine()
    return ASKING if found is not None and call == found.ioctl else IDLE


def _children(tid: int) -> list[int]:
    try:
        with open(f"/proc/{tid}/task/{tid}/children", encoding="ascii") as file:
            return [int(pid) for pid in file.read().split()]
    except OSError:
        return []


def _threads(pid: int) -> list[int]:
    try:
        return [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
