"""A driver of virtio devices for tests, written from the specification and not from the models: its
memory, split and packed rings, and how it begins.

It counts what it is told and what it tells: an interrupt that should have come and did not, or a
notification that was to be sent, is the test's to find.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from iommud.file.disk import Disk
from iommud.models.virtio.blk import VirtioBlk
from iommud.pci import vfio_names as v
from tests.engine.fakes import FakeOrigin, P, map_
from tests.pci.kit import Rig

BASE, PAGES = 0x10_0000_0000, 1024  # the driver's memory: IOVA and pages
NOWHERE = 0x20_0000_0000
COMMON, ISR, DEVICE, NOTIFY = 0x0000, 0x1000, 0x2000, 0x3000
STATUS = 0x14
INDIRECT, EVENT_IDX, VERSION_1, PLATFORM, PACKED, IN_ORDER, DATA, RESET = (
    1 << bit for bit in (28, 29, 32, 33, 34, 35, 38, 40)
)
SIZE_MAX, SEG_MAX, RO, BLK_SIZE, FLUSH, TOPOLOGY, WCE, MQ, DISCARD, ZEROES = (
    1 << bit for bit in (1, 2, 5, 6, 9, 10, 11, 12, 13, 14)
)
EVERY = FLUSH | WCE | MQ | DISCARD | ZEROES | SEG_MAX | SIZE_MAX | BLK_SIZE | TOPOLOGY

Part = tuple[int, int, bool]  # IOVA, bytes, whether the device writes


class Memory:
    """Of an origin that is mapped at BASE."""

    def __init__(self, origin: FakeOrigin) -> None:
        self.origin = origin
        self._free = BASE

    def take(self, size: int, align: int = 16) -> int:
        """An IOVA of its own."""
        at = -(-self._free // align) * align
        self._free = at + size
        assert self._free <= BASE + PAGES * P
        return at

    def take_zeros(self, size: int, align: int = 16) -> int:
        at = self.take(size, align)
        self.write(at, bytes(size))
        return at

    def write(self, iova: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            page, at = divmod(iova - BASE + done, P)
            count = min(P - at, len(data) - done)
            self.origin.page(page)[at : at + count] = data[done : done + count]
            done += count

    def read(self, iova: int, length: int) -> bytes:
        found = b""
        while len(found) < length:
            page, at = divmod(iova - BASE + len(found), P)
            found += self.origin.page(page)[at : at + min(P - at, length - len(found))]
        return found

    def word(self, iova: int) -> int:
        return int.from_bytes(self.read(iova, 2), "little")

    def put(self, iova: int, *words: int) -> None:
        self.write(iova, struct.pack(f"<{len(words)}H", *words))


class Split:
    """A split ring, on the driver's side."""

    def __init__(self, memory: Memory, size: int, events: bool, *, align: int = 16) -> None:
        self.memory, self.size, self.events = memory, size, events
        self.descriptors = memory.take_zeros(16 * size)
        self.driver = memory.take_zeros(6 + 2 * size, 2)
        self.device = memory.take_zeros(10 + 8 * size) + (4 if align == 4 else 0)
        self.free = list(range(size))
        self.chains: dict[int, list[int]] = {}
        self.next = self.seen = self.told = 0  # indices: made available; used; of the last notification

    def descriptor(self, index: int, iova: int, length: int, flags: int, following: int) -> None:
        self.memory.write(self.descriptors + 16 * index, struct.pack("<QIHH", iova, length, flags, following))

    def add(self, parts: Sequence[Part], table: int | None = None) -> int:
        """Make a chain available; what it is known by. `table`: all of it is in an indirect one
        there.
        """
        if table is None:
            indices = [self.free.pop(0) for _ in parts]
            for n, (index, (iova, length, writes)) in enumerate(zip(indices, parts, strict=True)):
                last = n == len(parts) - 1
                self.descriptor(index, iova, length, (0 if last else 1) | writes * 2, 0 if last else indices[n + 1])
        else:
            self.memory.write(table, table_of(parts, chained=True))
            indices = [self.free.pop(0)]
            self.descriptor(indices[0], table, 16 * len(parts), 4, 0)
        self.chains[indices[0]] = indices
        self.offer(indices[0])
        return indices[0]

    def offer(self, head: int) -> None:
        self.memory.put(self.driver + 4 + 2 * (self.next % self.size), head)
        self.next = self.next + 1 & 0xFFFF
        self.memory.put(self.driver + 2, self.next)

    @property
    def room(self) -> int:
        return len(self.free)

    def used(self) -> list[tuple[int, int]]:
        """What was used since the last time, and how much was written to it."""
        found = []
        while self.memory.word(self.device + 2) != self.seen:
            at = self.device + 4 + 8 * (self.seen % self.size)
            head, length = struct.unpack("<II", self.memory.read(at, 8))
            self.free += self.chains.pop(head)
            found.append((head, length))
            self.seen = self.seen + 1 & 0xFFFF
        return found

    def wants_notification(self) -> bool:
        """Whether the device wants to be told of what was added since it was told last."""
        old, self.told = self.told, self.next
        if not self.events:
            return not self.memory.word(self.device) & 1
        event = self.memory.word(self.device + 4 + 8 * self.size)
        return (self.next - event - 1) % 65536 < (self.next - old) % 65536

    def wish(self, interrupts: bool, ahead: int = 0) -> None:
        """To be interrupted or not; with events: when `ahead` more buffers were used than the
        next.
        """
        if self.events:
            event = self.seen + ahead if interrupts else self.seen - 1
            self.memory.put(self.driver + 4 + 2 * self.size, event & 0xFFFF)
        else:
            self.memory.put(self.driver, not interrupts)


class Packed:
    """A packed ring, on the driver's side."""

    def __init__(self, memory: Memory, size: int, events: bool, *, align: int = 16) -> None:
        self.memory, self.size, self.events = memory, size, events
        self.descriptors = memory.take_zeros(16 * size)
        self.driver, self.device = memory.take_zeros(4, 4), memory.take_zeros(4, 4)
        self.room = size
        self.chains: dict[int, int] = {}  # descriptors of each
        self.at = self.seen = 0
        self.wrap = self.seen_wrap = True
        self.added = 0  # descriptors, since the last notification
        self.id = 0

    def add(self, parts: Sequence[Part], table: int | None = None) -> int:
        if table is not None:
            self.memory.write(table, table_of(parts, chained=False))
        self.id = self.id + 7 & 0xFFFF  # any number will do
        put = [(iova, length, writes * 2) for iova, length, writes in parts]
        put = put if table is None else [(table, 16 * len(parts), 4)]
        self.chains[self.id] = len(put)
        rows = []
        for n, (iova, length, flags) in enumerate(put):
            flags |= (n < len(put) - 1) | (0x80 if self.wrap else 0x8000)
            rows.append((self.descriptors + 16 * self.at, struct.pack("<QIHH", iova, length, self.id, flags)))
            self.at += 1
            if self.at == self.size:
                self.at, self.wrap = 0, not self.wrap
        for place, row in reversed(rows):  # the first one last
            self.memory.write(place, row)
        self.room -= len(put)
        self.added += len(put)
        return self.id

    def used(self) -> list[tuple[int, int]]:
        found: list[tuple[int, int]] = []
        while True:
            row = self.memory.read(self.descriptors + 16 * self.seen, 16)
            _, length, number, flags = struct.unpack("<QIHH", row)
            if not bool(flags & 0x80) == bool(flags & 0x8000) == self.seen_wrap:
                return found
            slots = self.chains.pop(number)
            self.room += slots
            self.seen += slots
            if self.seen >= self.size:
                self.seen, self.seen_wrap = self.seen - self.size, not self.seen_wrap
            assert flags & 2 or not length
            found.append((number, length if flags & 2 else 0))

    def wants_notification(self) -> bool:
        added, self.added = self.added, 0
        place, flags = struct.unpack("<HH", self.memory.read(self.device, 4))
        if flags != 2:
            assert flags in (0, 1)
            return not flags
        assert self.events
        event = place & 0x7FFF
        if bool(place & 0x8000) != self.wrap:
            event -= self.size
        return bool((self.at - event - 1) % 65536 < added)

    def wish(self, interrupts: bool, ahead: int = 0) -> None:
        if not self.events or not interrupts:
            self.memory.put(self.driver + 2, not interrupts)
            return
        at, wrap = self.seen + ahead, self.seen_wrap
        if at >= self.size:
            at, wrap = at - self.size, not wrap
        self.memory.put(self.driver, at | wrap << 15, 2)


def table_of(parts: Sequence[Part], *, chained: bool) -> bytes:
    """An indirect table: of a split ring, in which flags and the next one follow; or of a packed
    ring, in which an ID and flags do.
    """
    rows = []
    for n, (iova, length, writes) in enumerate(parts):
        more = chained and n < len(parts) - 1
        flags = writes * 2 | more
        rows.append(
            struct.pack("<QIHH", iova, length, *((flags, n + 1 if more else 0) if chained else (0xAAAA, flags)))
        )
    return b"".join(rows)


class SlowDisk(Disk):
    """Nothing of it is in memory. `log`: what was done to it; `errors`: what fails, and how."""

    def __init__(self, file: str | None = None, *, size: int | None = None, readonly: bool = False) -> None:
        super().__init__(file, size=size, readonly=readonly)
        self.is_memory = False
        self.at_once = 1 << 20  # a flag that there is not
        self.log: list[str] = []
        self.errors: dict[str, OSError] = {}

    def _note(self, what: str) -> None:
        self.log.append(what)
        if what in self.errors:
            raise self.errors[what]

    def read(self, position: int, length: int) -> bytes:
        self._note("read")
        return super().read(position, length)

    def write(self, position: int, data: bytes | bytearray | memoryview) -> None:
        self._note("write")
        super().write(position, data)

    def flush(self) -> None:
        self._note("flush")

    def zero(self, position: int, length: int, *, free: bool) -> None:
        self._note("zero")
        super().zero(position, length, free=free)

    def discard(self, position: int, length: int) -> None:
        self._note("discard")
        super().discard(position, length)


class SlowStorage:
    """It has slow disks."""

    def open(self, file: str | None, size: int | None, *, readonly: bool) -> Disk:
        return SlowDisk(file, size=size, readonly=readonly)


@dataclass
class Done:
    """A request that is finished."""

    status: int
    data: bytes  # what was read
    written: int  # as the ring says


class Driver:
    """Drives a block device. `features`: those that it accepts, with VERSION_1; `uses`: how
    many queues; `slow`: a slow disk; `depth`: descriptors of a ring; `align`: 4: the used rings are
    aligned to no more.
    """

    def __init__(
        self,
        features: int = 0,
        *,
        uses: int = 1,
        depth: int = 16,
        mapped: bool = True,
        msix: bool = True,
        align: int = 16,
        start: bool = True,
        slow: bool = False,
        kind: type[VirtioBlk] = VirtioBlk,
        **keys: Any,
    ) -> None:
        self.rig = Rig(kind, storage=SlowStorage() if slow else None, **{"size": 1 << 20, **keys})
        assert isinstance(self.rig.function, VirtioBlk)
        disk = self.rig.function.disk
        assert isinstance(disk, Disk)
        self.disk: Disk = disk
        self.ioas, origin = self.rig.attach()
        origin.mapped = mapped
        map_(self.ioas, origin, 0, PAGES * P, BASE)
        self.memory = Memory(origin)
        self.features = features | VERSION_1
        self.uses, self.depth, self.align = uses, depth, align
        self.said: list[str] = []
        self.rig.function.why = self.said.append
        self.rig.master()
        if msix:
            self.rig.eventfds(v.VFIO_PCI_MSIX_IRQ_INDEX, 0, *range(10, 11 + uses))
        if start:
            self.start()

    def close(self) -> None:
        self.disk.close()

    # --- registers ---

    def get(self, offset: int, size: int) -> int:
        return self.rig.load(0, offset, size)

    def set(self, offset: int, size: int, value: int) -> None:
        self.rig.store(0, offset, size, value)

    @property
    def status(self) -> int:
        return self.get(STATUS, 1)

    def offered(self) -> int:
        found = 0
        for word in (0, 1):
            self.set(0x00, 4, word)
            found |= self.get(0x04, 4) << 32 * word
        return found

    def negotiate(self) -> None:
        """Up to FEATURES_OK, which may be refused."""
        self.set(STATUS, 1, 0)
        assert self.status == 0
        self.set(STATUS, 1, 1)
        self.set(STATUS, 1, 3)
        for word in (0, 1):
            self.set(0x08, 4, word)
            self.set(0x0C, 4, self.features >> 32 * word & 0xFFFFFFFF)
        self.set(STATUS, 1, 11)

    def start(self) -> None:
        self.negotiate()
        assert self.status == 11
        kind = Packed if self.features & PACKED else Split
        events = bool(self.features & EVENT_IDX)
        self.rings: list[Split | Packed] = [
            kind(self.memory, self.depth, events, align=self.align) for _ in range(self.uses)
        ]
        self.set(0x10, 2, 0)
        for index in range(self.uses):
            self.enable(index)
        self.set(STATUS, 1, 15)
        self.pending: list[dict[int, tuple[int, int, int]]] = [{} for _ in range(self.uses)]

    def enable(self, index: int) -> None:
        ring = self.rings[index]
        self.set(0x16, 2, index)
        self.set(0x18, 2, self.depth)
        self.set(0x1A, 2, index + 1)
        for offset, iova in ((0x20, ring.descriptors), (0x28, ring.driver), (0x30, ring.device)):
            self.set(offset, 4, iova & 0xFFFFFFFF)
            self.set(offset + 4, 4, iova >> 32)
        self.set(0x1C, 2, 1)

    def notify(self, queue: int = 0) -> None:
        if self.features & DATA:
            self.set(NOTIFY + 4 * queue, 4, queue)
        else:
            self.set(NOTIFY + 4 * queue, 2, queue)

    def interrupts(self, queue: int = 0) -> int:
        """Since the last time."""
        return self.rig.table[11 + queue].take()

    def config_interrupts(self) -> int:
        return self.rig.table[10].take()

    # --- requests ---

    def header(self, kind: int, sector: int = 0) -> int:
        at = self.memory.take(16)
        self.memory.write(at, struct.pack("<IIQ", kind, 0, sector))
        return at

    def send(
        self,
        kind: int,
        sector: int = 0,
        out: bytes = b"",
        room: int = 0,
        *,
        queue: int = 0,
        pieces: int = 1,
        indirect: bool = False,
    ) -> int:
        """Make a request available: its data in so many pieces. What it is known by."""
        parts: list[Part] = [(self.header(kind, sector), 16, False)]
        place = self.memory.take(max(len(out), room, 1))
        self.memory.write(place, out)
        for length, writes in ((len(out), False), (room, True)):
            step = -(-length // pieces) or 1
            parts += [(place + at, min(step, length - at), writes) for at in range(0, length, step)]
        status = self.memory.take(1)
        self.memory.write(status, b"\xee")
        parts.append((status, 1, True))
        table = self.memory.take(16 * len(parts)) if indirect else None
        number = self.rings[queue].add(parts, table)
        self.pending[queue][number] = (place, room, status)
        return number

    def collect(self, queue: int = 0) -> dict[int, Done]:
        """What is finished, in the order in which it was used."""
        found = {}
        for number, written in self.rings[queue].used():
            place, room, status = self.pending[queue].pop(number)
            found[number] = Done(self.memory.read(status, 1)[0], self.memory.read(place, room), written)
        if self.rings[queue].events:
            self.rings[queue].wish(True)  # the next one
        return found

    def ask(self, kind: int, sector: int = 0, out: bytes = b"", room: int = 0, **how: Any) -> Done:
        """One request, from beginning to end."""
        number = self.send(kind, sector, out, room, **how)
        self.notify(how.get("queue", 0))
        self.rig.clock.pass_()
        return self.collect(how.get("queue", 0))[number]
