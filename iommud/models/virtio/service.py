"""How the requests of one queue are done.

All that is available is taken at once, done as far as it need not wait, given back, and told by one
interrupt: while the driver's notification waits, since a driver that polls would only take the
processor away. What takes too long for that is the backlog: what waits for the disk, what is large,
and what came when much had been done already. It is worked off beside all else, in pieces, with
one batch in a thread at a time.

A thread never touches the driver's memory, whose mapping may go meanwhile: data is copied before
it, or after it.

Ref: VIRTIO 1.2 2.6, 5.2.6
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ...pci.function import DmaFault
from ...pci.scheduler import Cancel
from ..disk import Disk, why_failed
from .chain import Broken, Chain, cut, read, read_each, write
from .request import Request
from .threads import Threads
from .transport import MOST_DESCRIPTORS, VirtioPci
from .wire import IN_ORDER, S_IOERR, S_OK, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT

TURN: Final = 4 << 20  # bytes after which others have a turn
COST: Final = 8 << 10  # bytes that a request counts for, beside its data
PIECE: Final = 1 << 20  # bytes that are moved without a turn for others
FREED: Final = 32 << 20  # bytes of memory that are discarded without a turn for others

Call = Callable[[], bytes | None]  # for a thread


class Service:
    """`size`: bytes of the disk that there are for the driver. `identity`: what GET_ID tells.
    `writes_through`: whether a write that is told as done stays
    even if the machine loses its power.
    """

    def __init__(
        self,
        function: VirtioPci,
        index: int,
        disk: Disk,
        size: int,
        identity: bytes,
        threads: Threads,
        writes_through: Callable[[], bool],
    ) -> None:
        """Broken: the ring is at no place where it can be."""
        self._function: Final = function
        self._index: Final = index
        self._disk: Final = disk
        self._size: Final = size
        self._identity: Final = identity
        self._threads: Final = threads
        self._writes_through: Final = writes_through
        self._features: Final = function.features
        self._in_order: Final = bool(self._features & IN_ORDER)
        self._ring: Final = function.ring(index)
        self._finished: list[Request] = []
        self._order: deque[Request] = deque()  # as they were made available, if that matters
        self._backlog: deque[Request] = deque()
        self._more = False  # there may be more in the ring, and the driver need not tell
        self._work: Cancel | None = None

    def notified(self) -> None:
        """The driver has made buffers available. Broken: as Ring."""
        if not self._more:
            self._turn()
        if self._work is None and (self._more or self._backlog):
            self._work = self._function.start(self._go_on)

    def stop(self) -> None:
        """Give all up. What is in a thread goes on to its end."""
        work, self._work = self._work, None
        if work is not None:
            work.cancel()

    def _turn(self) -> None:
        """Take and do as much as can be done while others wait."""
        left = TURN
        while left > 0:
            chains = self._ring.take(MOST_DESCRIPTORS)
            if self._ring.wants_interrupt():
                self._function.interrupt_queue(self._index)
            if chains:
                left -= self._begin(chains, left)
                if left <= 0:
                    self._ring.mute()
                self._give()
            elif self._ring.armed:
                self._more = False
                return
            else:
                self._ring.arm()  # and look once more
        self._more = True

    def _begin(self, chains: Sequence[Chain], most: int) -> int:
        """Do what can be done at once and comes to no more than `most` (bytes). Returns what it
        came to.
        """
        requests = [Request(chain) for chain in chains]
        if self._in_order:
            self._order.extend(requests)
        spent = 0
        headers = read_each(self._function, [request.header for request in requests])
        for request, header in zip(requests, headers, strict=True):
            status = request.understand(
                header, self._function, features=self._features, size=self._size, readonly=self._disk.readonly
            )
            spent += COST
            if status is not None:
                self._finish(request, status)
            elif spent < most and request.length <= PIECE and self._advance(request):
                spent += request.length
            else:
                self._backlog.append(request)
        return spent

    def _finish(self, request: Request, status: int) -> None:
        request.finish(status)
        if not self._in_order:
            self._finished.append(request)

    def _give(self) -> None:
        while self._order and self._order[0].status is not None:
            self._finished.append(self._order.popleft())
        done, self._finished = self._finished, []
        if done:
            self._ring.give(
                [(request.chain, request.written) for request in done], [request.status_move for request in done]
            )

    # --- what is done at once ---

    def _advance(self, request: Request) -> bool:
        """Do a request's next piece. False: that would have to be waited for."""
        try:
            if not self._do(request):
                return False
        except DmaFault:
            self._finish(request, S_IOERR)
        except OSError as error:
            self._fail(request, error)
        else:
            if request.done == request.length:
                self._finish(request, S_OK)
        return True

    def _do(self, request: Request) -> bool:
        """As `_advance`. Raises DmaFault and OSError."""
        disk = self._disk
        if request.kind == T_FLUSH:
            return disk.is_memory or disk.readonly
        if request.kind == T_GET_ID:
            write(self._function, request.parts, self._identity[: request.length])
            request.done = request.length
            return True
        if request.kind not in (T_IN, T_OUT):
            if disk.is_memory and request.length <= FREED:
                _free(disk, request)
                request.done = request.length
            return request.done == request.length
        position, length, parts = request.next(PIECE)
        reads = request.kind == T_IN
        if not reads and not disk.is_memory:
            return False
        done = self._function.dma_file(disk.fd, position, parts, write=reads, flags=disk.at_once) if length else 0
        if done < length:
            rest = cut(parts, done, length)
            if reads:
                data = disk.read_now(position + done, length - done)
                if data is None:
                    return False
                write(self._function, rest, data)
            else:
                disk.write(position + done, read(self._function, rest))
        request.done += length
        return True

    # --- the backlog ---

    async def _go_on(self) -> None:
        try:
            while self._backlog or self._more:
                waiting, calls = self._batch()
                if calls:
                    through = self._writes_through() and any(request.kind != T_IN for request in waiting)
                    call = partial(_call_all, calls, self._disk.flush if through else None)
                    for request, result in zip(waiting, await self._threads.run(self._index, call), strict=True):
                        self._done_in_thread(request, result)
                else:
                    await self._function.scheduler.sleep(0)
                self._give()
                self._turn()
        except Broken as broken:
            self._function.broken(f"queue {self._index}: {broken}")
        self._work = None

    def _batch(self) -> tuple[list[Request], list[Call]]:
        """Do pieces of the backlog at once. Those of which a piece has to be done in a thread, and
        how.
        """
        spent = 0
        waiting: list[Request] = []
        calls: list[Call] = []
        for _ in range(len(self._backlog)):
            if spent >= TURN:
                break
            request = self._backlog.popleft()
            spent += COST + min(PIECE, request.length - request.done)
            if self._advance(request):
                if request.status is None:
                    self._backlog.append(request)
                continue
            try:
                calls.append(self._call(request))
                waiting.append(request)
            except DmaFault:
                self._finish(request, S_IOERR)
        return waiting, calls

    def _call(self, request: Request) -> Call:
        """For a thread: the next piece of a request. Raises DmaFault."""
        disk = self._disk
        if request.kind == T_FLUSH:
            return disk.flush
        if request.kind not in (T_IN, T_OUT):
            return partial(_free, disk, request)
        position, length, parts = request.next(PIECE)
        if request.kind == T_IN:
            return partial(disk.read, position, length)
        return partial(disk.write, position, read(self._function, parts))

    def _done_in_thread(self, request: Request, result: bytes | OSError | None) -> None:
        if isinstance(result, OSError):
            self._fail(request, result)
            return
        if request.kind in (T_IN, T_OUT):
            _, length, parts = request.next(PIECE)
            try:
                if result is not None:
                    write(self._function, parts, result)
            except DmaFault:
                self._finish(request, S_IOERR)
                return
            request.done += length
        else:
            request.done = request.length
        if request.done == request.length:
            self._finish(request, S_OK)
        else:
            self._backlog.append(request)

    def _fail(self, request: Request, error: OSError) -> None:
        self._function.complain(f"{self._disk}: {why_failed(error)}")
        self._finish(request, S_IOERR)


def _free(disk: Disk, request: Request) -> None:
    """DISCARD and WRITE_ZEROES. OSError."""
    for position, length, free in request.ranges:
        if request.kind == T_DISCARD:
            disk.discard(position, length)
        else:
            disk.zero(position, length, free=free)


def _call_all(calls: Sequence[Call], flush: Callable[[], None] | None) -> list[bytes | OSError | None]:
    """In a thread: the results. If in the end a flush fails, nothing was written."""
    results: list[bytes | OSError | None] = []
    for call in calls:
        try:
            results.append(call())
        except OSError as error:
            results.append(error)
    if flush is not None:
        try:
            flush()
        except OSError as error:
            results = [error if result is None else result for result in results]
    return results
