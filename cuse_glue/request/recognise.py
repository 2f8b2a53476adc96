"""Whether a descriptor is an open file that this process serves, and which. It may be anything
else: a device that must not be opened, a FIFO.

The descriptor is polled, which does nothing to any file. If the file is ours, the session gets a
poll from the thread that polled. If another worker of the same daemon serves the file
(cuse_glue/broker), the broker gets the poll, and answers it with an event that no other file has.
"""

import os
import select
import threading
from typing import Final, Protocol

from .open_file import OpenFile


class Elsewhere(Exception):
    """Another worker serves the open file. `asked`: the thread of ours that polled it.

    `kept`: a descriptor of the file, if the file is to stay open until this is closed; else -1.
    """

    def __init__(self, asked: int) -> None:
        super().__init__("another worker serves it")
        self.asked: Final = asked
        self.kept = -1

    def close(self) -> None:
        kept, self.kept = self.kept, -1
        if kept >= 0:
            os.close(kept)

    __del__ = close  # if nobody has called it


class Broker(Protocol):
    """Knows all workers. Any thread."""

    def ask(self, tid: int) -> None:
        """The next poll by thread `tid` asks whose an open file is."""

    def unask(self, tid: int) -> None:
        """The next poll by thread `tid` asks nothing any more."""


_asking: Final[dict[int, OpenFile | None]] = {}  # by thread of ours: the file that it polled


def is_ours(fd: int) -> bool:
    """Whether `fd` is an open file of ours. Threads: as `which`."""
    return which(fd) is not None


def which(fd: int, broker: Broker | None = None) -> OpenFile | None:
    """Which of our open files `fd` is; None: none. For any thread but the session's, which must be
    able to answer meanwhile. `broker`: if there are other workers. Elsewhere: the file seems to be
    one of theirs.
    """
    thread = threading.get_native_id()
    _asking[thread] = None
    seen: list[tuple[int, int]] = []
    if broker is not None:
        broker.ask(thread)
    try:
        poll = select.poll()
        poll.register(fd, select.POLLIN | select.POLLMSG)
        seen = poll.poll(0)
    finally:
        heard = _asking.pop(thread)
        elsewhere = broker is not None and heard is None and any(events & select.POLLMSG for _, events in seen)
        if broker is not None and not elsewhere:
            broker.unask(thread)
    if elsewhere:
        raise Elsewhere(thread)
    return heard


def polled(thread: int, file: OpenFile) -> None:
    """Called by the session: `thread` polls a file of ours."""
    if thread in _asking:
        _asking[thread] = file
