"""Rings: how many pages they are made to count, what stays in them, and what can be done with one
that a client may still have.
"""

import ctypes
import mmap
import os
import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from cuse_glue.pins import uring
from cuse_glue.pins.pin_counter import DUMMY, Counter
from cuse_glue.pins.uring import BufferRing, OwnRings, PinLost, Pipe

from .conftest import descriptors

PAGE = mmap.PAGESIZE
LENGTH = 2 * (1 << 20) + 3 * PAGE  # more than a pipe takes


def vm_pin() -> int:
    found = re.search(r"^VmPin:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024 // PAGE


@pytest.fixture(autouse=True)
def nothing_is_left() -> Iterator[None]:
    DUMMY.reach(PAGE)  # which stays
    before = vm_pin(), descriptors()
    yield
    assert (vm_pin(), descriptors()) == before


def memory(length: int) -> tuple[mmap.mmap, int]:
    """Small pages, which are counted one by one."""
    area = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    view = ctypes.c_char.from_buffer(area)
    address = ctypes.addressof(view)
    del view
    return area, address


def test_any_number_of_pages_is_counted() -> None:
    before = vm_pin()
    counter = Counter(uring.setup(1)[0])
    numbers = [1, 0, 2, 3, 511, 512, 513, 1000, 999, 7, 0, 1 << 12, (1 << 12) - 1, (1 << 18) + 5, 1 << 18, 3, 0]
    for number in numbers + [random.Random(1).randrange(1 << 11) for _ in range(50)]:
        counter.show(number)
        assert (vm_pin() - before, counter.shown) == (number, number)
    counter.show(0)
    counter.close()


def test_what_is_on_the_shelf_stays_when_it_is_unmapped() -> None:
    rings = OwnRings()
    area, address = memory(LENGTH)
    data = random.Random(2).randbytes(LENGTH)
    area[:] = data
    pinned = rings.pin(address, LENGTH)
    area.close()
    got = bytearray(LENGTH)
    pinned.read(0, memoryview(got))
    assert got == data
    for at, length in (0, 1), (PAGE - 1, 2), (5, LENGTH - 9), (LENGTH - 1, 1), (3 * PAGE, PAGE):
        piece = random.Random(at).randbytes(length)
        pinned.write(at, memoryview(piece))
        data = data[:at] + piece + data[at + length :]
        back = bytearray(length)
        pinned.read(at, memoryview(back))
        assert back == piece
    pinned.read(0, memoryview(got))
    assert got == data
    pinned.close()
    rings.close()


def test_memory_that_cannot_be_written_cannot_be_pinned_here() -> None:
    rings = OwnRings()
    area, address = memory(3 * PAGE)
    area[:] = b"x" * len(area)
    assert ctypes.CDLL(None).mprotect(ctypes.c_void_p(address + 2 * PAGE), PAGE, mmap.PROT_READ) == 0
    for _ in range(3):
        with pytest.raises(OSError, match="Bad address"):
            rings.pin(address, 3 * PAGE)
    pinned = rings.pin(address, 2 * PAGE)
    got = bytearray(2)
    pinned.read(PAGE, memoryview(got))
    assert got == b"xx"
    pinned.close()
    rings.close()


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    made.close()


def filled(pipe: Pipe, count: int) -> tuple[BufferRing, mmap.mmap, int]:
    """A ring with a page in each of its slots."""
    ring = BufferRing(uring.setup(BufferRing.ENTRIES, uring.R_DISABLED)[0], count)
    area, address = memory(count * PAGE)
    for slot in range(count):
        area[slot * PAGE] = slot
        ring.fill(slot, address + slot * PAGE, PAGE)
    ring.open(pipe)
    return ring, area, address


def test_a_ring_is_good_for_nothing_else(pipe: Pipe) -> None:
    """Whoever has a descriptor of it, and its queues mapped."""
    ring, _, address = filled(pipe, 1)
    pinned = ring.take(address, [0])
    file = os.memfd_create("target", os.MFD_CLOEXEC)
    with pytest.raises(OSError, match="Permission denied"):
        uring.register(ring.fd, uring._REGISTER_FILES, file.to_bytes(4, "little"), 1)
    with pytest.raises(OSError, match=r"File descriptor in bad state|Device or resource busy|Permission denied"):
        uring.register(ring.fd, uring._REGISTER_RESTRICTIONS, bytes(16), 1)
    for operation in 0, 1, 2, 18, 22, 23, 28:  # NOP, READV, WRITEV, OPENAT, READ, WRITE, OPENAT2
        with pytest.raises(PinLost, match="Permission denied"):
            ring._move(operation, 1, 0, address, 1)
    with pytest.raises(PinLost, match="Bad file descriptor"):
        ring._move(uring._WRITE_FIXED, 2, 0, address, 1)  # a third file there is not
    normal, uring._FIXED_FILE = uring._FIXED_FILE, 0  # type: ignore[misc]
    try:
        with pytest.raises(PinLost, match="Permission denied"):
            ring._move(uring._WRITE_FIXED, file, 0, address, 1)  # by one of our descriptors
    finally:
        uring._FIXED_FILE = normal  # type: ignore[misc]
    assert os.fstat(file).st_size == 0
    os.close(file)
    pinned.close()


def test_a_ring_that_is_not_new_is_refused(pipe: Pipe) -> None:
    """Somebody else was faster, and registered files or buffers of his own, or enabled it."""
    file = pipe.ends[0].to_bytes(4, "little")
    for operation, data, count in (uring._REGISTER_FILES, file, 1), (uring._REGISTER_ENABLE_RINGS, b"", 0):
        ring = BufferRing(uring.setup(BufferRing.ENTRIES, uring.R_DISABLED)[0], 1)
        uring.register(ring.fd, operation, data, count)
        with pytest.raises(OSError):
            ring.open(pipe)
        ring.close()
    fd, _ = uring.setup(BufferRing.ENTRIES, uring.R_DISABLED)
    BufferRing(fd, 1)
    with pytest.raises(OSError, match="busy"):
        BufferRing(fd, 1)
    os.close(fd)


def test_what_was_taken_out_is_lost_and_the_rest_is_not(pipe: Pipe) -> None:
    ring, _, address = filled(pipe, 3)
    pinned = [ring.take(address + slot * PAGE, [slot]) for slot in range(3)]
    ring.fill(1, 0, 0)  # as a client could that kept the ring
    got = bytearray(1)
    for _ in range(3):
        with pytest.raises(PinLost, match="Bad address"):
            pinned[1].read(0, memoryview(got))
        with pytest.raises(PinLost, match="Bad address"):
            pinned[1].write(0, memoryview(b"x"))
        pinned[2].read(0, memoryview(got))
        assert got == b"\2"
    ring._head = ring._head - 1 & 0xFFFF_FFFF  # as if somebody had put in an order of his own
    with pytest.raises(PinLost, match="does not leave it to us"):
        pinned[0].read(0, memoryview(got))
    for each in pinned:
        each.close()


def test_pieces_are_as_large_as_a_buffer_may_be() -> None:
    assert uring.pieces(PAGE, PAGE) == [(PAGE, PAGE)]
    assert uring.pieces(0, uring.LARGEST_BUFFER) == [(0, uring.LARGEST_BUFFER)]
    assert uring.pieces(PAGE, uring.LARGEST_BUFFER + PAGE) == [
        (PAGE, uring.LARGEST_BUFFER),
        (PAGE + uring.LARGEST_BUFFER, PAGE),
    ]
