"""A copy between a buffer and what accesses reach, in two halves: made ready at once, carried out in any thread.

The first half looks at areas and pages, which change between any two requests. The second may take long, while others unmap, detach and
unpin; so what it goes to is kept from being closed until it is done.

Ref: v7.3 pages.c iopt_pages_rw_access, which holds locks instead
"""

from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from ..errors import IoctlError

if TYPE_CHECKING:
    from .pages import Origin, Pin


class Kept(Protocol):
    """A pin that others may let go of meanwhile."""

    @property
    def pin(self) -> "Pin": ...

    def keep(self) -> None: ...

    def let_go(self, times: int = 1) -> None: ...


class Transfer:
    """Steps over a buffer of which each part is `begin`..`end` (bytes, exclusive), in order, and what ends it early, if anything does."""

    __slots__ = ("_after", "_steps", "refusal", "write")

    def __init__(self, *, write: bool) -> None:
        self.write = write
        self.refusal: tuple[int, str] | None = None  # errno and why; an exception would keep its frames, and so this, alive
        self._steps: list[tuple[int, int, Callable[[memoryview], None]]] = []
        self._after: list[Callable[[], None]] = []

    def by_process(self, origin: "Origin", address: int, begin: int, end: int) -> None:
        """Through the process, as it would itself now."""
        origin.hold()
        self._after.append(origin.drop)
        move = origin.write_now if self.write else origin.read_now
        self._steps.append((begin, end, lambda data: move(address, data)))

    def by_pin(self, kept: Kept, offset: int, begin: int, end: int) -> None:
        """Through pages that are held."""
        kept.keep()
        self._after.append(kept.let_go)
        move = kept.pin.write_from if self.write else kept.pin.read_into
        self._steps.append((begin, end, lambda data: move(offset, data)))

    def copy(self, data: memoryview) -> None:
        """Carry it out. What was copied before an error stays copied. Errors: Access.write_from."""
        for begin, end, move in self._steps:
            move(data[begin:end])
        if self.refusal is not None:
            raise IoctlError(*self.refusal)

    def __enter__(self) -> "Transfer":
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None) -> None:
        for done in self._after:
            done()
