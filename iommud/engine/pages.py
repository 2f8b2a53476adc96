"""What an area is backed by: a stretch of somebody's memory, or of a file.

One `Pages` may stand behind many areas (IOAS_COPY shares it), each of which sees a slice of its bytes. It has tiers, like the
kernel's: held by accesses, held by page tables, or only **remembered**. As long as no device and no access is there, everything is
remembered: nothing was pinned, charged or even looked at, and the memory need not exist yet.

Whose memory it is, is the `Origin`'s affair: an address space that can be gone, or an open file. The engine only holds and drops it.

Ref: v7.3 pages.c (theory at its top), iopt_alloc_pages
"""

from collections.abc import Hashable, Iterable, Iterator
from enum import IntEnum
from errno import EFAULT, EINVAL, EOVERFLOW, EPERM
from resource import getpagesize
from typing import Final, NamedTuple, Protocol

from ..errors import IoctlError
from .held import Counted, Held, Part
from .host import Host
from .span import U64_MAX, Span, Spans
from .transfer import Transfer

PAGE_SIZE: Final = getpagesize()  # bytes


Identity = tuple[Hashable, int]  # which real page: of which memory, and at which byte of it


class AccountMode(IntEnum):
    """Against what pinned pages are counted (RLIMIT_MEMLOCK). Ref: v7.3 io_pagetable.h IOPT_PAGES_ACCOUNT_*"""

    NONE = 0
    USER = 1
    MM = 2


class Stretch(NamedTuple):
    """`length` bytes of one memory (a process's own, or a file) from byte `place` of it on, both whole pages.

    `block`: how many bytes of that memory, a power of two and aligned to itself, certainly lie together as real memory does: its pages,
    or huge pages.
    """

    memory: Hashable
    place: int
    length: int
    block: int

    def cut(self, begin: int, end: int) -> "Stretch":
        """Bytes begin..end (exclusive) of it."""
        return self._replace(place=self.place + begin, length=end - begin)


class Pin(Protocol):
    """A stretch of an origin that is held: what was at its addresses then can be reached until `close`."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """IoctlError(EFAULT): it was lost, and why."""

    def write_from(self, offset: int, data: memoryview) -> None: ...

    def identity(self, offset: int) -> Identity:
        """Which real page lies at `offset` (bytes, a page boundary). Equal for the same page, however it was reached."""

    def stretches(self) -> Iterable[Stretch]:
        """Of what memory it is, from its first byte to its last; nothing, when it is lost. Pages are the same if memory and place are."""

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

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> Pin:
        """Hold `length` bytes from `start` (page boundaries); `brief`: for one copy at once.

        IoctlError(EFAULT, ...): not all of it can be; then none of it is.
        """

    def alive(self) -> bool:
        """Whether the address space is still lived in."""

    def read_now(self, address: int, buffer: memoryview) -> None:
        """Read the address space as its process would now, whatever is held. IoctlError(EFAULT): it could not."""

    def write_now(self, address: int, data: memoryview) -> None: ...

    def memlock_limit(self) -> int | None:
        """RLIMIT_MEMLOCK in bytes; None: no limit."""

    def locked_pages(self) -> int:
        """Pages that the process has locked itself."""

    def pinned(self, npages: int, locked: bool) -> None:
        """So many pages more (fewer, if negative) are pinned for its process; `locked`: and count as its locked memory."""


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

    @property
    def of_file(self) -> bool:
        """Whether it can change hands (IOAS_CHANGE_PROCESS)."""
        return self.origin.is_file

    @property
    def revoked(self) -> bool:
        """Whether its owner has taken it back: then there is nothing behind it, for ever, and no page table shows it (dma_buf.py)."""
        return False

    def check_access(self) -> None:
        """EINVAL: accesses can neither pin nor copy this."""

    def payer_differs(self, origin: Origin) -> bool:
        """Whether what is pinned counts against another user or process than it would as `origin`'s.

        Ref: v7.3 ioas.c need_charge_update
        """
        return self.account_mode != AccountMode.NONE and (
            origin.mm != self.origin.mm or (self.account_mode == AccountMode.USER and origin.uid != self.origin.uid)
        )

    def move(self, origin: Origin) -> None:
        """The same file, of another process, which has been charged."""
        origin.hold()
        self.origin.drop()
        self.origin = origin

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

    def split_cover(self, first: int, middle: int, last: int) -> None:
        """Make two of one `cover` of first..last: first..middle-1 and middle..last."""
        assert self._held is not None
        self._held.covers.remove(Span(first, last))
        self._held.covers.add(Span(first, middle - 1))
        self._held.covers.add(Span(middle, last))

    @property
    def npinned(self) -> int:
        """Pages pinned, and charged, now."""
        return self._held.npinned if self._held is not None else 0

    @property
    def covers(self) -> Spans:
        """By what the pages are held now, one range of indexes for each `cover`; to be looked at only."""
        return self._held.covers if self._held is not None else Spans()

    def identity(self, index: int) -> Identity:
        """Which real page is held as `index`. EFAULT: it is not held, or lost."""
        for part in self._parts(index, index):
            return part.by.pin.identity((index - part.by.first) * PAGE_SIZE)
        raise IoctlError(EFAULT, f"page {index} is not pinned")

    def pins_of(self, identity: Identity) -> int:
        """How many of the pages held are this real page."""
        memory, place = identity
        found = 0
        for stretch in self.stretches(0, self.npages - 1):
            found += stretch.memory == memory and stretch.place <= place < stretch.place + stretch.length
        return found

    def stretches(self, first: int, last: int) -> Iterator[Stretch]:
        """Of what memory the pages with index first..last are, as far as they are held, upwards."""
        for low, high, by in self._parts(first, last):
            begin, end, at = (low - by.first) * PAGE_SIZE, (high + 1 - by.first) * PAGE_SIZE, 0
            for stretch in by.pin.stretches():
                if at < end and begin < at + stretch.length:
                    yield stretch.cut(max(begin - at, 0), min(end - at, stretch.length))
                at += stretch.length

    def _parts(self, first: int, last: int) -> Iterator[Part]:
        return self._held.parts(first, last) if self._held is not None else iter(())

    def pin(self, first: int, last: int, *, brief: bool = False) -> Pin:
        """A new pin of these pages, uncharged and uncounted. EFAULT: not all of them can be pinned."""
        return self.origin.pin(self.start + first * PAGE_SIZE, (last - first + 1) * PAGE_SIZE, self.writable, brief=brief)

    def charge(self, host: Host, npages: int, payer: Origin | None = None) -> None:
        """Count pages as pinned, against the origin or another payer. ENOMEM: RLIMIT_MEMLOCK; then they are not counted."""
        if npages and self.account_mode == AccountMode.USER:
            host.charge_user(payer or self.origin, npages, PAGE_SIZE)
        elif npages and self.account_mode == AccountMode.MM:
            host.charge_process(payer or self.origin, npages, PAGE_SIZE)
        (payer or self.origin).pinned(npages, self.account_mode == AccountMode.MM)

    def uncharge(self, host: Host, npages: int, payer: Origin | None = None) -> None:
        if npages and self.account_mode == AccountMode.USER:
            host.uncharge_user(payer or self.origin, npages)
        elif npages and self.account_mode == AccountMode.MM:
            host.uncharge_process(payer or self.origin, npages)
        (payer or self.origin).pinned(-npages, self.account_mode == AccountMode.MM)

    def dma(self, start_byte: int, data: memoryview, *, write: bool) -> None:
        """Copy as a device does: all of it is held, and what is held is what it sees. EFAULT: that was lost."""
        for part in self._parts(*_indexes(start_byte, len(data))):
            begin, end = _bytes(part, start_byte, len(data))
            offset = start_byte + begin - part.by.first * PAGE_SIZE
            (part.by.pin.write_from if write else part.by.pin.read_into)(offset, data[begin:end])

    def transfer(self, to: Transfer, start_byte: int, begin: int, length: int, near: Hashable) -> None:
        """Have `to` copy `length` bytes from `start_byte` on, to or from byte `begin` of its buffer. `near`: see Access.write_from.

        EPERM: the pages were mapped without WRITEABLE. EFAULT: they cannot be pinned.
        Ref: v7.3 pages.c iopt_pages_rw_access, iopt_pages_rw_page, iopt_pages_rw_slow
        """
        if to.write and not self.writable:
            raise IoctlError(EPERM, "the pages were mapped without IOMMU_IOAS_MAP_WRITEABLE")
        self.check_access()
        first, last = _indexes(start_byte, length)
        origin = self.origin
        if not origin.is_file and ((near is not None and near == origin.mm) or (first == last and origin.alive())):
            to.by_process(origin, self.start + start_byte, begin, begin + length)
            return
        for part in self._reach(first, last):
            at, end = _bytes(part, start_byte, length)
            to.by_pin(part.by, start_byte + at - part.by.first * PAGE_SIZE, begin + at, begin + end)

    def _reach(self, first: int, last: int) -> Iterator[Part]:
        """What first..last is reached by, upwards. What is not held is pinned for who keeps it, without a charge."""
        position = first
        for part in self._parts(first, last):
            if position < part.first:
                yield Part(position, part.first - 1, Counted(position, 0, self.pin(position, part.first - 1, brief=True)))
            yield part
            position = part.last + 1
        if position <= last:
            yield Part(position, last, Counted(position, 0, self.pin(position, last, brief=True)))


def _indexes(start_byte: int, length: int) -> tuple[int, int]:
    return start_byte // PAGE_SIZE, (start_byte + length - 1) // PAGE_SIZE


def _bytes(part: Part, start_byte: int, length: int) -> tuple[int, int]:
    """Which bytes of start_byte..start_byte+length a part holds, counted from start_byte (end exclusive)."""
    return max(part.first * PAGE_SIZE - start_byte, 0), min((part.last + 1) * PAGE_SIZE - start_byte, length)


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
