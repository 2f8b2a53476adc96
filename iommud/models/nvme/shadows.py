"""Doorbells in memory, beside those in the controller's BAR.

The driver writes each of its doorbells to memory, and to the BAR only when that passes a value that
the controller has left in memory too (the event index). So a controller that looks at the memory
again and again need not be rung.

Drivers differ about the admin queue: Linux rings its doorbells always, libvfn goes by the event
index. So these are rung always here: each time their event index is what the driver wrote last.

Ref: NVM Express Base Specification 1.4 section 7.13
"""

from collections.abc import Callable
from typing import Final

from .queues import CompletionQueue, SubmissionQueue, Write

Read = Callable[[int, int], bytes]
_SIZE: Final = 4  # bytes of a doorbell


class Shadows:
    """`stride`: bytes from one doorbell to the next. What reads and writes memory raises
    DmaFault.
    """

    def __init__(self, read: Read, write: Write, stride: int) -> None:
        self._read: Final = read
        self._write: Final = write
        self._stride: Final = stride
        self.reset()

    def reset(self) -> None:
        self._doorbells: int | None = None  # their IOVA
        self._events = 0

    @property
    def on(self) -> bool:
        return self._doorbells is not None

    def begin(self, doorbells: int, events: int) -> None:
        """Doorbells are at one IOVA from now on, event indexes at the other."""
        self._doorbells, self._events = doorbells, events

    def submitted(self, sq: SubmissionQueue) -> bool:
        """Look for commands. False: the driver says what cannot be."""
        return self._doorbells is None or sq.submitted(self._value(self._doorbells, 2 * sq.id))

    def seen(self, cq: CompletionQueue) -> bool:
        """Look how far the driver has seen. False: it says what cannot be."""
        return self._doorbells is None or cq.seen(self._value(self._doorbells, 2 * cq.id + 1))

    def ring_at(self, queue: SubmissionQueue | CompletionQueue, value: int) -> None:
        """The driver rings when it passes this value."""
        if self._doorbells is not None:
            index = 2 * queue.id + isinstance(queue, CompletionQueue)
            self._write(self._events + self._stride * index, value.to_bytes(_SIZE, "little"))

    def _value(self, doorbells: int, index: int) -> int:
        return int.from_bytes(self._read(doorbells + self._stride * index, _SIZE), "little")
