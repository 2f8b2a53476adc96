"""The twin of a worker: it closes the connection to the kernel for a worker that cannot be ended.

A process in an uninterruptible sleep keeps its descriptors, whatever signal it was sent. The twin
shares the table of descriptors with the worker, and nothing else. So what the twin closes is closed
for both.
"""

import os
import select
import signal
from collections.abc import Sequence
from typing import Final, NoReturn

from ..system import detach, libc

GRACE: Final = 600  # milliseconds in which a worker may end by itself when the broker has gone
KILLED: Final = (
    # milliseconds in which a killed worker ends, if it can: a task that was killed makes no new
    # call after that
    150
)


def make(alive: int, connections: Sequence[int]) -> None:
    """Give the calling process, which must have one thread, a twin. `alive`: a pipe that ends when
    the broker ends, or when the broker wants all to go.

    OSError: no process can be made.
    """
    itself = os.pidfd_open(os.getpid())
    worker = os.getpid()
    if libc.clone_sharing_descriptors() == 0:
        _be_twin(worker, itself, alive, connections)


def _be_twin(worker: int, itself: int, alive: int, connections: Sequence[int]) -> NoReturn:
    try:
        detach.name("iommud-twin")
        waiting = select.poll()
        waiting.register(alive, select.POLLIN)
        waiting.register(itself, select.POLLIN)
        while not (events := dict(waiting.poll())):
            pass
        if itself not in events and not _ends(itself, GRACE):
            os.kill(worker, signal.SIGKILL)
            if not _ends(itself, KILLED):
                for fd in connections:
                    os.close(fd)
    finally:
        os._exit(0)


def _ends(pidfd: int, milliseconds: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(milliseconds))
