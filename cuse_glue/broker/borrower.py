"""A worker's side of a loan (lending.py): it reads its door's connection itself for a while.

The connection is watched by an epoll of its own, and only during a loan. Left in trio's, it would
wake every worker that ever had a loan for each request of the door, even with no event asked for.

Unlike a session, it does not look for the next request without waiting (fuse/spin.py). A worker
that looks keeps its processor, so the client stays on another: where nothing is pinned, a round
trip took 129 us instead of 64.
"""

import errno
import os
import select
from typing import Final, Protocol

import trio

from ..fuse import wire
from ..fuse.session import DRAIN_LIMIT
from .lending import Lending

# Of how many threads requests come without a pause, until the reading is given back. One thread
# alone may never let the queue become empty: it runs as soon as it is answered.
MOST_THREADS: Final = 8


class Session(Protocol):
    """Whose requests are read."""

    def owns(self, request: memoryview) -> bool:
        """Whether this session, and nobody else, is to answer the request."""

    def handle_own(self, request: memoryview) -> None:
        """Answer a request that nobody else knows of."""

    def settled(self) -> None:
        """It may be that no file is open any more."""

    @property
    def waits(self) -> bool:
        """Some requests have tasks of their own."""


class Borrower:
    """Reads for one session while it has a loan."""

    def __init__(self, fd: int, session: Session, lending: Lending) -> None:
        """`fd`: the connection."""
        self._fd = fd
        self._session = session
        self._lending = lending
        self._epoll = select.epoll()
        self._loan = 0
        self._scope = trio.CancelScope()

    def begin(self, loan: int, slot: int, nursery: trio.Nursery) -> None:
        """The broker has lent the reading."""
        self._loan = loan
        self._scope = trio.CancelScope()
        self._epoll.register(self._fd, select.EPOLLIN)
        self._lending.slots[slot].finish()
        nursery.start_soon(self._read, loan, slot, self._scope)

    def stop(self, loan: int) -> None:
        """The broker has taken a loan back."""
        if loan == self._loan:
            self._scope.cancel()

    def give_back(self) -> None:
        """There is nothing more to read for."""
        if self._loan:
            loan, self._loan = self._loan, 0
            self._scope.cancel()
            self._epoll.unregister(self._fd)
            self._lending.give_back(loan)

    def close(self) -> None:
        self.give_back()
        self._epoll.close()

    async def _read(self, loan: int, number: int, scope: trio.CancelScope) -> None:
        session, slot = self._session, self._lending.slots[number]
        readv, fd, buffers, view = os.readv, self._fd, [slot.request], slot.request
        in_a_row = 0
        threads: set[int] = set()
        try:
            with scope:
                while self._loan == loan and slot.is_lent(loan):
                    try:
                        size = readv(fd, buffers)
                    except BlockingIOError:
                        in_a_row = 0
                        threads.clear()
                        session.settled()
                        await trio.lowlevel.wait_readable(self._epoll.fileno())
                        continue
                    except OSError as error:
                        if error.errno in (errno.ENOENT, errno.EINTR):
                            continue
                        return
                    if size == 0:
                        return
                    slot.begin()
                    # If it was taken back meanwhile, others may have read what comes before.
                    if not session.owns(view) or not slot.is_lent(loan):
                        return
                    session.handle_own(view[:size])
                    threads.add(wire.pid_of(view))
                    slot.finish()
                    in_a_row += 1
                    if in_a_row == DRAIN_LIMIT:
                        if len(threads) > MOST_THREADS:
                            return
                        in_a_row = 0
                        threads.clear()
                    if session.waits or not in_a_row:
                        await trio.lowlevel.checkpoint()
        finally:
            if self._loan == loan:
                self.give_back()
