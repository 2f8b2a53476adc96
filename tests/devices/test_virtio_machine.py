"""Requests of all kinds, good and bad, through both kinds of rings, against a disk that is an array
of bytes: what is told of each, what is read, which interrupts come, and that none is forgotten.
Between them: rings that make no sense, resets, and stores to any register.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from iommud.models.virtio.blk import VirtioBlk
from tests.examples import examples

from .virtio import (
    DATA,
    DISCARD,
    EVENT_IDX,
    EVERY,
    FLUSH,
    IN_ORDER,
    INDIRECT,
    NOWHERE,
    PACKED,
    PLATFORM,
    RESET,
    WCE,
    ZEROES,
    Driver,
    Split,
)

OK, IOERR, UNSUPP = 0, 1, 2
IN, OUT, FLUSH_, GET_ID, DISCARD_, ZEROES_ = 0, 1, 4, 8, 11, 13
SECTORS = 64
QUEUES = 2
NEEDS_RESET = 0x40
NEED = {FLUSH_: FLUSH, DISCARD_: DISCARD, ZEROES_: ZEROES}

ring_features = st.sets(st.sampled_from([PACKED, EVENT_IDX, INDIRECT, IN_ORDER, DATA, PLATFORM, RESET])).map(sum)
blk_features = st.sets(st.sampled_from([FLUSH, WCE, DISCARD, ZEROES])).map(sum)
queues = st.integers(0, QUEUES - 1)
sectors = st.one_of(st.integers(0, SECTORS + 2), st.sampled_from([(1 << 63) - 1, (1 << 64) - 1]))
row = st.tuples(sectors, st.one_of(st.integers(0, 8), st.just(1 << 31)), st.sampled_from([0, 0, 0, 1, 2]))


class Asked:
    """A request that is under way, and what is expected of it."""

    def __init__(self, kind: int, status: int, touched: list[tuple[int, int]], room: int, data: bytes) -> None:
        self.kind, self.status, self.touched, self.room, self.data = kind, status, touched, room, data

    @property
    def changes(self) -> bool:
        return self.kind in (OUT, DISCARD_, ZEROES_)


class Machine(RuleBasedStateMachine):
    driver: Driver

    @initialize(
        slow=st.booleans(),
        mapped=st.booleans(),
        depth=st.sampled_from([4, 8, 16]),
        align=st.sampled_from([4, 16]),
        features=ring_features,
        own=blk_features,
    )
    def begin(self, slow: bool, mapped: bool, depth: int, align: int, features: int, own: int) -> None:
        how: dict[str, Any] = {"slow": slow, "mapped": mapped, "depth": depth, "align": align}
        self.driver = Driver(features | own, uses=QUEUES, size=SECTORS * 512, **how)
        self.disk = bytearray(SECTORS * 512)
        self.restarted()

    def restarted(self) -> None:
        self.under_way: list[dict[int, Asked]] = [{} for _ in range(QUEUES)]
        self.order: list[list[int]] = [[] for _ in range(QUEUES)]
        self.wished: list[int | None] = [0] * QUEUES  # buffers after which an interrupt is due; None: none is
        for queue in range(QUEUES):
            self.driver.interrupts(queue)
        self.driver.config_interrupts()
        self.driver.said.clear()

    def teardown(self) -> None:
        if not hasattr(self, "driver"):
            return
        for queue in range(QUEUES):
            self.kick(queue)
        self.driver.rig.clock.pass_()
        for queue in range(QUEUES):
            self.collect(queue, 0, True)
            assert not self.under_way[queue], "none is forgotten"
        assert self.driver.disk.read(0, SECTORS * 512) == self.disk
        assert self.driver.rig.clock.waiting == 0
        self.driver.close()

    # --- requests ---

    def is_free(self, touched: list[tuple[int, int]], changes: bool) -> bool:
        """Nothing under way would make the answer a matter of luck."""
        return not any(
            (changes or other.changes) and at < other_at + other_length and other_at < at + length
            for queue in self.under_way
            for other in queue.values()
            for other_at, other_length in other.touched
            for at, length in touched
        )

    def ask(
        self,
        asked: Asked,
        sector: int,
        out: bytes,
        queue: int,
        pieces: int,
        indirect: bool,
    ) -> None:
        driver = self.driver
        indirect = indirect and bool(driver.features & INDIRECT)
        size = max(len(out), asked.room)
        slots = 1 if indirect else 2 + -(-size // (-(-size // pieces) or 1))
        if driver.rings[queue].room < slots or not self.is_free(asked.touched, asked.changes):
            return
        number = driver.send(asked.kind, sector, out, asked.room, queue=queue, pieces=pieces, indirect=indirect)
        self.under_way[queue][number] = asked
        self.order[queue].append(number)

    @rule(
        queue=queues,
        sector=sectors,
        length=st.sampled_from([0, 1, 511, 512, 1024, 4096, 4097]),
        writes=st.booleans(),
        pieces=st.integers(1, 5),
        indirect=st.booleans(),
        byte=st.integers(0, 255),
    )
    def move(self, queue: int, sector: int, length: int, writes: bool, pieces: int, indirect: bool, byte: int) -> None:
        good = not length % 512 and sector * 512 + length <= SECTORS * 512
        data = bytes([byte, byte ^ 0xFF, *range(255)] * 20)[:length]
        touched = [(sector * 512, length)] if good else []
        asked = Asked(OUT if writes else IN, OK if good else IOERR, touched, 0 if writes else length, data)
        self.ask(asked, sector, data if writes else b"", queue, pieces, indirect)

    @rule(
        queue=queues, zeroes=st.booleans(), rows=st.lists(row, max_size=3), more=st.sampled_from([b"", b"", b"", b"x"])
    )
    def free(self, queue: int, zeroes: bool, rows: list[tuple[int, int, int]], more: bytes) -> None:
        kind = ZEROES_ if zeroes else DISCARD_
        status = OK
        if not self.driver.features & NEED[kind]:
            status = UNSUPP
        elif more or not rows:
            status = IOERR
        else:
            for sector, count, flags in rows:
                if flags & ~(1 if zeroes else 0):
                    status = UNSUPP
                elif sector + count > SECTORS:
                    status = IOERR
                if status:
                    break
        touched = [(sector * 512, count * 512) for sector, count, _ in rows if status == OK]
        out = b"".join(struct.pack("<QII", *each) for each in rows) + more
        self.ask(Asked(kind, status, touched, 0, b""), 0, out, queue, 1, False)

    @rule(queue=queues, kind=st.sampled_from([FLUSH_, GET_ID, 2, 10, 14, 0xFFFF_FFFF]))
    def other(self, queue: int, kind: int) -> None:
        status = OK if kind == GET_ID or self.driver.features & NEED.get(kind, 0) else UNSUPP
        room = 20 if kind == GET_ID else 0
        data = b"iommud-0000:e0:00.0\0" if kind == GET_ID else b""
        self.ask(Asked(kind, status, [], room, data), 0, b"", queue, 1, False)

    @rule(queue=queues, writes=st.booleans())
    def fault(self, queue: int, writes: bool) -> None:
        """Data that cannot be reached."""
        ring, driver = self.driver.rings[queue], self.driver
        if ring.room < 3:
            return
        place = driver.memory.take(1)
        header = driver.header(OUT if writes else IN)
        number = ring.add([(header, 16, False), (NOWHERE, 512, not writes), (place, 1, True)])
        driver.pending[queue][number] = (place, 0, place)
        self.under_way[queue][number] = Asked(OUT, IOERR, [], 0 if writes else 512, b"")
        self.order[queue].append(number)

    # --- who tells whom ---

    @rule(queue=queues)
    def kick(self, queue: int) -> None:
        if self.driver.rings[queue].wants_notification():
            self.driver.notify(queue)

    @rule(queue=queues)
    def kick_unasked(self, queue: int) -> None:
        self.driver.notify(queue)

    @precondition(lambda self: self.driver.rig.clock.waiting)
    @rule()
    def step(self) -> None:
        self.driver.rig.clock.step()

    @rule(queue=queues, ahead=st.integers(0, 3), wish=st.booleans())
    def collect(self, queue: int, ahead: int, wish: bool) -> None:
        driver = self.driver
        ring = driver.rings[queue]
        events = driver.interrupts(queue)
        found = driver.collect(queue)
        if self.wished[queue] is None:
            assert not events
        elif len(found) > (self.wished[queue] or 0):
            assert events, "the driver was not told"
        for number, done in found.items():
            asked = self.under_way[queue].pop(number)
            first = self.order[queue][0]
            assert number == first or not driver.features & IN_ORDER
            self.order[queue].remove(number)
            assert done.status == asked.status
            self.compare(asked, done.data, done.written)
        if not (ring.events and isinstance(ring, Split)):
            ahead = 0
        ring.wish(wish, ahead)
        self.wished[queue] = ahead if wish else None

    def compare(self, asked: Asked, data: bytes, written: int) -> None:
        assert written == (asked.room + 1 if asked.status == OK or not asked.room else 0)
        if asked.status != OK:
            return
        if asked.kind == OUT:
            for at, length in asked.touched:
                self.disk[at : at + length] = asked.data
        elif asked.changes:
            for at, length in asked.touched:
                self.disk[at : at + length] = bytes(length)
        elif asked.kind == IN:
            for at, length in asked.touched:
                assert data == self.disk[at : at + length]
        else:
            assert data == asked.data

    # --- what drivers do wrong, and how they begin again ---

    def restart(self, flr: bool, features: int) -> None:
        driver = self.driver
        driver.features = features | 1 << 32
        if flr:
            driver.rig.vfio.reset()
            driver.rig.master()
            driver.rig.eventfds(2, 0, 10, 11, 12)
        driver.start()
        driver.rig.clock.pass_()  # what is in threads still may change the disk
        self.disk = bytearray(driver.disk.read(0, SECTORS * 512))
        self.restarted()

    @rule(flr=st.booleans(), features=ring_features, own=blk_features)
    def reset(self, flr: bool, features: int, own: int) -> None:
        self.restart(flr, features | own)

    @rule(
        queue=queues,
        words=st.lists(st.integers(0, 0xFFFF), min_size=8, max_size=64),
        at=st.integers(0, 600),
        part=st.sampled_from(["descriptors", "driver", "device"]),
        flr=st.booleans(),
    )
    def scribble(self, queue: int, words: list[int], at: int, part: str, flr: bool) -> None:
        """Anything at all in a ring: the device survives, and begins anew."""
        driver = self.driver
        iova = getattr(driver.rings[queue], part) + at % 128 // 2 * 2
        driver.memory.put(iova, *words)
        driver.notify(queue)
        driver.rig.clock.pass_()
        assert driver.status in (15, 15 | NEEDS_RESET)
        if driver.status & NEEDS_RESET:
            assert driver.config_interrupts() == 1
            assert len(driver.said) == 1
        self.restart(flr, driver.features)

    @rule(stores=st.lists(st.tuples(st.integers(0, 0x7FFF), st.sampled_from([1, 2, 4, 8]), st.integers(0)), max_size=9))
    def store_anywhere(self, stores: Sequence[tuple[int, int, int]]) -> None:
        function = self.driver.rig.function
        for offset, size, value in stores:
            function.write_bar(0, offset % 0x4000, size, value & (1 << 8 * size) - 1)
            assert 0 <= function.read_bar(0, offset % 0x4000, size) < 1 << 8 * size
        self.restart(False, self.driver.features)

    @invariant()
    def it_lives(self) -> None:
        if hasattr(self, "driver"):
            assert self.driver.status == 15, self.driver.said


TestMachine = Machine.TestCase
TestMachine.settings = examples(300, steps=40)


def agrees(driver: Driver) -> bool:
    """Whether what is read has the checksum of what was written."""
    data = os.urandom(16 << 10)
    driver.ask(OUT, 5, data, pieces=3)
    found = driver.ask(IN, 5, room=len(data), pieces=2).data
    return hashlib.sha256(found).digest() == hashlib.sha256(data).digest()


class Wrong(VirtioBlk):
    """One bit of one byte of its DMA is wrong, in one of the ways that data goes."""

    way = ""

    def dma_file(self, fd: int, offset: int, parts: Sequence[tuple[int, int]], *, write: bool, flags: int = 0) -> int:
        if self.way != ("to memory" if write else "from memory"):
            return super().dma_file(fd, offset, parts, write=write, flags=flags)
        return 0  # it is to be done by the others

    def dma_read(self, iova: int, length: int) -> bytes:
        data = super().dma_read(iova, length)
        return self._spoil(data) if self.way == "from memory" and length >= 4096 else data

    def dma_write(self, iova: int, data: bytes | bytearray | memoryview) -> None:
        super().dma_write(iova, self._spoil(bytes(data)) if self.way == "to memory" and len(data) >= 4096 else data)

    def _spoil(self, data: bytes) -> bytes:
        self.way = ""
        return data[:1234] + bytes([data[1234] ^ 0x10]) + data[1235:]


@pytest.mark.parametrize("features", [0, PACKED], ids=["split", "packed"])
def test_a_wrong_byte_is_noticed(features: int) -> None:
    driver = Driver(features | EVERY, kind=Wrong)
    assert isinstance(driver.rig.function, Wrong)
    assert agrees(driver)
    for way in "from memory", "to memory":
        driver.rig.function.way = way
        assert not agrees(driver)
        assert driver.rig.function.way == "", "it went that way"
        assert agrees(driver)
    driver.close()
