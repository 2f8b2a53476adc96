"""What an area is backed by: a stretch of somebody's memory, or of a file.

One `Pages` may stand behind many areas (IOAS_COPY shares it), each of which sees a slice of its bytes. It has tiers, like the
kernel's: held by accesses, held by page tables, or only **remembered**. As long as no device and no access is there, everything is
remembered: nothing was pinned, charged or even looked at, and the memory need not exist yet.

Whose memory it is, is the `Origin`'s affair: an address space that can be gone, or an open file. The engine only holds and drops it.

Ref: v7.3 pages.c (theory at its top), iopt_alloc_pages
"""

from collections.abc import Callable, Hashable
from enum import IntEnum
from errno import EFAULT, EINVAL, EOVERFLOW, EPERM
from resource import getpagesize
from typing import Final, Protocol

from ..errors import IoctlError
from .host import Host
from .span import U64_MAX, Span, Spans

PAGE_SIZE: Final = getpagesize()  # bytes


class AccountMode(IntEnum):
    """Against what pinned pages are counted (RLIMIT_MEMLOCK). Ref: v7.3 io_pagetable.h IOPT_PAGES_ACCOUNT_*"""

    NONE = 0
    USER = 1
    MM = 2


class Pin(Protocol):
    """A stretch of an origin that is held: what was at its addresses then can be reached until `close`."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """IoctlError(EFAULT): it was lost, and why."""

    def write_from(self, offset: int, data: memoryview) -> None: ...

    def identity(self, offset: int) -> Hashable:
        """Which real page lies at `offset` (bytes, a page boundary). Equal for the same page, however it was reached."""

    def close(self) -> None: ...


class Origin(Protocol):
    """Where the bytes come from, and who pays for them. `is_file` tells file offsets from addresses."""

    @property
    def is_file(self) -> bool: ...

    @property
    def uid(self) -> int: ...

    @property
    def mm(self) -> Hashable:
        """The address space that is charged."""

    def hold(self) -> None: ...

    def drop(self) -> None: ...

    def pin(self, start: int, length: int, writable: bool) -> Pin:
        """Hold `length` bytes from `start` (page boundaries). IoctlError(EFAULT, ...): not all of it can be; then none of it is."""

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes; None: no limit."""

    def locked_pages(self) -> int:
        """Pages that the process has locked itself."""


class Pages:
    """`npages` pages of an origin from `start` (bytes, a page boundary: an address, or a file offset). Counted: `get`, `put`."""

    __slots__ = ("_held", "_refs", "account_mode", "npages", "origin", "start", "writable")

    def __init__(
        self, origin: Origin, start: int, start_byte: int, length: int, *, writable: bool, account_mode: AccountMode
    ) -> None:
        """Remember `length` bytes that begin `start_byte` bytes (less than a page) after `start`.

        EINVAL: length is 0 or within a page of 2^64. Ref: v7.3 pages.c iopt_alloc_pages
        """
        if length == 0:
            raise IoctlError(EINVAL, "length is 0")
        if length > U64_MAX - PAGE_SIZE:
            raise IoctlError(EINVAL, f"length {length:#x} is within a page of 2^64")
        self.origin = origin
        self.start = start
        # In 64 bits, as the kernel: within a page of 2^64 the sum overflows, and an area finds too few pages (EOVERFLOW).
        self.npages = (length + start_byte + PAGE_SIZE - 1 & U64_MAX) // PAGE_SIZE
        self.writable = writable
        self.account_mode = account_mode
        self._refs = 1
        self._held: Held | None = None
        origin.hold()

    def get(self) -> "Pages":
        self._refs += 1
        return self

    def put(self) -> None:
        """The last put lets the origin go."""
        self._refs -= 1
        if self._refs == 0:
            assert self._held is None
            self.origin.drop()

    @property
    def refs(self) -> int:
        return self._refs

    def cover(self, host: Host, first: int, last: int) -> None:
        """Hold the pages with index first..last once more (a page table or an access needs them); undone by `uncover`.

        What is held already is not pinned again. EFAULT: a page cannot be pinned. ENOMEM: RLIMIT_MEMLOCK. Either way nothing has
        changed. Ref: v7.3 pages.c pfn_reader_*, iopt_area_fill_domains, iopt_pages_fill_xarray
        """
        if self._held is None:
            held = Held(self)
            held.cover(host, first, last)
            self._held = held
            host.holds(self)
        else:
            self._held.cover(host, first, last)

    def uncover(self, host: Host, first: int, last: int) -> None:
        """Undo one `cover` of the same first..last. Cannot fail."""
        assert self._held is not None
        self._held.uncover(host, first, last)
        if self._held.empty:
            self._held = None
            host.let_go(self)

    @property
    def npinned(self) -> int:
        """Pages pinned now."""
        return self._held.npinned if self._held is not None else 0

    def pins_of(self, identity: Hashable) -> int:
        return self._held.count(identity) if self._held is not None else 0

    def identity(self, index: int) -> Hashable:
        """Which real page is held as `index`. EFAULT: it is not held, or lost."""
        if self._held is None:
            raise IoctlError(EFAULT, f"page {index} is not pinned")
        return self._held.identity(index)

    def read_into(self, start_byte: int, buffer: memoryview, near: Hashable = None) -> None:
        """Fill `buffer` with the bytes from `start_byte` on. EFAULT: they cannot be reached. `near`: see Access.write_from."""
        self._transfer(start_byte, len(buffer), False, near, lambda pin, offset: pin.read_into(offset, buffer))

    def write_from(self, start_byte: int, data: memoryview, near: Hashable = None) -> None:
        """EPERM: the pages were mapped without WRITEABLE. EFAULT: they cannot be reached."""
        if not self.writable:
            raise IoctlError(EPERM, "the pages were mapped without IOMMU_IOAS_MAP_WRITEABLE")
        self._transfer(start_byte, len(data), True, near, lambda pin, offset: pin.write_from(offset, data))

    def _transfer(
        self, start_byte: int, length: int, write: bool, near: Hashable, move: Callable[[Pin, int], None]
    ) -> None:
        # Ref: v7.3 pages.c iopt_pages_rw_access
        first, last = start_byte // PAGE_SIZE, (start_byte + length - 1) // PAGE_SIZE
        direct = near is not None and not self.origin.is_file and near == self.origin.mm
        found = self._held.find(first, last) if self._held is not None and not direct else None
        if found is not None:
            pin_first, pin = found
            move(pin, start_byte - pin_first * PAGE_SIZE)
            return
        pin = self.origin.pin(self.start + first * PAGE_SIZE, (last - first + 1) * PAGE_SIZE, write)
        try:
            move(pin, start_byte - first * PAGE_SIZE)
        finally:
            pin.close()


class Held:
    """What of a Pages is pinned: stretches (by page index) that somebody covers, and the pins that hold them.

    A page is pinned and charged once, however many cover it. A pin may hold more than is still covered; it is closed when none of it is.
    """

    __slots__ = ("_covers", "_pages", "_pins", "npinned")

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._covers = Spans()
        self._pins: list[tuple[int, int, Pin]] = []  # first, last, pin
        self.npinned = 0

    @property
    def empty(self) -> bool:
        return not len(self._covers)

    def cover(self, host: Host, first: int, last: int) -> None:
        pages = self._pages
        pins: list[tuple[int, int, Pin]] = []
        try:
            for low, high in self._covers.holes(first, last):
                length = (high - low + 1) * PAGE_SIZE
                pins.append((low, high, pages.origin.pin(pages.start + low * PAGE_SIZE, length, pages.writable)))
            self._charge(host, sum(high - low + 1 for low, high, _ in pins))
        except IoctlError:
            for _, _, pin in pins:
                pin.close()
            raise
        self._pins += pins
        self._covers.add(Span(first, last))

    def uncover(self, host: Host, first: int, last: int) -> None:
        self._covers.remove(Span(first, last))
        bare = list(self._covers.holes(first, last))
        self._uncharge(host, sum(high - low + 1 for low, high in bare))
        if bare:
            keep = []
            for low, high, pin in self._pins:
                if high < first or low > last or next(self._covers.holes(low, high), None) != (low, high):
                    keep.append((low, high, pin))
                else:
                    pin.close()
            self._pins = keep

    def _charge(self, host: Host, npages: int) -> None:
        mode, origin = self._pages.account_mode, self._pages.origin
        if npages:
            if mode == AccountMode.USER:
                host.charge_user(origin, npages, PAGE_SIZE)
            elif mode == AccountMode.MM:
                host.charge_process(origin, npages, PAGE_SIZE)
        self.npinned += npages

    def _uncharge(self, host: Host, npages: int) -> None:
        mode, origin = self._pages.account_mode, self._pages.origin
        if npages:
            if mode == AccountMode.USER:
                host.uncharge_user(origin, npages)
            elif mode == AccountMode.MM:
                host.uncharge_process(origin, npages)
        self.npinned -= npages

    def find(self, first: int, last: int) -> tuple[int, Pin] | None:
        """A pin that holds all of first..last, and the index of its first page. The newest, if several do."""
        for low, high, pin in reversed(self._pins):
            if low <= first and last <= high:
                return low, pin
        return None

    def identity(self, index: int) -> Hashable:
        found = self.find(index, index)
        if found is None or self._covers.first(index, index) is None:
            raise IoctlError(EFAULT, f"page {index} is not pinned")
        return found[1].identity((index - found[0]) * PAGE_SIZE)

    def count(self, identity: Hashable) -> int:
        """How many of the covered pages are this real page."""
        found = 0
        for low, high in self._covers.union():
            for index in range(low, high + 1):
                try:
                    found += self.identity(index) == identity
                except IoctlError:
                    continue  # lost: it is no page any more
        return found


class Slice:
    """`length` bytes of a Pages from `start_byte` (bytes from its start): what one area will show."""

    __slots__ = ("length", "pages", "start_byte")

    def __init__(self, pages: Pages, start_byte: int, length: int) -> None:
        self.pages = pages
        self.start_byte = start_byte
        self.length = length

    @property
    def address(self) -> int:
        """Where the slice begins in its origin: an address, or a file offset (bytes)."""
        return self.pages.start + self.start_byte


def user_slice(origin: Origin, user_va: int, length: int, *, writable: bool, account_mode: AccountMode) -> Slice:
    """A slice of a caller's memory. EOVERFLOW: it ends beyond 2^64 - 1. EINVAL: as `Pages`.

    Ref: v7.3 pages.c iopt_alloc_user_pages
    """
    if user_va + length > U64_MAX:
        raise IoctlError(EOVERFLOW, f"user_va {user_va:#x} + length {length:#x} is beyond 2^64 - 1")
    start_byte = user_va % PAGE_SIZE
    pages = Pages(origin, user_va - start_byte, start_byte, length, writable=writable, account_mode=account_mode)
    return Slice(pages, start_byte, length)


def file_slice(origin: Origin, start: int, length: int, *, writable: bool, account_mode: AccountMode) -> Slice:
    """A slice of a file from byte `start`. EINVAL: as `Pages`. Ref: v7.3 pages.c iopt_alloc_file_pages"""
    start_byte = start % PAGE_SIZE
    pages = Pages(origin, start - start_byte, start_byte, length, writable=writable, account_mode=account_mode)
    return Slice(pages, start_byte, length)


def check_file_range(start: int, length: int) -> None:
    """What MAP_FILE asks of its numbers before it looks at the descriptor.

    EINVAL: length 0. EOVERFLOW: start + length - 1 is beyond 2^64 - 1. Ref: v7.3 io_pagetable.c iopt_map_file_pages
    """
    if length == 0:
        raise IoctlError(EINVAL, "length is 0")
    if start + length - 1 > U64_MAX:
        raise IoctlError(EOVERFLOW, f"start {start:#x} + length {length:#x} is beyond 2^64 - 1")
