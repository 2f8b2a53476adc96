"""What happens in the engine, for whoever wants to see it: traces, pictures, checks of what clients
do.

The engine announces. It never asks, and never learns who listens. `Host.observer` is the one that
listens; while it is None, nothing is done for it. Whatever is announced has happened, completely. A
failed request changes nothing and announces nothing. An observer must not change anything, and must
not raise.
"""

from typing import Protocol

from ..errors import IoctlError


class Named(Protocol):
    """An object of a client's: mapping.objects.Object."""

    id: int
    kind: str


class Shown(Protocol):
    """IOVAs that mean something: memory.area.Area."""

    iova: int
    last: int
    prot: int


class Observer:
    """Derive from this; what you do not define is not listened to. `table`: the IoPagetable of an
    IOAS. `pages`: a Pages, and indexes of its pages. Addresses and lengths are in bytes, `last` is
    inclusive.
    """

    def mapped(self, table: object, area: Shown) -> None:
        """From now on these IOVAs mean memory."""

    def unmapped(self, table: object, area: Shown) -> None:
        """They mean memory no more: they were unmapped, or the IOAS is gone."""

    def split(self, table: object, area: Shown, lower: Shown, upper: Shown) -> None:
        """Two areas stand where one was. They show the same. What was pinned for the one is pinned
        for the two.
        """

    def pinned(self, pages: object, first: int, last: int) -> None:
        """A page table, or an access, needs these pages, once more than before."""

    def unpinned(self, pages: object, first: int, last: int) -> None:
        """That need has ended, for the same range."""

    def attached(self, device: Named, pasid: int, old: Named | None, new: Named | None) -> None:
        """DMA of a device goes through `new`, and no longer through `old`; None: it is blocked.
        PASID 0: the device's own DMA.
        """

    def dma(self, by: Named, iova: int, length: int, write: bool, refusal: IoctlError | None) -> None:
        """A device has read or written, or failed to. Or an access is about to, as far as its areas
        permit, before `refusal`.
        """

    def created(self, obj: Named) -> None:
        """From now on a client can name it."""

    def gone(self, obj: Named) -> None:
        """A client can name it no more. What it contains goes after this, such as the areas of an
        IOAS.
        """

    def queued(self, queue: Named, what: object) -> None:
        """There is something to read: a fault.PageFault that ends a group, or the bytes of an
        event.
        """
