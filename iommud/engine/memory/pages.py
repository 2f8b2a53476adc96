"""What an area is backed by: a stretch of somebody's memory, or of a file.

One `Pages` may stand behind many areas (IOAS_COPY shares it); each of them sees a slice of its
bytes. As in the kernel, its pages can be held by accesses, held by page tables, or only
**remembered**. As long as there is no device and no access, all are remembered: nothing was pinned,
charged or even looked at, and the memory need not exist yet.

The `Origin` knows whose memory it is: an address space, which can be gone, or an open file. The
engine only takes references to it.

Ref: v7.3 pages.c (theory at its top), iopt_alloc_pages
"""

from collections.abc import Hashable, Iterator, Sequence
from errno import EFAULT, EINVAL, EOVERFLOW, EPERM
from itertools import starmap

from ...errors import IoctlError
from .ledger import Ledger
from .origin import PAGE_SIZE, AccountMode, Identity, Origin, Pin, Place, Stretch
from .pinned import Part, Pinned, PinRef
from .span import U64_MAX, Span, Spans, last_of
from .transfer import Transfer


class Pages:
    """`npages` pages of an origin from `start` on (bytes, a page boundary: an address, or a file
    offset). References are counted: `get`, `put`.
    """

    __slots__ = ("_pinned", "_refs", "account_mode", "npages", "origin", "start", "writable")

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
        # In 64 bits, as the kernel: within a page of 2^64 the sum overflows, and an area finds too
        # few pages (EOVERFLOW).
        self.npages = (length + start_byte + PAGE_SIZE - 1 & U64_MAX) // PAGE_SIZE
        self.writable = writable
        self.account_mode = account_mode
        self._refs = 1
        self._pinned: Pinned | None = None
        origin.get()

    def get(self) -> "Pages":
        self._refs += 1
        return self

    def put(self) -> None:
        """The last put gives up the origin."""
        self._refs -= 1
        if self._refs == 0:
            assert self._pinned is None
            self.origin.put()

    @property
    def refs(self) -> int:
        return self._refs

    @property
    def of_file(self) -> bool:
        """Whether it is of a file, and so can be charged to another process
        (IOAS_CHANGE_PROCESS).
        """
        return self.origin.is_file

    @property
    def revoked(self) -> bool:
        """Whether its owner has taken it back. Then there is nothing behind it, for ever, and no
        page table shows it (dma_buf.py).
        """
        return False

    def check_access(self) -> None:
        """EINVAL: accesses can neither pin nor copy this."""

    def payer_differs(self, origin: Origin) -> bool:
        """Whether pins of it count against another user or process than pins of `origin` would.

        Ref: v7.3 ioas.c need_charge_update
        """
        return self.account_mode != AccountMode.NONE and (
            origin.mm != self.origin.mm or (self.account_mode == AccountMode.USER and origin.uid != self.origin.uid)
        )

    def move(self, origin: Origin) -> None:
        """From now on it is the same file, or shared memory, of another process, which has been
        charged.
        """
        origin.get()
        self.origin.put()
        self.origin = origin

    def pin(self, ledger: Ledger, first: int, last: int) -> None:
        """Pin the pages with index first..last for a page table or an access, once more than
        before. `unpin` undoes it.

        Real pages that are pinned already are not pinned and charged again. EFAULT: a page cannot
        be pinned. ENOMEM: RLIMIT_MEMLOCK. Either way nothing has changed. Ref: v7.3 pages.c
        pfn_reader_*, iopt_area_fill_domains, iopt_pages_fill_xarray
        """
        if self._pinned is None:
            pinned = Pinned(self)
            pinned.pin(ledger, first, last)
            self._pinned = pinned
            ledger.add(self)
        else:
            self._pinned.pin(ledger, first, last)
        if ledger.observer is not None:
            ledger.observer.pinned(self, first, last)

    def unpin(self, ledger: Ledger, first: int, last: int) -> None:
        """Undo one `pin` of the same first..last. Cannot fail."""
        assert self._pinned is not None
        self._pinned.unpin(ledger, first, last)
        if self._pinned.empty:
            self._pinned = None
            ledger.remove(self)
        if ledger.observer is not None:
            ledger.observer.unpinned(self, first, last)

    def split_pin(self, first: int, middle: int, last: int) -> None:
        """Make two pins of the one of first..last: first..middle-1 and middle..last."""
        assert self._pinned is not None
        self._pinned.pins.remove(Span(first, last))
        self._pinned.pins.add(Span(first, middle - 1))
        self._pinned.pins.add(Span(middle, last))

    @property
    def npinned(self) -> int:
        """How many pages are pinned, and charged, now."""
        return self._pinned.npinned if self._pinned is not None else 0

    @property
    def pins(self) -> Spans:
        """The range of indexes of each `pin` that was not undone yet. Not to be changed."""
        return self._pinned.pins if self._pinned is not None else Spans()

    def identity(self, index: int) -> Identity:
        """Which real page is held at `index`. EFAULT: none is held there, or it is lost."""
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
        """Of which memory the pages with index first..last are, upwards, as far as they are
        held.
        """
        for low, high, by in self._parts(first, last):
            begin, end, at = (low - by.first) * PAGE_SIZE, (high + 1 - by.first) * PAGE_SIZE, 0
            for stretch in starmap(Stretch, by.pin.stretches()):
                if at < end and begin < at + stretch.length:
                    yield stretch.cut(max(begin - at, 0), min(end - at, stretch.length))
                at += stretch.length

    def _parts(self, first: int, last: int) -> Iterator[Part]:
        return self._pinned.parts(first, last) if self._pinned is not None else iter(())

    def new_pin(self, first: int, last: int, *, brief: bool = False) -> Pin:
        """A new pin of these pages, uncharged and uncounted. EFAULT: not all of them can be
        pinned.
        """
        return self.origin.pin(
            self.start + first * PAGE_SIZE, (last - first + 1) * PAGE_SIZE, self.writable, brief=brief
        )

    def charge(self, ledger: Ledger, npages: int, payer: Origin | None = None) -> None:
        """Count pages as pinned, against the origin or another payer. ENOMEM: RLIMIT_MEMLOCK; then
        they are not counted.
        """
        if npages and self.account_mode == AccountMode.USER:
            ledger.charge_user(payer or self.origin, npages, PAGE_SIZE)
        elif npages and self.account_mode == AccountMode.MM:
            ledger.charge_process(payer or self.origin, npages, PAGE_SIZE)
        (payer or self.origin).pinned(npages, self.account_mode == AccountMode.MM)

    def uncharge(self, ledger: Ledger, npages: int, payer: Origin | None = None) -> None:
        if npages and self.account_mode == AccountMode.USER:
            ledger.uncharge_user(payer or self.origin, npages)
        elif npages and self.account_mode == AccountMode.MM:
            ledger.uncharge_process(payer or self.origin, npages)
        (payer or self.origin).pinned(-npages, self.account_mode == AccountMode.MM)

    def dma(self, start_byte: int, data: memoryview, *, write: bool) -> None:
        """Copy as a device does. All of it is held, and the device sees what is held. EFAULT: that
        was lost.
        """
        for part in self._parts(*_indexes(start_byte, len(data))):
            begin, end = _bytes(part, start_byte, len(data))
            offset = start_byte + begin - part.by.first * PAGE_SIZE
            (part.by.pin.write_from if write else part.by.pin.read_into)(offset, data[begin:end])

    def places(self, start_byte: int, length: int) -> Iterator[tuple[Place | None, int]]:
        """Where `length` bytes from `start_byte` on lie, upwards, each with its length; all of it
        is held. None: what lies there is to be reached by `dma`.
        """
        for part in self._parts(*_indexes(start_byte, length)):
            at, end = _bytes(part, start_byte, length)
            while at < end:
                found = part.by.pin.place(start_byte + at - part.by.first * PAGE_SIZE)
                place = Place(*found) if found is not None else None
                count = end - at if place is None else min(end - at, place.length)
                yield place, count
                at += count

    def transfer(self, to: Transfer, start_byte: int, begin: int, length: int, near: Hashable) -> None:
        """Let `to` copy `length` bytes from `start_byte` on, to or from byte `begin` of its buffer.
        `near`: see Access.write_from.

        EPERM: the pages were mapped without WRITEABLE. EFAULT: they cannot be pinned.

        Ref: v7.3 pages.c iopt_pages_rw_access, iopt_pages_rw_page, iopt_pages_rw_slow
        """
        if to.write and not self.writable:
            raise IoctlError(EPERM, "the pages were mapped without IOMMU_IOAS_MAP_WRITEABLE")
        self.check_access()
        first, last = _indexes(start_byte, length)
        origin = self.origin
        itself = near is not None and near == origin.mm
        if not origin.is_file and (itself or (first == last and origin.alive())):
            to.by_process(origin, self.start + start_byte, begin, begin + length, itself=itself)
            return
        for part in self._reach(first, last):
            at, end = _bytes(part, start_byte, length)
            to.by_pin(part.by, start_byte + at - part.by.first * PAGE_SIZE, begin + at, begin + end)

    def _reach(self, first: int, last: int) -> Iterator[Part]:
        """How first..last is reached, upwards. Pages that are not held are pinned, uncharged, for
        whoever keeps the result.
        """
        position = first
        for part in self._parts(first, last):
            if position < part.first:
                yield Part(
                    position, part.first - 1, PinRef(position, 0, self.new_pin(position, part.first - 1, brief=True))
                )
            yield part
            position = part.last + 1
        if position <= last:
            yield Part(position, last, PinRef(position, 0, self.new_pin(position, last, brief=True)))


def _indexes(start_byte: int, length: int) -> tuple[int, int]:
    return start_byte // PAGE_SIZE, (start_byte + length - 1) // PAGE_SIZE


def _bytes(part: Part, start_byte: int, length: int) -> tuple[int, int]:
    """Which bytes of start_byte..start_byte+length a part holds, counted from start_byte (end
    exclusive).
    """
    return max(part.first * PAGE_SIZE - start_byte, 0), min((part.last + 1) * PAGE_SIZE - start_byte, length)


def move_all(ledger: Ledger, moving: Sequence[Pages], origin: Origin, mode: AccountMode) -> None:
    """Charge what is pinned of `moving`, which all have one origin, to another: a process that says
    it has the same memory. ENOMEM: RLIMIT_MEMLOCK; then nothing has changed.

    Ref: v7.3 vfio_iommu_type1.c vfio_change_dma_owner
    """
    if not moving:
        return
    old_modes = [pages.account_mode for pages in moving]
    moving[0].account_mode = mode
    try:
        moving[0].charge(ledger, sum(pages.npinned for pages in moving), origin)
    except IoctlError:
        moving[0].account_mode = old_modes[0]
        raise
    for pages, old_mode in zip(moving, old_modes, strict=True):
        pages.account_mode = old_mode
        pages.uncharge(ledger, pages.npinned)
        pages.account_mode = mode
        pages.move(origin)


class Slice:
    """`length` bytes of a Pages from `start_byte` on (bytes from its start). One area will show
    them.
    """

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
    """A slice of a file from byte `start`. EINVAL: as `Pages`. Ref: v7.3 pages.c
    iopt_alloc_file_pages
    """
    start_byte = start % PAGE_SIZE
    pages = Pages(origin, start - start_byte, start_byte, length, writable=writable, account_mode=account_mode)
    return Slice(pages, start_byte, length)


def check_file_range(start: int, length: int) -> None:
    """What MAP_FILE asks of its numbers before it looks at the descriptor.

    EINVAL: length 0. EOVERFLOW: start + length - 1 is beyond 2^64 - 1. Ref: v7.3 io_pagetable.c
    iopt_map_file_pages
    """
    if length == 0:
        raise IoctlError(EINVAL, "length is 0")
    last_of(start, length, "start")
