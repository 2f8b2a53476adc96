"""How the requests of one queue are done.

All that is available is taken at once, done as far as it need not wait, given back, and told by one
interrupt: while the driver's notification waits, since a driver that polls would only take the
processor away. What has to wait for the disk is done in threads, piece by piece. They never touch
the driver's memory, whose mapping may go meanwhile: data is copied before, or after. What is large,
or came when much had been done already, is the backlog, which is worked off beside all else.

Ref: VIRTIO 1.2 2.6, 5.2.6
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from ...pci.function import DmaFault
from ...pci.scheduler import Cancel
from ...pci.storage import Disk
from ..disk import why_failed
from ..disk_work import DiskWork, Job
from .chain import Broken, Chain, cut, read, read_each, write
from .request import Request
from .transport import VirtioPci
from .wire import IN_ORDER, S_IOERR, S_OK, T_DISCARD, T_FLUSH, T_GET_ID, T_IN, T_OUT

TURN: Final = 4 << 20  # bytes after which others have a turn
BATCH: Final = 64  # requests that are taken together
COST: Final = 8 << 10  # bytes that a request counts for, beside its data
SEGMENT_COST: Final = 256  # and each of its descriptors
PIECE: Final = 1 << 20  # bytes that are moved without a turn for others
WINDOW: Final = 4 << 20  # bytes of a queue that are kept for threads
FREED: Final = 32 << 20  # bytes of memory that are discarded without a turn for others


class Service:
    """`size`: bytes of the disk that there are for the driver. `identity`: what GET_ID tells.
    `writes_through`: whether a write that is told as done stays even if the machine loses its
    power.
    """

    def __init__(
        self,
        function: VirtioPci,
        index: int,
        disk: Disk,
        work: DiskWork,
        *,
        size: int,
        identity: bytes,
        writes_through: Callable[[], bool],
    ) -> None:
        self._function: Final = function
        self._index: Final = index
        self._disk: Final = disk
        self._work: Final = work
        self._size: Final = size
        self._identity: Final = identity
        self._writes_through: Final = writes_through
        self._features: Final = function.features
        self._in_order: Final = bool(self._features & IN_ORDER)
        self._ring: Final = function.ring(index)
        self._finished: list[Request] = []
        self._order: deque[Request] = deque()  # as they were made available, if that matters
        self._backlog: deque[Request] = deque()
        self._more = False  # there may be more in the ring, and the driver need not tell
        self._beside: Cancel | None = None  # the work on the backlog
        self._out = 0  # bytes that were handed to threads
        self._stopped = False

    def notified(self) -> None:
        """The driver has made buffers available."""
        self._guarded(self._look)

    def settled(self) -> None:
        """Something may have come back from threads."""
        self._guarded(self._settle)

    def stop(self) -> None:
        """Give all up. What is in threads goes on to its end."""
        self._stopped = True
        if self._beside is not None:
            self._beside.cancel()

    @property
    def is_busy(self) -> bool:
        """Something is in threads."""
        return bool(self._out)

    def _guarded(self, do: Callable[[], None]) -> None:
        if self._stopped:
            return
        try:
            do()
        except Broken as broken:
            if self._ring.given:
                self._function.interrupt_queue(self._index)
            self._function.broken(f"queue {self._index}: {broken}")

    def _look(self) -> None:
        if not self._more:
            self._turn()
        self._work.go()
        if self._beside is None and self._can_go_on:
            self._beside = self._function.start(self._go_on)

    def _settle(self) -> None:
        self._give()
        self._look()

    def _turn(self) -> None:
        """Take and do as much as can be done while others wait."""
        left = TURN
        while left > 0:
            chains = self._ring.take(BATCH)
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
            spent += COST + SEGMENT_COST * len(request.chain)
            if status is not None:
                self._finish(request, status)
            elif spent < most and request.length <= PIECE:
                spent += request.length
                self._step(request)
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

    # --- a request ---

    def _step(self, request: Request) -> None:
        """Do its next piece, or have it done by a thread."""
        try:
            if self._do(request):
                self._advance(request, 0)
            elif self._out < WINDOW:
                self._hand_over(request)
            else:
                self._backlog.append(request)
        except DmaFault:
            self._finish(request, S_IOERR)
        except OSError as error:
            self._fail(request, error)

    def _advance(self, request: Request, length: int) -> None:
        """So many bytes more of it are done."""
        request.done += length
        if request.done == request.length:
            self._finish(request, S_OK)
        else:
            self._backlog.append(request)

    def _do(self, request: Request) -> bool:
        """Do its next piece at once. False: it would have to be waited for. Raises DmaFault, and
        OSError.
        """
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

    def _hand_over(self, request: Request) -> None:
        """Have its next piece done by a thread. Raises DmaFault."""
        disk = self._disk
        position, length, parts = request.next(PIECE)
        call: Callable[[], bytes | None]
        if request.kind == T_FLUSH:
            call = disk.flush
        elif request.kind == T_IN:
            call = partial(disk.read, position, length)
        elif request.kind == T_OUT:
            call = partial(disk.write, position, read(self._function, parts))
        else:
            call, length = partial(_free, disk, request), request.length
        through = request.kind not in (T_IN, T_FLUSH) and self._writes_through()
        results: list[bytes | OSError | None] = []

        def run() -> None:
            try:
                results.append(call())
                if through:
                    disk.flush()
            except OSError as error:
                results[:] = [error]

        kept = COST + (length if request.kind in (T_IN, T_OUT) else 0)
        self._out += kept
        self._work.add(Job(run, lambda: self._came_back(request, length, kept, results[0])))

    def _came_back(self, request: Request, length: int, kept: int, result: bytes | OSError | None) -> None:
        self._out -= kept
        if self._stopped:
            return
        if isinstance(result, OSError):
            self._fail(request, result)
            return
        try:
            if result is not None:
                write(self._function, cut(request.parts, request.done, request.done + length), result)
        except DmaFault:
            self._finish(request, S_IOERR)
        else:
            self._advance(request, length)

    def _fail(self, request: Request, error: OSError) -> None:
        self._function.complain(f"{self._disk}: {why_failed(error)}")
        self._finish(request, S_IOERR)

    # --- the backlog ---

    async def _go_on(self) -> None:
        while self._can_go_on and not self._stopped:
            self._guarded(self._pass)
            await self._function.scheduler.sleep(0)
        self._beside = None

    @property
    def _can_go_on(self) -> bool:
        return self._more or bool(self._backlog and self._out < WINDOW)

    def _pass(self) -> None:
        """Do of the backlog, and then of the ring, as much as can be done while others wait."""
        left = TURN
        for _ in range(len(self._backlog)):
            if left <= 0 or self._out >= WINDOW:
                break
            request = self._backlog.popleft()
            left -= COST + min(PIECE, request.length - request.done)
            self._step(request)
        self._give()
        self._turn()
        self._work.go()


def _free(disk: Disk, request: Request) -> None:
    """DISCARD and WRITE_ZEROES. OSError."""
    for position, length, free in request.ranges:
        if request.kind == T_DISCARD:
            disk.discard(position, length)
        else:
            disk.zero(position, length, free=free)
