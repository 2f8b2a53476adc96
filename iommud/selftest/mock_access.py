"""The driver behind an access descriptor of the selftest's. Ref: v7.3 selftest.c
iommufd_test_access_pages
"""

from errno import ENOENT
from typing import Final

from ..engine.device.access import Access
from ..engine.memory.pages import Pages
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError


class Item:
    """Pages that an access has pinned for a client."""

    __slots__ = ("iova", "length", "number")

    def __init__(self, number: int, iova: int, length: int) -> None:
        self.number = number
        self.iova = iova
        self.length = length


class MockAccess:
    """The driver behind an access descriptor: it pins what it is told to, and lets go when it is
    asked.
    """

    name: Final = "mock access"

    def __init__(self, pins: bool) -> None:
        self.pins = pins
        self.access: Access | None = None
        self._items: list[Item] = []
        self._next = 0

    async def unmap(self, iova: int, length: int) -> None:
        self.unpin_range(iova, min(iova + length - 1, U64_MAX))

    def unpin_range(self, iova: int, last: int) -> None:
        """Unpin every item that touches iova..last."""
        for item in [i for i in self._items if i.iova <= last and iova <= i.iova + i.length - 1]:
            self._unpin(item)

    def pin(self, iova: int, length: int, *, write: bool) -> list[tuple[Pages, int]]:
        """Errors as Access.pin_pages. The caller checks the pages, then calls `keep` or `undo`."""
        assert self.access is not None
        return self.access.pin_pages(iova, length, write=write)

    def undo(self, iova: int, length: int) -> None:
        assert self.access is not None
        self.access.unpin_pages(iova, length)

    def keep(self, iova: int, length: int) -> Item:
        item = Item(self._next, iova, length)
        self._next = (self._next + 1) & 0xFFFFFFFF
        self._items.append(item)
        return item

    def forget(self, item: Item) -> None:
        """Unpin an item that the client could not be told of."""
        self._unpin(item)

    def unpin(self, number: int) -> None:
        """ENOENT: no such item."""
        for item in self._items:
            if item.number == number:
                self._unpin(item)
                return
        raise IoctlError(ENOENT, f"the access has no pinned pages {number}")

    def _unpin(self, item: Item) -> None:
        assert self.access is not None
        self._items.remove(item)
        self.access.unpin_pages(item.iova, item.length)

    def release(self) -> None:
        """The last descriptor was closed."""
        if self.access is not None:
            self.unpin_range(0, U64_MAX)
            self.access.release()
            self.access = None
