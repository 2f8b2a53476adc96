"""The reading of a door, lent to the worker of the only busy client.

By the broker a request costs one more process that wakes up. So a reader (door.py) that has sent
many requests in a row to one worker lends it the reading: the worker then takes requests out of the
connection by itself, and answers its own. This module is what both sides share, and the broker's
side. The worker's side is borrower.py.

The worker gives the reading back when a request comes that is not its own, and with it that
request; when there are more requests than it can answer quickly; and when it has no open file any
more. The reader takes the reading back if nothing came for a while, and if the worker is not done
with a request in time. A client that can make its worker slow therefore delays others by two looks
of the reader (LOOK) at most, and then nothing is lent for some time.

The worker reads into memory that it shares with the broker (`Slot`). So no request is lost when a
worker is killed: the broker finds the request there that the worker had in its hands. Each loan
ends exactly once, by its number in a pipe: from the worker, or from the broker when the worker has
ended. Until then its slot is not used again, because a slow worker may read once more after the
reading was taken back.

Requests of one open file keep their order: a close is not waited for, and what its client asks next
comes after it. So requests for a worker whose loan was taken back, and has not ended, are kept
(`Lender.keep`). When it has ended they go to the worker, with the one that the worker has read and
not handled, in the order of their numbers, which is that of the kernel's queue.

Nothing is lent where open files move (turns.py): closes must come first there, and only one process
can see to that.
"""

import mmap
import os
import select
import time
from collections.abc import Callable, Iterator
from struct import Struct
from typing import Final, NamedTuple

from ..fuse import wire
from ..fuse.node import MAX_WRITE
from .routes import MOST_KEPT, Worker

SLOTS: Final = 4  # loans of a door at a time, all but one of which were taken back already
LOOK: Final = 10  # milliseconds between the reader's looks at a worker that has the reading
IDLE: Final = 5  # looks without a request after which the reading is taken back
ENOUGH: Final = 8  # requests in a row for one worker after which it gets the reading
ALONE: Final = 0.005  # seconds for which nobody else has got a request
MOST: Final = 256  # and after short loans, in which it answered fewer than WORTH
WORTH: Final = 64
PAUSE: Final = 0.1  # seconds in which nothing is lent after a worker had too much to do
SLOW: Final = 1.0  # and after one was too slow; twice as long each time, up to LONGEST
LONGEST: Final = 32.0
_HEAD: Final = mmap.PAGESIZE
_SIZE: Final = (_HEAD + MAX_WRITE + 4096 + mmap.PAGESIZE - 1) // mmap.PAGESIZE * mmap.PAGESIZE
_HOLDER, _SINCE, _COUNT = range(3)
_LENGTH: Final = Struct("<I")
_NUMBER: Final = Struct("=Q")


class Slot:
    """Where one worker reads. Its words are written whole, each by one side at a time."""

    def __init__(self, memory: memoryview) -> None:
        self._words = memory[:_HEAD].cast("Q")
        self.request: Final = memory[_HEAD:]

    def lend(self, loan: int) -> None:
        """By the broker. The request that it sends along may be the one that hangs, so the worker
        is busy from now on.
        """
        self.clear()
        self._words[_COUNT] = 0
        self._words[_SINCE] = time.monotonic_ns()
        self._words[_HOLDER] = loan

    def take_back(self) -> None:
        """By the broker."""
        self._words[_HOLDER] = 0

    def is_lent(self, loan: int) -> bool:
        """Whether the worker that has this loan may read."""
        return self._words[_HOLDER] == loan

    def begin(self) -> None:
        """By the worker, when it has read a request."""
        self._words[_SINCE] = time.monotonic_ns()
        self._words[_COUNT] += 1

    def finish(self) -> None:
        """By the worker, when it has handled that request, or taken in the loan."""
        self.clear()
        self._words[_SINCE] = 0

    def clear(self) -> None:
        """No request is here."""
        _LENGTH.pack_into(self.request, 0, 0)

    @property
    def busy(self) -> float:
        """Seconds for which the worker has been at one request."""
        since = self._words[_SINCE]
        return (time.monotonic_ns() - since) / 1e9 if since else 0.0

    @property
    def count(self) -> int:
        """Requests that were read."""
        return self._words[_COUNT]

    @property
    def held(self) -> memoryview | None:
        """The request that the worker has read and not handled."""
        (length,) = _LENGTH.unpack_from(self.request)
        return self.request[:length] if length else None


class Lending:
    """What the broker and the workers share about one door. Made before the first fork."""

    def __init__(self) -> None:
        """OSError: there is no memory, or no descriptor."""
        memory = memoryview(mmap.mmap(-1, SLOTS * _SIZE))
        self.slots: Final = [Slot(memory[at : at + _SIZE]) for at in range(0, SLOTS * _SIZE, _SIZE)]
        self.ended, self.end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self.ended, False)

    def give_back(self, loan: int) -> None:
        """Say that a loan has ended. Any process, any thread."""
        try:
            os.write(self.end, _NUMBER.pack(loan))
        except BrokenPipeError:
            pass  # the broker is gone, and we go

    def read_ended(self) -> list[int]:
        """The loans that were given back. By the reader."""
        try:
            return [number for (number,) in _NUMBER.iter_unpack(os.read(self.ended, 64 * _NUMBER.size))]
        except BlockingIOError:
            return []


class Loan(NamedTuple):
    """A worker that has, or had, the reading."""

    number: int
    worker: Worker
    slot: int


class Lender:
    """Decides for one reader when to lend, to whom, and when to take back. The reader's thread, but
    for `died`.
    """

    def __init__(self, lending: Lending, fd: int) -> None:
        """`fd`: the connection's."""
        self._lending = lending
        self._waiting = select.poll()
        self._waiting.register(lending.ended, select.POLLIN)
        self._queue = select.poll()
        self._queue.register(fd, select.POLLIN)
        self._both = select.poll()
        for each in fd, lending.ended:
            self._both.register(each, select.POLLIN)
        self._out: dict[int, Loan] = {}
        self._kept: dict[Worker, list[bytearray]] = {}  # for those whose loan was taken back
        self._kept_size = 0  # bytes
        self._numbers = 0
        self._last: Worker | None = None
        self._since = 0.0  # when another worker than now got the last request
        self._in_a_row = 0
        self._enough = ENOUGH
        self._not_before = 0.0
        self._slow = SLOW

    def sent(self, worker: Worker) -> bool:
        """A request went to a worker. Returns whether to lend it the reading."""
        if worker is not self._last:
            self._last = worker
            self._since = time.monotonic()
            self._in_a_row = 0
            return False
        self._in_a_row += 1
        return self._in_a_row >= self._enough

    def is_out(self) -> bool:
        """A worker has the reading, or has not yet said that it has it no more."""
        return bool(self._out)

    def lend(self) -> Loan | None:
        """Lend to the worker that got the last requests; the caller tells it. None: not now."""
        worker = self._last
        self._in_a_row = 0
        free = set(range(SLOTS)) - {loan.slot for loan in self._out.values()}
        if (
            worker is None
            or worker.gone
            or not free
            or (now := time.monotonic()) < self._not_before
            or now < self._since + ALONE
            or any(loan.worker is worker for loan in self._out.values())
        ):
            return None
        self._numbers += 1
        loan = self._out[self._numbers] = Loan(self._numbers, worker, free.pop())
        self._lending.slots[loan.slot].lend(loan.number)
        return loan

    def await_end(self, loan: Loan, is_closing: Callable[[], bool]) -> Iterator[memoryview]:
        """Wait until a loan is over. Yields requests that came back. If the loan is still out then,
        the worker is to be told that it has the reading no more. `is_closing`: whether to take it
        back at once.
        """
        slot = self._lending.slots[loan.slot]
        looks, count = 0, -1
        while True:
            if self._waiting.poll(LOOK):
                yield from self.returned()
                if loan.number not in self._out:
                    self._judge(slot.count)
                    return
                continue
            busy = slot.busy
            if busy > LOOK / 1000:
                self._not_before = time.monotonic() + self._slow
                self._slow = min(2 * self._slow, LONGEST)
                break
            looks = looks + 1 if slot.count == count else 0
            count = slot.count
            if is_closing() or looks == IDLE or (looks and not busy and self._queue.poll(0)):
                break
        slot.take_back()
        self._kept[loan.worker] = []

    def keep(self, worker: Worker, request: memoryview, *, always: bool) -> bool | None:
        """Keep a request for a worker that may have read one that came before. None: there is no
        such worker. False: too much is kept already, and `always` was not set.
        """
        kept = self._kept.get(worker)
        if kept is None:
            return None
        if self._kept_size > MOST_KEPT and not always:
            return False
        kept.append(bytearray(request))
        self._kept_size += len(request)
        return True

    def _judge(self, count: int) -> None:
        """How soon to lend again after a loan in which so many requests were read."""
        if count < WORTH:
            self._enough = min(2 * self._enough, MOST)
        else:
            self._enough, self._slow = ENOUGH, SLOW

    def returned(self) -> Iterator[memoryview]:
        """Take in the loans that have ended. Yields the requests that came back with them."""
        for number in self._lending.read_ended():
            loan = self._out.get(number)
            if loan is None:
                continue  # told twice, as its worker has ended
            request = self._lending.slots[loan.slot].held
            if request is None:
                self._not_before = max(self._not_before, time.monotonic() + PAUSE)
            kept = self._kept.pop(loan.worker, [])
            self._kept_size -= sum(map(len, kept))
            del self._out[number]
            if request is not None:
                kept.append(bytearray(request))
            for each in sorted(kept, key=wire.unique_of):
                yield memoryview(each)

    def wait(self) -> None:
        """Until there is a request, or a loan has ended."""
        self._both.poll()

    def slow(self) -> list[Worker]:
        """Workers that may have read a request of which nobody else knows."""
        return [loan.worker for loan in self._out.values()]

    def died(self, worker: Worker) -> None:
        """A worker has ended. In another thread."""
        for loan in list(self._out.values()):
            if loan.worker is worker:
                self._lending.give_back(loan.number)
