"""The NVMe controller's commands that read and write blocks, on a file and in memory; where their
data can be; and what goes wrong.
"""

import hashlib
import os
import random
import struct
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.engine.mapping.io_pagetable import PROT_READ
from iommud.file.disk import Disk
from iommud.models.nvme import pointer
from iommud.models.nvme import wire as w
from iommud.pci import vfio_names as v
from tests.devices.nvme_driver import ALL, DATA, LIST, MEMORY, NOWHERE, PAGES, Driver, Queue
from tests.engine.fakes import P, map_
from tests.examples import examples

BLOCKS = 2048


class Disks:
    """A driver with one I/O queue, and the bytes that are behind it."""

    def __init__(self, driver: Driver) -> None:
        self.d = driver
        self.queue = driver.make_queue()
        self.disk: Disk = driver.rig.function._disk  # type: ignore[attr-defined]

    def bytes(self, slba: int, blocks: int, block: int = 512) -> bytes:
        return os.pread(self.disk.fd, blocks * block, slba * block)


def pattern(length: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length)


@pytest.fixture(params=["memory", "file", "file that waits"])
def on(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Disks]:
    """Of a file that waits nothing is in memory."""
    if request.param == "memory":
        yield Disks(Driver(size=BLOCKS * 512))
        return
    if request.param == "file that waits":
        monkeypatch.setattr(Disk, "read_now", lambda *_: None)
    made = Disks(Driver(file=str(tmp_path / "disk"), size=BLOCKS * 512, mapped=request.param == "file"))
    yield made
    made.disk.close()


def test_what_was_written_is_read(on: Disks) -> None:
    d, data = on.d, pattern(8 * 512)
    d.fill(DATA, data)
    assert d.write(on.queue, 16, 8).status == w.SUCCESS
    assert on.bytes(16, 8) == data
    assert (on.bytes(15, 1), on.bytes(24, 1)) == (bytes(512), bytes(512))
    assert d.read(on.queue, 16, 8, DATA + 2 * P).status == w.SUCCESS
    assert d.memory(DATA + 2 * P, 8 * 512) == data
    assert d.rig.table[11].take() == 2


def test_a_wrong_byte_of_dma_turns_the_checksum_red(on: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    d, data = on.d, pattern(8 * 512)
    d.fill(DATA, data)
    written = d.rig.function.dma_read
    monkeypatch.setattr(d.rig.function, "dma_file", lambda *_, **__: 0)
    monkeypatch.setattr(
        d.rig.function,
        "dma_read",
        lambda iova, length: (found := written(iova, length))[:-1] + bytes([found[-1] ^ (length == 8 * 512)]),
    )
    assert d.write(on.queue, 0, 8).status == w.SUCCESS
    assert hashlib.sha256(on.bytes(0, 8)).digest() != hashlib.sha256(data).digest()


@pytest.mark.parametrize("offset", [0, 512, 4092])
@pytest.mark.parametrize("pages", [1, 2, 3, 30, 128])
def test_prps_name_pages_in_any_order(on: Disks, offset: int, pages: int) -> None:
    d, length = on.d, pages * P
    data = pattern(length, pages)
    os.pwrite(on.disk.fd, data, 0)
    order = list(range(1, 140))
    random.Random(pages).shuffle(order)
    places = [DATA + P * page for page in order[: pages + bool(offset)]]
    first, *rest = places
    if len(rest) == 1:
        second = rest[0]
    else:
        second = LIST
        d.fill(LIST, struct.pack(f"<{len(rest)}Q", *rest))
    assert d.read(on.queue, 0, length // 512, first + offset, second).status == w.SUCCESS
    got = d.memory(first + offset, min(P - offset, length))
    for place in rest:
        got += d.memory(place, min(P, length - len(got)))
    assert got == data


def test_lists_of_prps_lead_to_lists(on: Disks) -> None:
    d, pages = on.d, 40
    data = pattern(pages * P)
    os.pwrite(on.disk.fd, data, 0)
    places = [DATA + P * page for page in range(10, 10 + pages)]
    # The list begins near a page's end: 5 entries, then the way to the rest.
    begin = LIST + P - 6 * 8
    d.fill(begin, struct.pack("<6Q", *places[1:6], LIST + 4096))
    d.fill(LIST + 4096, struct.pack(f"<{pages - 6}Q", *places[6:]))
    assert d.read(on.queue, 0, pages * 8, places[0], begin).status == w.SUCCESS
    assert d.memory(places[0], pages * P) == data


@pytest.mark.parametrize(
    ("prp1", "prp2", "pages", "entries", "status"),
    [
        (DATA + 2, 0, 1, [], w.PRP_OFFSET_INVALID),
        (DATA, DATA + P + 4, 2, [], w.PRP_OFFSET_INVALID),
        (DATA, LIST + 4, 3, [DATA, DATA], w.PRP_OFFSET_INVALID),
        (DATA, LIST, 3, [DATA, DATA + 8], w.PRP_OFFSET_INVALID),
        (NOWHERE, 0, 1, [], w.DATA_TRANSFER_ERROR),
        (DATA, NOWHERE, 2, [], w.DATA_TRANSFER_ERROR),
        (DATA, NOWHERE, 3, [], w.DATA_TRANSFER_ERROR),
        (DATA, LIST, 3, [DATA, NOWHERE], w.DATA_TRANSFER_ERROR),
        (DATA, LIST + P - 8, 4, [LIST + P - 8], w.PRP_OFFSET_INVALID),  # a list that leads to itself
    ],
)
def test_wrong_prps(on: Disks, prp1: int, prp2: int, pages: int, entries: list[int], status: int) -> None:
    on.d.fill(prp2 if LIST <= prp2 < LIST + P else LIST, struct.pack(f"<{len(entries)}Q", *entries))
    for do in (on.d.read, on.d.write):
        assert do(on.queue, 0, pages * 8, prp1, prp2).status == status


# --- SGLs ---


def sgl(*descriptors: tuple[int, int, int]) -> bytes:
    return b"".join(struct.pack("<QI3xB", *each) for each in descriptors)


def pointers(descriptor: tuple[int, int, int]) -> tuple[int, int]:
    low, high = struct.unpack("<QQ", sgl(descriptor))
    return low, high


def test_sgls_name_stretches_of_any_length(on: Disks) -> None:
    d, data = on.d, pattern(4096)
    os.pwrite(on.disk.fd, data, 0)
    assert d.read(on.queue, 0, 8, *pointers((DATA, 4096, 0)), flags=0x40).status == w.SUCCESS
    assert d.memory(DATA, 4096) == data
    d.fill(LIST, sgl((DATA + 1, 1000, 0), (0, 96, pointer.BIT_BUCKET), (LIST + 48, 48, pointer.LAST_SEGMENT)))
    d.fill(LIST + 48, sgl((DATA + P + 3, 2000, 0), (DATA + P + 2003, 500, 0), (DATA + 5 * P, 500, 0)))
    assert d.read(on.queue, 0, 8, *pointers((LIST, 48, pointer.SEGMENT)), flags=0x80).status == w.SUCCESS
    got = d.memory(DATA + 1, 1000), d.memory(DATA + P + 3, 2500), d.memory(DATA + 5 * P, 500)
    assert got == (data[:1000], data[1096:3596], data[3596:])


def test_bit_buckets_of_writes_are_ignored(on: Disks) -> None:
    d, data = on.d, pattern(512)
    d.fill(DATA, data)
    d.fill(LIST, sgl((DATA, 200, 0), (0, 5000, pointer.BIT_BUCKET), (DATA + 200, 312, 0)))
    assert d.write(on.queue, 3, 1, *pointers((LIST, 48, pointer.LAST_SEGMENT)), flags=0x40).status == w.SUCCESS
    assert on.bytes(3, 1) == data


@pytest.mark.parametrize(
    ("first", "segment", "status"),
    [
        ((DATA, 511, 0), [], w.SGL_LENGTH_INVALID),
        ((DATA, 513, 0), [], w.SGL_LENGTH_INVALID),
        ((DATA, 512, 0x40), [], w.SGL_TYPE_INVALID),
        ((DATA, 512, 0x01), [], w.SGL_TYPE_INVALID),
        ((LIST, 0, pointer.SEGMENT), [], w.SGL_SEGMENT_INVALID),
        ((LIST, 17, pointer.LAST_SEGMENT), [], w.SGL_SEGMENT_INVALID),
        ((LIST, 8192, pointer.LAST_SEGMENT), [], w.SGL_NUMBER_INVALID),
        ((LIST, 16, pointer.SEGMENT), [(DATA, 512, 0)], w.SGL_SEGMENT_INVALID),
        ((LIST, 16, pointer.LAST_SEGMENT), [(LIST, 16, pointer.SEGMENT)], w.SGL_SEGMENT_INVALID),
        ((LIST, 32, pointer.LAST_SEGMENT), [(LIST, 16, pointer.SEGMENT), (DATA, 512, 0)], w.SGL_SEGMENT_INVALID),
        ((LIST, 16, pointer.SEGMENT), [(LIST, 16, pointer.SEGMENT)], w.SGL_NUMBER_INVALID),  # for ever
        ((LIST, 16, pointer.LAST_SEGMENT), [(NOWHERE, 512, 0)], w.DATA_TRANSFER_ERROR),
        ((NOWHERE, 16, pointer.LAST_SEGMENT), [], w.DATA_TRANSFER_ERROR),
    ],
)
def test_wrong_sgls(on: Disks, first: tuple[int, int, int], segment: list[tuple[int, int, int]], status: int) -> None:
    on.d.fill(LIST, sgl(*segment))
    assert on.d.read(on.queue, 0, 1, *pointers(first), flags=0x40).status == status
    assert on.d.read(on.queue, 0, 1, DATA, flags=0xC0).status == w.INVALID_FIELD


# --- commands ---


def test_compare(on: Disks) -> None:
    d, data = on.d, pattern(1024)
    os.pwrite(on.disk.fd, data, 512)
    d.fill(DATA, data)
    assert d.do(on.queue, w.COMPARE, 1, DATA, 0, 1, 0, 1).status == w.SUCCESS
    d.fill(DATA + 1023, bytes([data[1023] ^ 1]))
    assert d.do(on.queue, w.COMPARE, 1, DATA, 0, 1, 0, 1).status == w.COMPARE_FAILURE
    assert d.do(on.queue, w.COMPARE, 1, NOWHERE, 0, 1, 0, 1).status == w.DATA_TRANSFER_ERROR


@pytest.mark.parametrize("deallocate", [0, 1 << 25])
def test_write_zeroes(on: Disks, deallocate: int) -> None:
    data = pattern(BLOCKS * 512)
    os.pwrite(on.disk.fd, data, 0)
    assert on.d.do(on.queue, w.WRITE_ZEROES, 1, 0, 0, 100, 0, 1499 | deallocate).status == w.SUCCESS
    assert on.bytes(0, BLOCKS) == data[: 100 * 512] + bytes(1500 * 512) + data[1600 * 512 :]


def test_dataset_management_deallocates_ranges(on: Disks) -> None:
    d, data = on.d, pattern(BLOCKS * 512)
    os.pwrite(on.disk.fd, data, 0)
    d.fill(DATA, struct.pack("<IIQIIQIIQ", 0, 8, 8, 0, 0, 1 << 60, 0, 16, 800))
    assert d.do(on.queue, w.DATASET_MANAGEMENT, 1, DATA, 0, 2, 0).status == w.SUCCESS
    assert on.bytes(0, BLOCKS) == data
    assert d.do(on.queue, w.DATASET_MANAGEMENT, 1, DATA, 0, 2, 4).status == w.SUCCESS
    assert (on.bytes(8, 8), on.bytes(800, 16)) == (bytes(4096), bytes(8192))
    assert on.bytes(0, 8) + on.bytes(16, 784) == data[:4096] + data[8192 : 800 * 512]
    d.fill(DATA + 16, struct.pack("<IIQ", 0, 1, BLOCKS))
    assert d.do(on.queue, w.DATASET_MANAGEMENT, 1, DATA, 0, 1, 4).status == w.LBA_OUT_OF_RANGE


def test_flush_and_verify(on: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[int] = []
    monkeypatch.setattr(os, "fdatasync", flushed.append)
    d = on.d
    assert d.do(on.queue, w.FLUSH, 1).status == w.SUCCESS
    assert d.do(on.queue, w.FLUSH, ALL).status == w.SUCCESS
    waits = 0 if on.disk.is_memory else 1
    assert len(flushed) == 2 * waits
    assert d.do(on.queue, w.WRITE, 1, DATA, 0, 0, 0, 1 << 30).status == w.SUCCESS  # FUA
    assert len(flushed) == 3 * waits
    assert d.do(on.queue, w.WRITE, 1, DATA).status == w.SUCCESS
    assert len(flushed) == 3 * waits
    d.admin(w.SET_FEATURES, 0, 0, 0, w.VOLATILE_WRITE_CACHE, 0)
    assert d.do(on.queue, w.WRITE, 1, DATA).status == w.SUCCESS
    assert d.do(on.queue, w.WRITE_ZEROES, 1).status == w.SUCCESS
    assert len(flushed) == 5 * waits
    assert d.do(on.queue, w.VERIFY, 1, 0, 0, 0, 0, BLOCKS - 1).status == w.SUCCESS
    assert d.do(on.queue, w.VERIFY, 1, 0, 0, 1, 0, BLOCKS - 1).status == w.LBA_OUT_OF_RANGE


@pytest.mark.parametrize("opcode", [w.READ, w.WRITE, w.COMPARE, w.WRITE_ZEROES, w.VERIFY])
def test_blocks_that_are_not_there(on: Disks, opcode: int) -> None:
    d = on.d
    for slba, blocks in ((BLOCKS, 1), (BLOCKS - 1, 2), (1 << 63, 1), ((1 << 64) - 1, 1), ((1 << 64) - 1, 2)):
        answer = d.do(on.queue, opcode, 1, DATA, 0, slba & 0xFFFFFFFF, slba >> 32, blocks - 1)
        assert answer.status == w.LBA_OUT_OF_RANGE
    for nsid in (0, 2, ALL):
        status = w.INVALID_FIELD if nsid == ALL else w.INVALID_NAMESPACE
        assert d.do(on.queue, opcode, nsid, DATA).status == status
    assert d.do(on.queue, opcode, 1, DATA, flags=1).status == w.INVALID_FIELD


def test_more_than_a_transfer_can_be(on: Disks) -> None:
    for opcode in (w.READ, w.WRITE, w.COMPARE):
        assert on.d.do(on.queue, opcode, 1, DATA, 0, 0, 0, 1024).status == w.INVALID_FIELD
    for opcode in (0x03, 0x04, 0x0D, 0x11, 0x19, 0x80):
        assert on.d.do(on.queue, opcode, 1, DATA).status == w.INVALID_OPCODE


def test_format_makes_zeros_and_other_blocks(on: Disks) -> None:
    d = on.d
    os.pwrite(on.disk.fd, pattern(BLOCKS * 512), 0)
    for nsid, cdw10, status in (
        (0, 0, w.INVALID_NAMESPACE),
        (2, 0, w.INVALID_NAMESPACE),
        (1, 2, w.FORMAT_INVALID),
        (1, 1 << 5, w.FORMAT_INVALID),
        (1, 2 << 9, w.INVALID_FIELD),
    ):
        assert d.admin(w.FORMAT_NVM, nsid, 0, 0, cdw10).status == status
    assert on.bytes(0, BLOCKS) == pattern(BLOCKS * 512)
    assert d.admin(w.FORMAT_NVM, ALL, 0, 0, 1 | 1 << 9).status == w.SUCCESS
    assert on.bytes(0, BLOCKS) == bytes(BLOCKS * 512)
    d.admin(w.IDENTIFY, 1, DATA, 0, 0)
    assert struct.unpack("<Q", d.memory(DATA, 8))[0] == BLOCKS // 8
    assert d.memory(DATA + 26, 1) == b"\1"
    d.fill(DATA, pattern(4096))
    assert d.write(on.queue, BLOCKS // 8 - 1, 1).status == w.SUCCESS
    assert on.bytes(BLOCKS // 8 - 1, 1, 4096) == pattern(4096)


def test_nothing_else_is_done_while_it_formats(on: Disks) -> None:
    d = on.d
    d.put(d.admin_queue, w.FORMAT_NVM, 1)
    d.ring(d.admin_queue)
    d.put(on.queue, w.READ, 1, DATA)
    d.ring(on.queue)
    (answer,) = d.answers(on.queue)
    assert (answer.status, d.answers(d.admin_queue)) == (w.FORMAT_IN_PROGRESS, [])
    d.rig.clock.pass_()
    assert [each.status for each in d.answers(d.admin_queue)] == [w.SUCCESS]
    assert d.read(on.queue, 0, 1).status == w.SUCCESS


def test_a_disk_that_is_read_only(tmp_path: Path) -> None:
    image = tmp_path / "disk"
    image.write_bytes(pattern(BLOCKS * 512))
    on = Disks(Driver(file=str(image), size=None, readonly=True))
    for opcode in (w.WRITE, w.WRITE_ZEROES):
        assert on.d.do(on.queue, opcode, 1, DATA).status == w.WRITE_PROTECTED
    on.d.fill(DATA, struct.pack("<IIQ", 0, 1, 0))
    assert on.d.do(on.queue, w.DATASET_MANAGEMENT, 1, DATA, 0, 0, 4).status == w.WRITE_PROTECTED
    assert on.d.admin(w.FORMAT_NVM, 1).status == w.WRITE_PROTECTED
    assert on.d.do(on.queue, w.FLUSH, 1).status == w.SUCCESS
    assert on.d.read(on.queue, 0, 8).status == w.SUCCESS
    assert on.d.memory(DATA, 4096) == image.read_bytes()[:4096]
    on.d.admin(w.IDENTIFY, 1, DATA, 0, 0)
    assert on.d.memory(DATA + 99, 1) == b"\1"
    assert image.read_bytes() == pattern(BLOCKS * 512)
    on.disk.close()


def test_namespaces_are_parts_of_the_disk() -> None:
    d = Driver(ns=3, size=10 << 20, lba=4096)
    queue, disk = d.make_queue(), d.rig.function._disk  # type: ignore[attr-defined]
    for nsid in (1, 2, 3):
        d.fill(DATA, bytes([nsid]) * 4096)
        assert d.write(queue, 5, 1, nsid=nsid).status == w.SUCCESS
        assert d.write(queue, 768, 1, nsid=nsid).status == w.LBA_OUT_OF_RANGE
    assert [os.pread(disk.fd, 2, (nsid << 20) * 3 + 5 * 4096) for nsid in range(3)] == [b"\1\1", b"\2\2", b"\3\3"]
    d.admin(w.FORMAT_NVM, 2)
    assert [os.pread(disk.fd, 2, (nsid << 20) * 3 + 5 * 4096) for nsid in range(3)] == [b"\1\1", b"\0\0", b"\3\3"]


def test_a_disk_that_has_errors_says_so(on: Disks, monkeypatch: pytest.MonkeyPatch) -> None:
    if on.disk.is_memory:
        return  # it has none

    def broken(*_: object) -> None:
        raise OSError(5, "Input/output error")

    said: list[str] = []
    d = on.d
    d.rig.function.why = said.append
    d.rig.function.dma_file = lambda *_, **__: 0  # type: ignore[method-assign]
    monkeypatch.setattr(Disk, "read_now", lambda *_: None)
    monkeypatch.setattr(Disk, "read", broken)
    monkeypatch.setattr(Disk, "write", broken)
    assert d.read(on.queue, 0, 1).status == w.UNRECOVERED_READ_ERROR
    assert d.write(on.queue, 0, 1).status == w.WRITE_FAULT
    assert said[0].endswith("disk cannot be read at 0x0: Input/output error")
    assert said[1].endswith("disk cannot be written: Input/output error")
    monkeypatch.setattr(Disk, "write", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    assert d.write(on.queue, 0, 1).status == w.CAPACITY_EXCEEDED


def test_memory_that_may_only_be_read_takes_no_data() -> None:
    for mapped in (True, False):
        d = Driver(mapped=mapped)
        map_(d.ioas, d.origin, PAGES * P, P, NOWHERE + P, prot=PROT_READ)
        queue = d.make_queue()
        assert d.read(queue, 0, 1, NOWHERE + P).status == w.DATA_TRANSFER_ERROR
        assert d.write(queue, 0, 1, NOWHERE + P).status == w.SUCCESS


# --- order, and what is under way ---


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Disks]:
    made = Disks(Driver(file=str(tmp_path / "disk"), size=BLOCKS * 512))
    yield made
    made.disk.close()


def test_writes_are_under_way_while_others_are_done(slow: Disks) -> None:
    d, queue = slow.d, slow.queue
    writes = [d.put(queue, w.WRITE, 1, DATA, 0, at) for at in range(5)]
    read = d.put(queue, w.READ, 1, DATA + P, 0, 100)
    d.ring(queue)
    assert [each.cid for each in d.answers(queue)] == [read]
    d.rig.clock.pass_()
    assert {each.cid for each in d.answers(queue)} == set(writes)


def test_a_command_under_way_can_be_aborted_and_its_queue_deleted(slow: Disks) -> None:
    d, queue = slow.d, slow.queue
    first, second = (d.put(queue, w.WRITE, 1, DATA, 0, at) for at in range(2))
    d.ring(queue)
    d.put(d.admin_queue, w.ABORT, 0, 0, 0, 1 | first << 16)
    d.ring(d.admin_queue)
    assert [(each.cid, each.status) for each in d.answers(queue)] == [(first, w.ABORT_REQUESTED)]
    assert [each.dword0 for each in d.answers(d.admin_queue)] == [0]
    d.put(d.admin_queue, w.DELETE_SQ, 0, 0, 0, 1)
    d.ring(d.admin_queue)
    assert [(each.cid, each.status) for each in d.answers(queue)] == [(second, w.SQ_DELETED)]
    d.rig.clock.pass_()
    assert d.answers(queue) == []


def test_one_command_id_twice_at_a_time_is_refused(slow: Disks) -> None:
    d, queue = slow.d, slow.queue
    d.put(queue, w.WRITE, 1, DATA)
    d.cid -= 1
    d.put(queue, w.WRITE, 1, DATA)
    d.ring(queue)
    assert [each.status for each in d.answers(queue)] == [w.COMMAND_ID_CONFLICT]
    d.rig.clock.pass_()
    assert [each.status for each in d.answers(queue)] == [w.SUCCESS]


def test_no_write_from_before_a_reset_comes_after_one_from_behind_it(
    slow: Disks, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = slow.d
    done: list[bytes] = []
    write = Disk.write

    def noted(disk: Disk, position: int, data: bytes) -> None:
        done.append(data[:1])
        write(disk, position, data)

    monkeypatch.setattr(Disk, "write", noted)
    d.fill(DATA, b"\1" * 512)
    for _ in range(3):
        d.put(slow.queue, w.WRITE, 1, DATA)
    d.ring(slow.queue)
    waiting = d.rig.clock.waiting
    d.store(w.CC, 0)
    assert (d.rig.clock.waiting, waiting) == (3, 3)  # threads are not given up
    d.enable()
    queue = d.make_queue()
    d.fill(DATA, b"\2" * 512)
    d.put(queue, w.WRITE, 1, DATA)
    d.ring(queue)
    assert done == []
    d.rig.clock.step()
    assert (done, d.answers(queue)) == ([b"\1"], [])
    d.rig.clock.pass_()
    assert done == [b"\1", b"\1", b"\1", b"\2"]
    assert [each.status for each in d.answers(queue)] == [w.SUCCESS]
    assert slow.bytes(0, 1) == b"\2" * 512


# --- doorbells in memory ---


def let_time_pass(d: Driver) -> None:
    """A microsecond for each look at the clock."""
    ticks = count()
    d.rig.clock.now = lambda: next(ticks) / 1_000_000  # type: ignore[method-assign]


@pytest.mark.parametrize("poll", [0, 100])
@pytest.mark.parametrize("dstrd", [0, 2])
def test_doorbells_in_memory_are_enough(poll: int, dstrd: int) -> None:
    d = Driver(poll=poll, dstrd=dstrd)
    let_time_pass(d)
    queue = d.make_queue()
    d.use_shadows()
    stride = 4 << dstrd
    events = 0x100000 + 5 * P
    assert d.read(queue, 0, 1).status == w.SUCCESS
    d.rig.clock.pass_()
    # The event index is what the driver has written last: the next command rings.
    assert struct.unpack("<I", d.memory(events + 2 * stride, 4))[0] == queue.tail
    cid = d.put(queue, w.READ, 1, DATA)
    d.fill(0x100000 + 4 * P + 2 * stride, struct.pack("<I", queue.tail))
    assert d.answers(queue) == []
    d.doorbell(2, queue.tail)
    assert [each.cid for each in d.answers(queue)] == [cid]


def test_while_it_polls_nobody_rings() -> None:
    d = Driver(poll=1000)
    let_time_pass(d)
    queue = d.make_queue()
    d.use_shadows()
    d.put(queue, w.READ, 1, DATA)
    d.ring(queue)
    assert len(d.answers(queue)) == 1
    for _ in range(3):
        d.put(queue, w.READ, 1, DATA)
        d.fill(0x100000 + 4 * P + 8, struct.pack("<I", queue.tail))
        d.rig.clock.step()
        d.rig.clock.step()
        assert len(d.answers(queue)) == 1
    d.rig.clock.pass_()
    assert d.rig.clock.waiting == 0
    assert struct.unpack("<I", d.memory(0x100000 + 5 * P + 8, 4))[0] == queue.tail


def test_a_wrong_doorbell_in_memory_is_an_event() -> None:
    d = Driver()
    queue = d.make_queue()
    d.use_shadows()
    cid = d.put(d.admin_queue, w.ASYNC_EVENT_REQUEST)
    d.ring(d.admin_queue)
    d.fill(0x100000 + 4 * P + 8, struct.pack("<I", 999))
    d.doorbell(2, 1)
    assert [(each.cid, each.dword0) for each in d.answers(d.admin_queue)] == [(cid, 0x10100)]
    assert d.load(w.CSTS) == w.CSTS_RDY
    assert d.read(queue, 0, 1).status == w.SUCCESS


def test_intx_is_up_until_all_was_seen_or_is_masked() -> None:
    d = Driver()
    d.rig.set_irqs(v.VFIO_IRQ_SET_DATA_NONE | v.VFIO_IRQ_SET_ACTION_TRIGGER, v.VFIO_PCI_MSIX_IRQ_INDEX, 0, 0)
    function = d.rig.function
    queue = d.make_queue(vector=0)
    levels = [function.intx_pending]
    d.put(queue, w.FLUSH, 1)
    d.ring(queue)
    levels.append(function.intx_pending)
    for register in (w.INTMS, w.INTMC):
        d.store(register, 1)
        levels.append(function.intx_pending)
    d.answers(queue)
    levels.append(function.intx_pending)
    assert levels == [False, True, False, True, False]


# --- anything at all ---

DWORDS = st.integers(0, 0xFFFFFFFF) | st.integers(0, 64)
POINTERS = st.sampled_from([0, DATA, DATA + P, DATA + 512, DATA + 3, LIST, NOWHERE, (1 << 64) - 512]) | st.integers(
    0, (1 << 64) - 1
)
COMMANDS = st.tuples(
    st.sampled_from([0, 1]),  # which queue
    st.integers(0, 255) | st.sampled_from([0, 1, 2, 5, 8, 9, 12]),
    st.sampled_from([0, 1, 1, 1, 2, ALL]),
    POINTERS,
    POINTERS,
    st.lists(DWORDS, min_size=6, max_size=6),
    st.sampled_from([0, 0, 0, 0x40, 0x80, 0xC1, 0x02]),
)


@examples(300)
@given(commands=st.lists(COMMANDS, max_size=30), noise=st.binary(max_size=256), mapped=st.booleans())
def test_no_command_breaks_it(
    commands: list[tuple[int, int, int, int, int, list[int], int]], noise: bytes, mapped: bool
) -> None:
    d = Driver(mapped=mapped)
    queues = [d.admin_queue, d.make_queue()]
    d.fill(LIST, noise)
    for which, opcode, nsid, prp1, prp2, dwords, flags in commands:
        queue: Queue = queues[which]
        cid = d.put(queue, opcode, nsid, prp1, prp2, *dwords, flags=flags)
        d.ring(queue)
        d.rig.clock.pass_()
        if not which and opcode in (w.DELETE_SQ, w.DELETE_CQ, w.ASYNC_EVENT_REQUEST, w.DOORBELL_BUFFER_CONFIG):
            d = Driver(mapped=mapped)
            queues = [d.admin_queue, d.make_queue()]
            d.fill(LIST, noise)
        elif d.status & w.CSTS_CFS:  # it wrote over a queue of its own
            d.store(w.CC, 0)
            d.enable()
            queues = [d.admin_queue, d.make_queue()]
        else:
            memory = d.memory(queue.cq, w.CQE * queue.entries)
            assert len(memory) == w.CQE * queue.entries
            answers = d.answers(queue)
            assert prp1 >> 12 in range(MEMORY >> 12, DATA >> 12) or cid in {each.cid for each in answers}
