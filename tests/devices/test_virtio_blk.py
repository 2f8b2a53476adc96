"""What a block device answers to requests."""

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from iommud.models.virtio.request import DISCARD_SECTORS, RANGES, SEGMENTS, ZEROES_SECTORS
from iommud.models.virtio.service import PIECE, TURN, WINDOW
from tests.engine.fakes import P

from .virtio import (
    BASE,
    DEVICE,
    DISCARD,
    EVENT_IDX,
    EVERY,
    FLUSH,
    IN_ORDER,
    INDIRECT,
    NOWHERE,
    PACKED,
    RO,
    STATUS,
    WCE,
    ZEROES,
    Driver,
    SlowDisk,
)

OK, IOERR, UNSUPP = 0, 1, 2
IN, OUT, FLUSH_, GET_ID, DISCARD_, ZEROES_ = 0, 1, 4, 8, 11, 13
RINGS = {
    "split": 0,
    "packed": PACKED,
    "split, events": EVENT_IDX,
    "packed, events": PACKED | EVENT_IDX,
    "split, in order": IN_ORDER | INDIRECT,
    "packed, in order": PACKED | IN_ORDER | INDIRECT,
}


@pytest.fixture(params=RINGS)
def rings(request: pytest.FixtureRequest) -> int:
    return RINGS[request.param]


@pytest.fixture(params=["memory", "file"])
def file(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    return str(tmp_path / "disk.img") if request.param == "file" else None


@pytest.fixture
def driver(rings: int, file: str | None) -> Iterator[Driver]:
    made = Driver(rings | EVERY, file=file)
    yield made
    made.close()


def ranges(*rows: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QII", *row) for row in rows)


def test_what_was_written_is_read(driver: Driver) -> None:
    data = bytes(range(256)) * 8
    done = driver.ask(OUT, 3, data)
    assert (done.status, done.written) == (OK, 1)
    assert driver.disk.read(3 * 512, len(data)) == data
    done = driver.ask(IN, 2, room=6 * 512)
    assert (done.status, done.written) == (OK, 6 * 512 + 1)
    assert done.data == bytes(512) + data + bytes(512)
    assert driver.interrupts() == 2


@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "not_mapped"])
@pytest.mark.parametrize("slow", [False, True], ids=["at_once", "in_a_thread"])
def test_a_request_is_cut_as_the_driver_likes(rings: int, mapped: bool, slow: bool) -> None:
    """Header, data and status may lie in any number of descriptors, and share them."""
    driver = Driver(rings | EVERY, mapped=mapped, slow=slow)
    data = os.urandom(1024)
    memory, ring = driver.memory, driver.rings[0]
    place, answer = memory.take(16 + 1024 + 1), memory.take(1024 + 1)
    memory.write(place, struct.pack("<IIQ", OUT, 0, 5) + data)
    ring.add([(place, 16 + 1024, False), (place + 16 + 1024, 1, True)])
    driver.notify()
    driver.rig.clock.pass_()
    assert [length for _, length in ring.used()] == [1]
    assert driver.disk.read(5 * 512, 1024) == data
    memory.write(place, struct.pack("<IIQ", IN, 0, 5))
    header = [(place, 4, False), (place + 4, 0, False), (place + 4, 1, False), (place + 5, 11, False)]
    ring.add([*header, (answer, 511, True), (answer + 511, 514, True)])
    driver.notify()
    driver.rig.clock.pass_()
    assert [length for _, length in ring.used()] == [1025]
    assert memory.read(answer, 1025) == data + b"\0"
    driver.close()


def test_flush_and_identity(driver: Driver) -> None:
    assert driver.ask(FLUSH_).status == OK
    done = driver.ask(GET_ID, room=20)
    assert (done.status, done.data, done.written) == (OK, b"iommud-0000:e0:00.0\0", 21)
    done = driver.ask(GET_ID, room=7)
    assert (done.status, done.data, done.written) == (OK, b"iommud-", 8)
    done = driver.ask(GET_ID, room=30)
    assert (done.status, done.data[:20], done.written) == (OK, b"iommud-0000:e0:00.0\0", 20), "a hole before the status"


def test_a_serial_number_of_ones_own() -> None:
    driver = Driver(serial="0123456789abcdefghij")
    assert driver.ask(GET_ID, room=20).data == b"0123456789abcdefghij"
    driver.close()


def test_ranges_become_zeros(driver: Driver) -> None:
    driver.disk.write(0, b"\xaa" * 64 * 512)
    assert driver.ask(ZEROES_, out=ranges((1, 2, 0), (10, 8, 1), (63, 0, 0))).status == OK
    assert driver.ask(DISCARD_, out=ranges((32, 16, 0))).status == OK
    expect = bytearray(b"\xaa" * 64 * 512)
    for sector, count in ((1, 2), (10, 8), (32, 16)):
        expect[sector * 512 : (sector + count) * 512] = bytes(count * 512)
    assert driver.ask(IN, room=64 * 512).data == bytes(expect)


END = (1 << 20) // 512


@pytest.mark.parametrize(
    ("kind", "sector", "out", "room", "status"),
    [
        (IN, END, b"", 512, IOERR),
        (IN, END - 1, b"", 1024, IOERR),
        (IN, END - 1, b"", 512, OK),
        (IN, END, b"", 0, OK),
        (IN, 1 << 63, b"", 512, IOERR),
        (OUT, (1 << 64) - 1, bytes(512), 0, IOERR),
        (OUT, END - 1, bytes(1024), 0, IOERR),
        (OUT, END - 1, bytes(512), 0, OK),
        (IN, 0, b"", 511, IOERR),
        (OUT, 0, bytes(513), 0, IOERR),
        (2, 0, b"", 0, UNSUPP),
        (10, 0, b"", 20, UNSUPP),
        (14, 0, ranges((0, 1, 0)), 0, UNSUPP),
        (0xFFFFFFFF, 0, b"", 0, UNSUPP),
        (FLUSH_, 0, b"data", 4, OK),
        (DISCARD_, 0, b"", 0, IOERR),
        (DISCARD_, 0, bytes(15), 0, IOERR),
        (DISCARD_, 0, ranges((0, 1, 0)) + b"x", 0, IOERR),
        (DISCARD_, 0, ranges(*[(0, 1, 0)] * RANGES), 0, OK),
        (DISCARD_, 0, ranges(*[(0, 1, 0)] * (RANGES + 1)), 0, IOERR),
        (DISCARD_, 0, ranges((0, DISCARD_SECTORS + 1, 0)), 0, IOERR),
        (DISCARD_, 0, ranges((END, 1, 0)), 0, IOERR),
        (DISCARD_, 0, ranges((0, 1, 0), ((1 << 64) - 1, 1, 0)), 0, IOERR),
        (DISCARD_, 0, ranges((0, 1, 1)), 0, UNSUPP),
        (ZEROES_, 0, ranges((0, 1, 2)), 0, UNSUPP),
        (ZEROES_, 0, ranges((0, 1, 0), (0, 1, 0x80000000)), 0, UNSUPP),
        (ZEROES_, 0, ranges((0, ZEROES_SECTORS + 1, 0)), 0, IOERR),
        (ZEROES_, 0, ranges((END - 1, 2, 1)), 0, IOERR),
    ],
)
def test_each_has_its_status(driver: Driver, kind: int, sector: int, out: bytes, room: int, status: int) -> None:
    driver.disk.write(0, b"\x55" * (1 << 20))
    done = driver.ask(kind, sector, out, room)
    assert done.status == status
    assert done.written == (room + 1 if not room or (kind == IN and status == OK) else 0)
    if status != OK:
        assert driver.disk.read(0, 1 << 20) == b"\x55" * (1 << 20), "all are looked at before any is done"


def test_too_many_segments() -> None:
    driver = Driver(INDIRECT | EVERY, size=1 << 20)
    driver.disk.write(0, os.urandom(1 << 20))
    done = driver.ask(IN, 0, room=SEGMENTS * 512, pieces=SEGMENTS, indirect=True)
    assert (done.status, done.data) == (OK, driver.disk.read(0, SEGMENTS * 512))
    assert driver.ask(IN, 0, room=(SEGMENTS + 1) * 512, pieces=SEGMENTS + 1, indirect=True).status == IOERR
    driver.close()


def test_features_that_were_not_accepted_are_not_there() -> None:
    driver = Driver(0)
    for kind, out in ((FLUSH_, b""), (DISCARD_, ranges((0, 1, 0))), (ZEROES_, ranges((0, 1, 0)))):
        assert driver.ask(kind, out=out).status == UNSUPP
    driver.close()


def test_one_that_is_readonly(tmp_path: Path, rings: int) -> None:
    image = tmp_path / "disk.img"
    image.write_bytes(b"\x77" * 8192)
    driver = Driver(rings | RO | FLUSH | WCE, file=str(image), size=None, readonly=True)
    assert driver.offered() & (RO | DISCARD | ZEROES) == RO
    assert driver.ask(OUT, 0, bytes(512)).status == IOERR
    assert driver.ask(OUT, 0).status == IOERR
    assert driver.ask(FLUSH_).status == OK
    assert driver.ask(DISCARD_, out=ranges((0, 1, 0))).status == UNSUPP
    assert driver.ask(IN, 0, room=8192).data == b"\x77" * 8192
    driver.close()
    assert image.read_bytes() == b"\x77" * 8192


def test_a_request_without_a_header(driver: Driver) -> None:
    memory, ring = driver.memory, driver.rings[0]
    status = memory.take(1)
    for readable in ([], [(memory.take(16), 15, False)], [(NOWHERE, 16, False)]):
        memory.write(status, b"\xee")
        ring.add([*readable, (status, 1, True)])
        driver.notify()
        driver.rig.clock.pass_()
        assert [length for _, length in ring.used()] == [1]
        assert memory.read(status, 1)[0] == IOERR


def test_data_that_cannot_be_reached(driver: Driver) -> None:
    """It is the request's error, and not the device's."""
    memory, ring = driver.memory, driver.rings[0]
    status, good = memory.take(1), memory.take(512)
    edge = BASE + 1024 * P - 512  # half of it is mapped
    for kind, iova in ((IN, NOWHERE), (OUT, NOWHERE), (IN, edge), (OUT, edge), (IN, (1 << 64) - 512)):
        writes = kind == IN
        data = [(good, 512, writes), (iova, 1024, writes)]
        ring.add([(driver.header(kind), 16, False), *data, (status, 1, True)])
        memory.write(status, b"\xee")
        driver.notify()
        driver.rig.clock.pass_()
        assert [length for _, length in ring.used()] == [0 if writes else 1]
        assert memory.read(status, 1)[0] == IOERR
    ring.add([(driver.header(GET_ID), 16, False), (NOWHERE, 20, True), (status, 1, True)])
    ring.add([(driver.header(DISCARD_), 16, False), (NOWHERE, 16, False), (status, 1, True)])
    driver.notify()
    driver.rig.clock.pass_()
    assert [length for _, length in ring.used()] == [0, 1]
    assert memory.read(status, 1)[0] == IOERR
    assert driver.status == 15
    assert driver.ask(IN, room=512).status == OK


def test_the_configuration() -> None:
    driver = Driver(EVERY, size=(1 << 20) + 512, lba=4096, queues=2)
    read = b"".join(driver.get(DEVICE + at, 1).to_bytes(1, "little") for at in range(60))
    assert struct.unpack("<QII4xIBBHIBxHIIIIIB3x", read) == (
        END,
        PIECE,
        SEGMENTS,
        4096,
        *(0, 0, 1, 0),
        1,
        2,
        *(DISCARD_SECTORS, RANGES, 8),
        *(ZEROES_SECTORS, RANGES, 1),
    )
    assert driver.get(DEVICE, 8) == END
    assert driver.ask(IN, END, room=512).status == IOERR, "the rest of a block is not there"
    assert driver.ask(IN, 1, room=512).status == OK, "a block is a hint"
    driver.close()
    driver = Driver(readonly=True)
    assert driver.get(DEVICE + 20, 4) == 512
    assert driver.get(DEVICE + 24, 2) == 3
    assert [driver.get(DEVICE + at, 4) for at in range(36, 60, 4)] == [0] * 6
    driver.close()


@pytest.mark.parametrize(
    ("features", "writeback", "flushes"),
    [
        (0, 1, True),
        (FLUSH, 1, False),
        (WCE, 0, True),
        (WCE | FLUSH, 1, False),
    ],
)
def test_when_writes_are_safe(features: int, writeback: int, flushes: bool) -> None:
    driver = Driver(features, slow=True)
    disk = driver.disk
    assert isinstance(disk, SlowDisk)
    assert driver.get(DEVICE + 32, 1) == writeback
    driver.ask(OUT, 0, bytes(512))
    assert disk.log == ["write", "flush"] if flushes else ["write"]
    driver.set(DEVICE + 32, 1, 1 - writeback)
    if features & WCE:
        disk.log.clear()
        assert driver.get(DEVICE + 32, 1) == 1 - writeback
        driver.ask(OUT, 0, bytes(512))
        assert disk.log == (["write"] if flushes else ["write", "flush"])
        driver.set(STATUS, 1, 0)
        assert driver.get(DEVICE + 32, 1) == 1
    else:
        assert driver.get(DEVICE + 32, 1) == writeback
    driver.close()


def test_nothing_waits_for_the_disk_while_the_driver_waits(rings: int) -> None:
    driver = Driver(rings | EVERY, slow=True)
    disk = driver.disk
    assert isinstance(disk, SlowDisk)
    sent = [
        driver.send(OUT, 0, b"\x11" * 1024),
        driver.send(IN, 8, room=512),
        driver.send(FLUSH_),
        driver.send(ZEROES_, out=ranges((0, 1, 0))),
    ]
    driver.notify()
    assert (disk.log, driver.collect()) == ([], {})
    for _ in sent:
        driver.rig.clock.step()
    assert disk.log == ["write", "read", "flush", "zero"]
    assert driver.collect() == {}, "threads do not touch the driver's memory"
    identity = driver.send(GET_ID, room=20)
    driver.notify()
    assert list(driver.collect()) == ([] if rings & IN_ORDER else [identity]), "which need not wait"
    assert driver.interrupts() == (0 if rings & IN_ORDER else 1)
    driver.rig.clock.pass_()
    done = driver.collect()
    assert list(done) == ([*sent, identity] if rings & IN_ORDER else sent)
    assert {each.status for each in done.values()} == {OK}
    assert driver.interrupts() == (1 if rings & EVENT_IDX else 4)
    assert disk.read(0, 1024) == bytes(512) + b"\x11" * 512
    driver.close()


def test_an_error_of_the_disk(rings: int) -> None:
    driver = Driver(rings | EVERY, slow=True)
    disk = driver.disk
    assert isinstance(disk, SlowDisk)
    for what, kind, out, room in (
        ("write", OUT, bytes(512), 0),
        ("read", IN, b"", 512),
        ("flush", FLUSH_, b"", 0),
        ("zero", ZEROES_, ranges((0, 1, 0)), 0),
    ):
        disk.errors = {what: OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))}
        done = driver.ask(kind, 0, out, room)
        assert (done.status, done.written) == (IOERR, 0 if what == "read" else 1)
        assert driver.said.pop() == "virtio-blk at 0000:e0:00.0: memory: No space left on device"
    driver.set(DEVICE + 32, 1, 0)
    disk.errors = {"flush": OSError(errno.EIO, os.strerror(errno.EIO))}
    assert driver.ask(OUT, 0, bytes(512)).status == IOERR, "it is not safe"
    disk.errors = {}
    assert driver.ask(OUT, 0, bytes(512)).status == OK
    driver.close()


@pytest.mark.parametrize("slow", [False, True], ids=["at_once", "in_a_thread"])
@pytest.mark.parametrize("mapped", [True, False], ids=["mapped", "not_mapped"])
def test_large_requests_are_done_in_pieces(rings: int, slow: bool, mapped: bool) -> None:
    """Whatever a driver asks for, others have a turn, and little memory is needed."""
    driver = Driver(rings | EVERY, size=16 << 20, mapped=mapped, slow=slow)
    memory, ring = driver.memory, driver.rings[0]
    data = os.urandom(PIECE + 512)
    place, status = memory.take(len(data)), memory.take(2)
    memory.write(place, data)
    memory.write(status, b"\xee\xee")
    many = [(place, len(data), False)] * 4
    ring.add([(driver.header(OUT, 1), 16, False), *many, (status, 1, True)])
    ring.add([(driver.header(IN, 0), 16, False), (memory.take(512), 512, True), (status + 1, 1, True)])
    driver.notify()
    assert memory.read(status, 1) == b"\xee"
    driver.rig.clock.step()
    assert memory.read(status, 1) == b"\xee"
    driver.rig.clock.pass_()
    assert memory.read(status, 2) == b"\0\0"
    assert len(ring.used()) == 2
    assert driver.disk.read(512, 4 * len(data)) == data * 4
    driver.close()


def test_many_requests_leave_others_their_turn(rings: int) -> None:
    driver = Driver(rings | EVERY, size=16 << 20, depth=64)
    memory, ring = driver.memory, driver.rings[0]
    length = PIECE // 2
    place, status = memory.take(length), memory.take(1)
    for _ in range(16):
        ring.add([(driver.header(IN), 16, False), (place, length, True), (status, 1, True)])
    assert ring.wants_notification()
    driver.notify()
    done = len(ring.used())
    assert TURN // length - 1 <= done < 16
    assert not ring.wants_notification(), "it looks by itself"
    ring.add([(driver.header(IN), 16, False), (place, length, True), (status, 1, True)])
    assert not ring.wants_notification()
    driver.rig.clock.pass_()
    assert done + len(ring.used()) == 17
    ring.add([(driver.header(IN), 16, False), (place, length, True), (status, 1, True)])
    assert ring.wants_notification()
    driver.close()


def test_little_memory_is_kept_for_threads(rings: int) -> None:
    driver = Driver(rings | EVERY, size=16 << 20, depth=64, slow=True)
    memory, ring, function, disk = driver.memory, driver.rings[0], driver.rig.function, driver.disk
    read, write = function.dma_read, disk.write
    kept = [0]

    def dma_read(iova: int, length: int) -> bytes:
        kept.append(kept[-1] + (length if length == PIECE else 0))
        return read(iova, length)

    def written(position: int, data: bytes | bytearray | memoryview) -> None:
        kept.append(kept[-1] - len(data))
        write(position, data)

    function.dma_read, disk.write = dma_read, written  # type: ignore[method-assign]
    place, status = memory.take(PIECE), memory.take(1)
    for n in range(16):
        ring.add([(driver.header(OUT, 2048 * n), 16, False), (place, PIECE, False), (status, 1, True)])
        driver.notify()
    driver.rig.clock.pass_()
    assert len(ring.used()) == 16
    assert PIECE < max(kept) <= WINDOW + PIECE
    assert kept[-1] == 0
    driver.close()


def test_long_tables_leave_others_their_turn() -> None:
    """A driver can have a device look at 256 times 1024 descriptors, which takes a while."""
    driver = Driver(INDIRECT | EVERY, depth=64)
    memory, ring = driver.memory, driver.rings[0]
    name, table = memory.take(21), memory.take(1024 * 16)
    parts = [(driver.header(GET_ID), 16, False), *[(name, 0, True)] * 1021, (name, 20, True), (name + 20, 1, True)]
    for _ in range(64):
        ring.add(parts, table)
    driver.notify()
    assert 0 < len(ring.used()) < 32
    driver.rig.clock.pass_()
    assert ring.room == 64 - len(ring.chains)
    ring.used()
    assert ring.room == 64
    driver.close()


def test_no_old_write_comes_after_a_reset(rings: int) -> None:
    """What is in a thread cannot be called back. So the next driver's requests wait for it."""
    driver = Driver(rings | EVERY, slow=True)
    for how in "status", "FLR":
        driver.send(OUT, 0, b"\x11" * 512)
        driver.notify()
        driver.rig.clock.step()  # it is in a thread now
        if how == "status":
            driver.set(STATUS, 1, 0)
        else:
            driver.rig.vfio.reset()
            driver.rig.master()
            driver.rig.eventfds(2, 0, 10, 11)
        assert driver.status == 0
        driver.start()
        number = driver.send(GET_ID, room=20)
        driver.notify()
        assert driver.collect() == {}
        driver.rig.clock.pass_()
        assert driver.collect()[number].status == OK
        assert driver.interrupts() == 1
    assert driver.rig.clock.waiting == 0
    driver.close()
