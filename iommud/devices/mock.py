"""The mock device: the kernel's selftest driver, answered from here (only with `--mock`).

A mock device is alone in its group, has pages of 2 KiB and reaches IOVAs from 16 MiB to 2 GiB, so that alignment, apertures and reserved
ranges have something to bite on. Its DMA goes nowhere: the checks look at what its page table shows.

Written on the engine's device and access API only, as any device is. How its operations look on the wire is ops/test_cmd.py.

Ref: v7.3 selftest.c
"""

from collections.abc import Hashable, Iterable
from errno import EBADE, EINVAL, EIO, ENOENT
from typing import Final

from ..engine.access import Access
from ..engine.device import Device, Region
from ..engine.domain import Domain
from ..engine.host import Host
from ..engine.hwpt import HwptPaging
from ..engine.objects import Object
from ..engine.pages import Pages
from ..engine.span import U64_MAX
from ..errors import IoctlError

MOCK_PAGE_SIZE: Final = 2048  # bytes
# What the mock's page table can map: 2 KiB, and its powers of two up to the whole address space, as the kernel's generic table has it.
MOCK_PAGE_SIZES: Final = ((1 << 51) - 1) & ~(MOCK_PAGE_SIZE - 1)
APERTURE_START: Final = 1 << 24
APERTURE_LAST: Final = (1 << 31) - 1
CACHE_DEFAULT: Final = 0xBADDAD
CACHE_ENTRIES: Final = 4

NO_DIRTY: Final = 1 << 0
PASID: Final = 1 << 2


class MockDriver:
    """One mock device. `flags`: MOCK_FLAGS_DEVICE_*; EINVAL: an unknown one."""

    _numbers: Final[set[int]] = set()
    cache_coherent: Final = True

    def __init__(self, flags: int) -> None:
        if flags & ~(NO_DIRTY | PASID):
            raise IoctlError(EINVAL, f"the mock device knows no flags {flags & ~(NO_DIRTY | PASID):#x}")
        self.flags = flags
        self.number = next(n for n in range(len(self._numbers) + 1) if n not in self._numbers)
        self._numbers.add(self.number)
        self.name = f"iommufd_mock{self.number}"
        self.current: Domain | None = None
        self.cache = [CACHE_DEFAULT] * CACHE_ENTRIES

    def remove(self) -> None:
        """The device is unplugged; its number is free again."""
        self._numbers.discard(self.number)

    @property
    def group(self) -> Hashable:
        return self.name

    def domain(self) -> Domain:
        return Domain(self, MOCK_PAGE_SIZES, APERTURE_START, APERTURE_LAST)

    def attach(self, domain: Domain) -> None:
        self.current = domain

    def detach(self) -> None:
        self.current = None

    def reserved_regions(self) -> list[Region]:
        return []


class Selftest(Object):
    """What a client destroys to have a mock device detached, unbound and gone."""

    kind = "mock device"
    __slots__ = ("device", "driver")

    def __init__(self) -> None:
        super().__init__()
        self.driver: MockDriver | None = None
        self.device: Device | None = None

    def destroy(self) -> None:
        if self.device is not None:
            self.device.detach()
            self.device.unbind()
        if self.driver is not None:
            self.driver.remove()


class Item:
    """Pages that a client had an access pin."""

    __slots__ = ("iova", "length", "number")

    def __init__(self, number: int, iova: int, length: int) -> None:
        self.number = number
        self.iova = iova
        self.length = length


class MockAccess:
    """The driver behind an access descriptor: pins what it is told, lets go when it is asked."""

    name: Final = "mock access"

    def __init__(self, pins: bool) -> None:
        self.pins = pins
        self.access: Access | None = None
        self._items: list[Item] = []
        self._next = 0

    async def unmap(self, iova: int, length: int) -> None:
        self.let_go(iova, min(iova + length - 1, U64_MAX))

    def let_go(self, iova: int, last: int) -> None:
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
        """The client could not be told of it: it is unpinned."""
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
            self.let_go(0, U64_MAX)
            self.access.release()
            self.access = None


def check_pages(pinned: list[tuple[Pages, int]], wanted: Iterable[Hashable]) -> None:
    """EBADE: a pinned page is not the page that the client sees at its own address."""
    for at, ((pages, index), identity) in enumerate(zip(pinned, wanted, strict=True)):
        if pages.identity(index) != identity:
            raise IoctlError(EBADE, f"pinned page {at} is {pages.identity(index)}, the client sees {identity}")


def check_map(hwpt: HwptPaging, iova: int, identity: Hashable, offset: int) -> None:
    """EINVAL: the page table shows something else at `iova` than byte `offset` of the page of this identity."""
    found = hwpt.ioas.iopt.translate(iova)
    if found != (identity, offset):
        raise IoctlError(EINVAL, f"{hwpt} shows {found} at {iova:#x}, the client sees {identity} + {offset:#x}")


def check_refs(host: Host, identity: Hashable, refs: int) -> None:
    """EIO: the page is not pinned so often."""
    found = host.pins(identity)
    if found != refs:
        raise IoctlError(EIO, f"page {identity} is pinned {found} times, expected {refs}")
