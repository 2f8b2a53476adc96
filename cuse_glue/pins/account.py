"""What one address space has pinned, what of that is truly pinned and shown, and how a helper in
the client (hand.py) makes it so.

Counts are pages. The functions here that take a `Helper` run in the worker thread that has the
helper, one at a time for each account.
"""

import errno
import logging
import os
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

from ..errors import ControlError
from ..process.vma import AddressSpaceGone
from ..request.address_space import Mm
from ..system.page import PAGE_SIZE
from ..system.status import Status
from ..tracing.hand import Helper
from . import uring
from .pin import InProcess
from .pin_counter import Counter

log: Final = logging.getLogger("cuse_glue.pins.true_pin")

_PROT_NONE: Final = 0
# MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_LOCKED
_LOCKED: Final = 0x02 | 0x20 | 0x4000 | 0x2000
_MAYMOVE: Final = 1  # MREMAP_*
_DONTFORK: Final = 10  # MADV_*


class Account:
    """What one address space should show, and what it shows. It is `Mm.account` (`of`)."""

    def __init__(self) -> None:
        self.pinned = 0  # pages
        self.locked = 0
        self.counter: Counter | None = None
        # our mapping in the client that counts as locked: address, pages
        self.region: tuple[int, int] | None = None
        self.ring_pages = 0  # pages of VmPin that are pinned in rings; changed under `ring_lock`
        self.released = 0  # pages of VmPin that rings held once, and hold no more; likewise
        self.ring_lock = threading.Lock()
        self.wanted: deque[InProcess] = deque()  # what is to be pinned in rings
        self.pipe: uring.Pipe | None = None
        self.late = False  # the last run took so long that no request waits for the next
        self.changes = 0
        self.complained = False

    @property
    def locked_shown(self) -> int:
        return self.region[1] if self.region is not None else 0

    @property
    def _to_count(self) -> int:
        return max(self.pinned - self.ring_pages, 0)

    @property
    def behind(self) -> int:
        """By how many pages VmPin is wrong."""
        return abs(self._to_count - (self.counter.shown if self.counter is not None else 0))

    @property
    def settled(self) -> bool:
        return not self.behind and not self.wanted and self.locked_shown == max(self.locked, 0)

    def take_wanted(self) -> "list[InProcess]":
        """Take out what should be truly pinned. From now on that is the caller's task."""
        taken = []
        while self.wanted:  # the loop may add more meanwhile
            taken.append(self.wanted.popleft())
        return [piece for piece in taken if piece.is_open]

    def show(self) -> None:
        """Make VmPin right. OSError: it cannot be done."""
        if self.counter is not None:
            self.counter.show(self._to_count)

    def complain(self, text: str, loud: bool) -> None:
        """Log why memory is only watched, once for each process."""
        log.log(logging.WARNING if loud and not self.complained else logging.DEBUG, "%s", text)
        self.complained |= loud

    def close(self) -> None:
        if self.counter is not None:
            self.counter.close()
        if self.pipe is not None:
            self.pipe.close()


def of(mm: Mm) -> Account:
    """The account of an address space of which something was pinned."""
    assert isinstance(mm.account, Account)
    return mm.account


class RingPin:
    """One piece of memory, pinned in a client's ring: `pin.InProcess.true_pin`."""

    def __init__(self, mm: Mm, slots: uring.RingSlots, pages: int, exact: bool) -> None:
        """`exact`: the kernel counts just `pages` for it. Else the kernel counted some large pages
        whole, and `close` finds out how many pages it gives back.
        """
        self._mm = mm
        self._slots = slots
        self._pages = pages
        self._exact = exact
        self.read = slots.read
        self.write = slots.write

    def close(self) -> None:
        account = of(self._mm)
        with account.ring_lock:
            before = 0 if self._exact else vm_pin(self._mm)
            self._slots.close()
            pages = self._pages if self._exact else max(before - vm_pin(self._mm), 0)
            account.ring_pages -= pages
            account.released += pages


def pin_in_rings(mm: Mm, helper: Helper, wanted: Sequence[InProcess]) -> None:
    """Pin memory of the client's in rings. What cannot be pinned so stays watched."""
    account = of(mm)
    if account.pipe is None:
        account.pipe = uring.Pipe()
    slots = 0
    batch: list[tuple[InProcess, list[tuple[int, int]]]] = []
    for piece in wanted:
        buffers = uring.pieces(piece.address, piece.length)
        if slots + len(buffers) > uring.MOST_BUFFERS and batch:
            _fill_ring(mm, helper, batch)
            slots, batch = 0, []
        slots += len(buffers)
        batch.append((piece, buffers))
    if batch:
        _fill_ring(mm, helper, batch)


def _fill_ring(mm: Mm, helper: Helper, batch: Sequence[tuple[InProcess, list[tuple[int, int]]]]) -> None:
    account = of(mm)
    places = [place for _, buffers in batch for place in buffers]
    with account.ring_lock:
        before = vm_pin(mm) + account.released
    ring, filled, limited = _new_ring(helper, places)
    pages = [piece.length // PAGE_SIZE for piece, _ in batch]
    first = 0
    pinned = []
    for (piece, buffers), npages in zip(batch, pages, strict=True):
        slots = range(first, first + len(buffers))
        first += len(buffers)
        if filled.issuperset(slots):
            pinned.append((piece, slots, npages))
        elif piece.is_open:
            why = "RLIMIT_MEMLOCK does not let io_uring" if limited else "it is not writable"
            account.complain(
                f"{npages} pages at {piece.address:#x} of process {mm.pid} are watched, and not held: {why}", limited
            )
    if not pinned:
        ring.close()
        return
    try:
        assert account.pipe is not None
        ring.open(account.pipe)
    except OSError as failure:
        ring.close()
        raise ControlError(f"its memory cannot be held: {failure}") from None
    with account.ring_lock:
        counted = max(vm_pin(mm) + account.released - before, 0)
        account.ring_pages += counted
    exact = counted in (0, sum(npages for _, _, npages in pinned))
    for piece, slots, npages in pinned:
        piece.true_pin = RingPin(mm, ring.take(piece.address, slots), npages if counted else 0, exact)


def _new_ring(helper: Helper, places: Sequence[tuple[int, int]]) -> tuple[uring.BufferRing, set[int], bool]:
    """Returns a ring that the client made, not yet open; which of its slots could be filled with
    `places` of the client's memory; and whether a limit was met.
    """
    limited = False
    vectors = uring.vectors(places)
    filled: set[int] = set()
    with ExitStack() as failing:
        with helper.scratch(max(uring.PARAMS_SIZE, uring.UPDATE_SIZE + len(vectors))) as scratch:
            helper.write(scratch, uring.params(uring.R_DISABLED))
            number = helper.call("make an io_uring", uring.SETUP, uring.BufferRing.ENTRIES, scratch)
            with helper.descriptor(number) as fd:
                failing.callback(os.close, fd)
                ring = uring.BufferRing(fd, len(places))
                at_vectors = scratch + uring.UPDATE_SIZE
                helper.write(at_vectors, vectors)
                position = 0
                while position < len(places):
                    rest = uring.BufferRing.update_arguments(
                        position, at_vectors + position * uring.VECTOR_SIZE, len(places) - position
                    )
                    helper.write(scratch, rest)
                    done = helper.try_call(uring.REGISTER, number, uring.REGISTER_BUFFERS_UPDATE, scratch, len(rest))
                    if done > 0:
                        filled.update(range(position, position + done))
                        position += done
                    else:  # this one cannot be pinned; the next ones may be
                        limited |= done == -errno.ENOMEM
                        position += 1
        failing.pop_all()
    return ring, filled, limited


def vm_pin(mm: Mm) -> int:
    """VmPin of the process, in pages; 0 when it is gone."""
    try:
        return Status(mm.thread_file("status")).size("VmPin") // PAGE_SIZE
    except OSError:
        return 0


def new_counter(helper: Helper) -> Counter:
    with ExitStack() as failing:
        with helper.scratch(uring.PARAMS_SIZE) as place:
            helper.write(place, uring.params())
            with helper.descriptor(helper.call("make an io_uring", uring.SETUP, 1, place)) as fd:
                failing.callback(os.close, fd)
                counter = Counter(fd)
        failing.pop_all()
    return counter


def show_locked(mm: Mm, helper: Helper, pages: int) -> None:
    """Make the mapping that counts as locked memory `pages` large. It cannot be touched, and so
    takes no memory.
    """
    account = of(mm)
    m = helper.machine
    if account.region is not None and not _is_ours(mm, *account.region):
        # the client has unmapped our mapping, which it did not know; what is there now is its own
        account.region = None
    if account.region is None:
        if pages:
            address = helper.call("map locked memory", m.mmap, 0, pages * PAGE_SIZE, _PROT_NONE, _LOCKED, -1, 0)
            account.region = address, pages
            helper.call("map locked memory", m.madvise, address, pages * PAGE_SIZE, _DONTFORK)
        return
    address, before = account.region
    if pages:
        address = helper.call(
            "change its locked memory", m.mremap, address, before * PAGE_SIZE, pages * PAGE_SIZE, _MAYMOVE
        )
        account.region = address, pages
    else:
        account.region = None
        helper.call("unmap locked memory", m.munmap, address, before * PAGE_SIZE)


def _is_ours(mm: Mm, address: int, pages: int) -> bool:
    try:
        vmas = mm.maps.covering(address, address + pages * PAGE_SIZE)
    except AddressSpaceGone:
        return False
    return [(vma.start, vma.end, vma.readable, vma.writable, vma.shared, vma.inode) for vma in vmas] == [
        (address, address + pages * PAGE_SIZE, False, False, False, 0)
    ]
