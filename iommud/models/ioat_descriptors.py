"""Descriptors of an I/O DMA engine, as they lie in memory, and the DMA that they ask for.

Ref: v7.3 drivers/dma/ioat/hw.h
"""

import struct
from bisect import bisect_right
from typing import Final

from ..engine.device.device import Move

SIZE: Final = 64  # bytes of a descriptor
_DESCRIPTOR: Final = struct.Struct("<IIQQQ32x")
INTERRUPT, WRITE_BACK, NULL = 0x01, 0x08, 0x20  # of a descriptor's control
COPY, FILL = 0, 1  # its operation, the highest byte of control
MOST: Final = 1 << 20  # bytes of one descriptor
COST: Final = 8 << 10  # bytes that a descriptor counts for, beside what it moves
ACTIVE, IDLE, SUSPENDED, HALTED, ARMED = range(5)  # states of the channel
CONTROL, LENGTH = 0x0400, 0x0800  # errors, as bits of CHANERR


class Run:
    """Descriptors that lie one behind the other and follow one another.

    `moves`: the DMA that they ask for, in order: what one moves, and the status that is written
    when it is done. `following`: where the chain goes on. `cost`: bytes that all of it counts for.
    `error`: if there is no descriptor at all, what is wrong with the first one.
    """

    __slots__ = ("_controls", "_ends", "cost", "error", "first", "following", "moves")

    def __init__(self, data: bytes, first: int, left: int, status_at: int, most: int) -> None:
        """Of `data`, descriptors from address `first` on, as many as may be done at once: those
        before one with an error, up to one with an interrupt, or until `most` is reached.

        `left`: how many the channel has to do; no less than there are here. `status_at`: the IOVA
        that the status is written to.
        """
        count = len(data) // SIZE
        addresses = range(first, first + count * SIZE, SIZE)
        statuses = [address | ACTIVE for address in addresses]
        if count == left:
            statuses[-1] = addresses[-1] | IDLE
        status = struct.pack(f"<{count}Q", *statuses)
        self.first = self.following = first
        self.moves: list[Move] = []
        self.cost = self.error = 0
        self._controls: list[int] = []
        self._ends: list[int] = []  # of each descriptor: how many moves are done when it is
        moves, at = self.moves, 0
        for size, control, source, destination, following in _DESCRIPTOR.iter_unpack(data):
            if not control & NULL:
                operation = control >> 24
                if not 0 < size <= MOST:
                    self.error = LENGTH
                    break
                if operation == COPY:
                    moves.append((destination, source, size, None))
                elif operation == FILL:
                    moves.append((destination, 0, size, _pattern(source, size)))
                else:
                    self.error = CONTROL
                    break
            if control & WRITE_BACK:
                moves.append((status_at, at, 8, status))
            at += 8
            self._controls.append(control)
            self._ends.append(len(moves))
            self.cost += COST + size
            self.following = following
            if following != first + at * (SIZE // 8) or control & INTERRUPT or self.cost >= most:
                break

    def __len__(self) -> int:
        return len(self._ends)

    def done(self, moves: int) -> int:
        """How many descriptors are done when so many moves are."""
        return bisect_right(self._ends, moves)

    def is_status(self, move: int) -> bool:
        """Whether this move writes a status."""
        which = self.done(move)
        return bool(self._controls[which] & WRITE_BACK) and move == self._ends[which] - 1

    def last_that_moves(self, count: int) -> int | None:
        """The address of the last of the first `count` descriptors that moves anything."""
        for which in range(count - 1, -1, -1):
            if not self._controls[which] & NULL:
                return self.first + which * SIZE
        return None

    @property
    def interrupts(self) -> bool:
        """Whether an interrupt is due when all are done."""
        return bool(self._controls[-1] & INTERRUPT)


def _pattern(pattern: int, size: int) -> bytes:
    return (pattern.to_bytes(8, "little") * (size // 8 + 1))[:size]
