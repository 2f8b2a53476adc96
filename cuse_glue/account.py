"""What one address space has pinned, and what of it is held and shows; and how a thread in our hand (hand.py) makes it so.

Counts are pages. The functions here that take a `Hand` run in the worker thread that has it, one at a time for each account.
"""

import errno
import logging
import os
import re
import threading
from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Final

import trio

from . import uring
from .hand import Hand, Unwilling
from .origin import PAGE_SIZE, Mm
from .pin import InProcess
from .pin_counter import Counter
from .vma import Gone as NobodyThere

log: Final = logging.getLogger("cuse_glue.true_pin")

_PROT_NONE: Final = 0
_LOCKED: Final = 0x02 | 0x20 | 0x4000 | 0x2000  # MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_LOCKED
_MAYMOVE: Final = 1  # MREMAP_*
_DONTFORK: Final = 10  # MADV_*


class Account:
    """What one address space is to show, and what it shows. `Mm.account`."""

    def __init__(self) -> None:
        self.pinned = 0  # pages
        self.locked = 0
        self.counter: Counter | None = None
        self.region: tuple[int, int] | None = None  # the mapping that is there to be locked: address, pages
        self.stored = 0  # pages of VmPin that are held in stores; changed under `stored_lock`
        self.released = 0  # pages of VmPin that ever were, and are not any more; likewise
        self.stored_lock = threading.Lock()
        self.wanted: deque[InProcess] = deque()  # what is to be held in stores
        self.pipe: uring.Pipe | None = None
        self.waiting_for = 0  # the thread that is about to be taken, wherever it is
        self.lock = trio.Lock()  # whoever has one of its threads in hand
        self.changes = 0
        self.complained = False

    @property
    def locked_shown(self) -> int:
        return self.region[1] if self.region is not None else 0

    @property
    def _to_count(self) -> int:
        return max(self.pinned - self.stored, 0)

    @property
    def behind(self) -> int:
        """By how many pages VmPin is wrong."""
        return abs(self._to_count - (self.counter.shown if self.counter is not None else 0))

    @property
    def settled(self) -> bool:
        return not self.behind and not self.wanted and self.locked_shown == max(self.locked, 0)

    def take_wanted(self) -> "list[InProcess]":
        """What is to be held, which is then the asker's to do."""
        taken = []
        while self.wanted:  # while the loop may go on adding
            taken.append(self.wanted.popleft())
        return [piece for piece in taken if piece.is_open]

    def show(self) -> None:
        """OSError."""
        if self.counter is not None:
            self.counter.show(self._to_count)

    def complain(self, text: str, loud: bool) -> None:
        """Once a process."""
        log.log(logging.WARNING if loud and not self.complained else logging.DEBUG, "%s", text)
        self.complained |= loud

    def close(self) -> None:
        if self.counter is not None:
            self.counter.close()
        if self.pipe is not None:
            self.pipe.close()


class Held:
    """One piece in a store, as `pin.InProcess.held`."""

    def __init__(self, mm: Mm, stored: uring.Stored, pages: int, exact: bool) -> None:
        """`pages`: as many as the kernel counts for it, if that is `exact`; else it counted some large ones whole."""
        self._mm = mm
        self._stored = stored
        self._pages = pages
        self._exact = exact
        self.read = stored.read
        self.write = stored.write

    def close(self) -> None:
        account: Account = self._mm.account
        with account.stored_lock:
            before = 0 if self._exact else vm_pin(self._mm)
            self._stored.close()
            pages = self._pages if self._exact else max(before - vm_pin(self._mm), 0)
            account.stored -= pages
            account.released += pages


def store(mm: Mm, hand: Hand, wanted: Sequence[InProcess]) -> None:
    """Have memory of the client's held in stores. What cannot be held stays as it is."""
    account: Account = mm.account
    if account.pipe is None:
        account.pipe = uring.Pipe()
    slots = 0
    batch: list[tuple[InProcess, list[tuple[int, int]]]] = []
    for piece in wanted:
        buffers = uring.pieces(piece.address, piece.length)
        if slots + len(buffers) > uring.MOST_BUFFERS and batch:
            _fill_store(mm, hand, batch)
            slots, batch = 0, []
        slots += len(buffers)
        batch.append((piece, buffers))
    if batch:
        _fill_store(mm, hand, batch)


def _fill_store(mm: Mm, hand: Hand, batch: Sequence[tuple[InProcess, list[tuple[int, int]]]]) -> None:
    account: Account = mm.account
    places = [place for _, buffers in batch for place in buffers]
    with account.stored_lock:
        before = vm_pin(mm) + account.released
    store, filled, limited = _new_store(hand, places)
    pages = [piece.length // PAGE_SIZE for piece, _ in batch]
    first = 0
    held = []
    for (piece, buffers), npages in zip(batch, pages, strict=True):
        slots = range(first, first + len(buffers))
        first += len(buffers)
        if filled.issuperset(slots):
            held.append((piece, slots, npages))
        elif piece.is_open:
            why = "RLIMIT_MEMLOCK does not let io_uring" if limited else "it is not writable"
            account.complain(f"{npages} pages at {piece.address:#x} of process {mm.pid} are watched, and not held: {why}", limited)
    if not held:
        store.close()
        return
    try:
        assert account.pipe is not None
        store.open(account.pipe)
    except OSError as failure:
        store.close()
        raise Unwilling(f"its memory cannot be held: {failure}") from None
    with account.stored_lock:
        counted = max(vm_pin(mm) + account.released - before, 0)
        account.stored += counted
    exact = counted in (0, sum(npages for _, _, npages in held))
    for piece, slots, npages in held:
        piece.held = Held(mm, store.hold(piece.address, slots), npages if counted else 0, exact)


def _new_store(hand: Hand, places: Sequence[tuple[int, int]]) -> tuple[uring.Store, set[int], bool]:
    """A ring that the client made, not yet open; which of its slots it could fill with `places` of its memory; whether a limit was met."""
    limited = False
    vectors = uring.vectors(places)
    filled: set[int] = set()
    with ExitStack() as failing:
        with hand.scratch(max(uring.PARAMS_SIZE, uring.UPDATE_SIZE + len(vectors))) as scratch:
            hand.write(scratch, uring.params(uring.R_DISABLED))
            number = hand.call("make an io_uring", uring.SETUP, uring.Store.ENTRIES, scratch)
            with hand.descriptor(number) as fd:
                failing.callback(os.close, fd)
                store = uring.Store(fd, len(places))
                at_vectors = scratch + uring.UPDATE_SIZE
                hand.write(at_vectors, vectors)
                position = 0
                while position < len(places):
                    rest = uring.Store.update_arguments(position, at_vectors + position * uring.VECTOR_SIZE, len(places) - position)
                    hand.write(scratch, rest)
                    done = hand.try_call(uring.REGISTER, number, uring.REGISTER_BUFFERS_UPDATE, scratch, len(rest))
                    if done > 0:
                        filled.update(range(position, position + done))
                        position += done
                    else:  # this one cannot be held; the next ones may be
                        limited |= done == -errno.ENOMEM
                        position += 1
        failing.pop_all()
    return store, filled, limited


def vm_pin(mm: Mm) -> int:
    """VmPin of the process, in pages; 0 when it is gone."""
    try:
        return pages_of(mm.thread_file("status"))
    except OSError:
        return 0


def pages_of(status: bytes) -> int:
    found = re.search(rb"^VmPin:\s*(\d+) kB$", status, re.MULTILINE)
    return int(found[1]) * 1024 // PAGE_SIZE if found is not None else 0


def new_counter(hand: Hand) -> Counter:
    with ExitStack() as failing:
        with hand.scratch(uring.PARAMS_SIZE) as place:
            hand.write(place, uring.params())
            with hand.descriptor(hand.call("make an io_uring", uring.SETUP, 1, place)) as fd:
                failing.callback(os.close, fd)
                counter = Counter(fd)
        failing.pop_all()
    return counter


def show_locked(mm: Mm, hand: Hand, pages: int) -> None:
    """Make the mapping that counts as locked memory `pages` large: memory that cannot be touched, and so takes none."""
    account: Account = mm.account
    m = hand.machine
    if account.region is not None and not _is_ours(mm, *account.region):
        account.region = None  # the client has unmapped what it did not know; what is there now is its own
    if account.region is None:
        if pages:
            address = hand.call("map locked memory", m.mmap, 0, pages * PAGE_SIZE, _PROT_NONE, _LOCKED, -1, 0)
            account.region = address, pages
            hand.call("map locked memory", m.madvise, address, pages * PAGE_SIZE, _DONTFORK)
        return
    address, before = account.region
    if pages:
        address = hand.call("change its locked memory", m.mremap, address, before * PAGE_SIZE, pages * PAGE_SIZE, _MAYMOVE)
        account.region = address, pages
    else:
        account.region = None
        hand.call("unmap locked memory", m.munmap, address, before * PAGE_SIZE)


def _is_ours(mm: Mm, address: int, pages: int) -> bool:
    try:
        vmas = mm.maps.covering(address, address + pages * PAGE_SIZE)
    except NobodyThere:
        return False
    return [(vma.start, vma.end, vma.readable, vma.writable, vma.shared, vma.inode) for vma in vmas] == [
        (address, address + pages * PAGE_SIZE, False, False, False, 0)
    ]
