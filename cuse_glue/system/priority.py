"""Who goes first if there are more processes than processors: those that do little, and that all
clients wait for, get more of it (nice(2)).

All of ours get it sooner: they ask for short turns (sched_setattr(2), from Linux 6.12 on). That is
no more of a processor, but whoever has used little of his share is not kept waiting until others
have had theirs. So a client that keeps its worker busy delays its own requests, and hardly those of
others.
"""

import os
import threading
from contextlib import suppress
from typing import Final

from . import libc

PRIORITY: Final = -10
TURN: Final = 100_000  # nanoseconds: the least that Linux gives


def go_first() -> None:
    """Let the calling thread go before others, if we may."""
    _set(PRIORITY)


def go_with_others() -> None:
    """Undo `go_first`, but for the short turns."""
    _set(0)


def _set(nice: int) -> None:
    try:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), nice)
    except PermissionError:
        nice = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())  # one among many, then
    if os.sched_getscheduler(0) != os.SCHED_OTHER:
        return  # somebody has decided otherwise
    with suppress(OSError):  # a filter of system calls may not allow it
        libc.sched_setattr(nice, TURN)
