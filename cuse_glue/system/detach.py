"""For a process that must keep nothing of the one that it was forked from."""

import os

from . import libc

_SET_CHILD_SUBREAPER = 36


def close_all_but(*kept: int) -> None:
    """Close every descriptor from 3 on, except those that are to be kept."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and int(name) not in kept:
            try:
                os.close(int(name))
            except OSError:
                pass  # the descriptor of the listing itself


def adopt_orphans() -> None:
    """When the parent of a descendant has ended, the calling process becomes its parent
    (PR_SET_CHILD_SUBREAPER).
    """
    libc.prctl(_SET_CHILD_SUBREAPER, 1)


def name(comm: str) -> None:
    """Set the name by which ps(1) shows the calling process; up to 15 bytes."""
    with open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(comm)
