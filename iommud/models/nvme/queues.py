"""The two ends of a pair of queues: commands that a driver has submitted, and completions that it
has not seen yet.

Of each queue one end is moved by the driver, by a doorbell, and the other by the controller. A
completion queue has room for every command that was taken, because a command is taken only when it
has (`reserve`). Only completions that nobody can foresee, those of events, may have to wait for
room.

Ref: NVM Express Base Specification 1.4 sections 4.1, 4.6
"""

from collections import deque
from collections.abc import Callable
from typing import Final

from .wire import COMPLETION, CQE

Write = Callable[[int, bytes], None]  # DMA, by IOVA


class CompletionQueue:
    """`size` entries (2 to 65536) at IOVA `base`. `vector`: of its interrupt; None: it has none."""

    def __init__(self, number: int, base: int, size: int, vector: int | None) -> None:
        self.id: Final = number
        self.base: Final = base
        self.size: Final = size
        self.vector: Final = vector
        self.head = 0  # up to which the driver has seen
        self.tail = 0
        self.users = 0  # submission queues
        self.reserved = 0  # entries for commands that were taken
        self._phase = 1
        self._entries = bytearray()  # that are not written yet
        self._waiting: deque[tuple[int, int, int, int, int]] = deque()  # for room

    @property
    def used(self) -> int:
        """Entries that the driver has not seen."""
        return (self.tail - self.head) % self.size

    @property
    def room(self) -> int:
        """How many commands may be taken for it."""
        return max(self.size - 1 - self.used - self.reserved - len(self._waiting), 0)

    def post(self, sqid: int, head: int, cid: int, status: int, dword0: int, dword1: int = 0) -> None:
        """Add a completion, which is written by the next `flush`. `status`: with MORE and
        DO_NOT_RETRY.
        """
        if self.used == self.size - 1:
            self._waiting.append((sqid, head, cid, status, dword0))
            return
        self._entries += COMPLETION.pack(dword0, dword1, head, sqid, cid, status << 1 | self._phase)
        self.tail += 1
        if self.tail == self.size:
            self.tail, self._phase = 0, self._phase ^ 1

    def flush(self, write: Write) -> bool:
        """Write what was posted. Returns whether there was anything. DmaFault."""
        entries, self._entries = self._entries, bytearray()
        if not entries:
            return False
        begin = (self.tail - len(entries) // CQE) % self.size
        whole = min(len(entries), (self.size - begin) * CQE)
        write(self.base + begin * CQE, bytes(entries[:whole]))
        if whole < len(entries):
            write(self.base, bytes(entries[whole:]))
        return True

    def seen(self, head: int) -> bool:
        """The driver has seen all before `head`. False: it says what cannot be."""
        if head >= self.size or (head - self.head) % self.size > self.used:
            return False
        self.head = head
        while self._waiting and self.used < self.size - 1:
            self.post(*self._waiting.popleft())
        return True


class SubmissionQueue:
    """`size` entries at IOVA `base`, whose completions go to `cq`."""

    def __init__(self, number: int, base: int, size: int, cq: CompletionQueue) -> None:
        self.id: Final = number
        self.base: Final = base
        self.size: Final = size
        self.cq: Final = cq
        self.head = 0  # up to which commands were taken
        self.tail = 0
        cq.users += 1

    def submitted(self, tail: int) -> bool:
        """There are commands up to `tail`. False: it says what cannot be."""
        if tail >= self.size:
            return False
        self.tail = tail
        return True

    @property
    def next(self) -> int:
        """How many commands can be taken now that lie one behind the other."""
        end = self.tail if self.tail >= self.head else self.size
        return min(end - self.head, self.cq.room)

    def take(self, count: int) -> None:
        """So many commands were taken."""
        self.head = (self.head + count) % self.size
        self.cq.reserved += count
