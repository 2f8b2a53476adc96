"""A copy between a buffer and what accesses reach, in two halves: it is prepared at once, and
carried out in any thread.

The first half looks at areas and pages, which can change between any two requests. The second may
take long, while others unmap, detach and unpin. So whatever it goes to is kept from being closed
until it is done.

Ref: v7.3 pages.c iopt_pages_rw_access, which holds locks instead
"""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Protocol

from ...errors import IoctlError
from .origin import Origin, Pin


class Counted(Protocol):
    """A pin that others may let go of meanwhile."""

    @property
    def pin(self) -> Pin: ...

    def get(self) -> None: ...

    def put(self, times: int = 1) -> None: ...


class Transfer:
    """Steps over a buffer, in order; each is for one part of it, `begin`..`end` (bytes, exclusive).
    And what ends it early, if anything does.
    """

    __slots__ = ("_after", "_steps", "refusal", "write")

    def __init__(self, *, write: bool) -> None:
        self.write = write
        self.refusal: tuple[int, str] | None = (
            None  # errno and why; an exception would keep its frames, and so this, alive
        )
        self._steps: list[tuple[int, int, Callable[[memoryview], None]]] = []
        self._after: list[Callable[[], None]] = []

    def by_process(self, origin: Origin, address: int, begin: int, end: int, *, itself: bool) -> None:
        """Add a step through the process: as it would itself now, or as another may."""
        origin.get()
        self._after.append(origin.put)
        move = origin.write_now if self.write else partial(origin.read_now, itself=itself)
        self._steps.append((begin, end, lambda data: move(address, data)))

    def by_pin(self, by: Counted, offset: int, begin: int, end: int) -> None:
        """Add a step through pages that are held."""
        by.get()
        self._after.append(by.put)
        move = by.pin.write_from if self.write else by.pin.read_into
        self._steps.append((begin, end, lambda data: move(offset, data)))

    def copy(self, data: memoryview) -> None:
        """Carry it out. What was copied before an error stays copied. Errors: Access.write_from."""
        for begin, end, move in self._steps:
            move(data[begin:end])
        if self.refusal is not None:
            raise IoctlError(*self.refusal)

    def __enter__(self) -> "Transfer":
        return self

    def __exit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for done in self._after:
            done()
