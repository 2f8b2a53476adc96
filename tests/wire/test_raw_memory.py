"""Moving bytes by address."""

import mmap
import os
from pathlib import Path

from cuse_glue.process import raw_memory

PAGE = mmap.PAGESIZE


def test_a_mapping_whose_file_shrinks() -> None:
    """What can be moved is, and counted; no SIGBUS."""
    fd = os.memfd_create("file")
    os.ftruncate(fd, 4 * PAGE)
    address = raw_memory.map_shared(fd, 0, 4 * PAGE, writable=True)
    data = os.urandom(4 * PAGE)
    assert raw_memory.write_mapping(address, data) == 4 * PAGE
    assert os.pread(fd, 4 * PAGE, 0) == data
    os.ftruncate(fd, 2 * PAGE)
    got = bytearray(4 * PAGE)
    assert raw_memory.read_mapping(address, got) == 2 * PAGE
    assert got == data[: 2 * PAGE] + bytes(2 * PAGE)
    assert raw_memory.write_mapping(address + PAGE, memoryview(data)) == PAGE
    assert raw_memory.read_mapping(address + 2 * PAGE, memoryview(got)) == 0
    assert raw_memory.read_mapping(address, bytearray()) == 0
    raw_memory.unmap(address, 4 * PAGE)
    os.close(fd)


def test_a_mapping_that_may_not_be_written() -> None:
    fd = os.memfd_create("file")
    os.ftruncate(fd, PAGE)
    address = raw_memory.map_shared(fd, 0, PAGE, writable=False)
    assert raw_memory.write_mapping(address, b"x") == 0
    assert raw_memory.read_mapping(address, bytearray(1)) == 1
    raw_memory.unmap(address, PAGE)
    os.close(fd)


def test_copies_between_mappings() -> None:
    """In order: what was copied is copied on. And as far as there is a file."""
    fd = os.memfd_create("file")
    os.ftruncate(fd, 4 * PAGE)
    at = raw_memory.map_shared(fd, 0, 4 * PAGE, writable=True)
    data = os.urandom(PAGE)
    own = raw_memory.locate(data)
    assert raw_memory.copy_mappings([at + 5, PAGE, at + 3 * PAGE, 9], [own, PAGE, at + 5, 9]) == PAGE + 9
    assert os.pread(fd, PAGE, 5) == data
    assert os.pread(fd, 9, 3 * PAGE) == data[:9]
    gathered = bytearray(16)
    assert raw_memory.gather_mappings([at + 5, 7, at + 3 * PAGE, 9], gathered) == 16
    assert gathered == data[:7] + data[:9]
    os.ftruncate(fd, 2 * PAGE)
    steps = [at + PAGE, 7, at + 2 * PAGE, 7, at, 7]
    assert raw_memory.copy_mappings(steps, [own, 7, own, 7, own, 7]) == 7, "none after the one that cannot be"
    assert raw_memory.copy_mappings([at + 9, 7], [at + 2 * PAGE, 7]) == 0
    assert raw_memory.gather_mappings([at, 12, at + 2 * PAGE, 4], gathered) == 12
    assert os.pread(fd, 12, 0) == gathered[:12] == bytes(5) + data[:7]
    raw_memory.unmap(at, 4 * PAGE)
    os.close(fd)


def test_a_huge_buffer() -> None:
    buffer = raw_memory.huge_buffer(5 << 20)
    assert len(buffer) == 5 << 20
    buffer[-1] = 7
    assert bytes(buffer[-2:]) == b"\0\7"
    mappings = len(Path("/proc/self/maps").read_text().splitlines())
    del buffer
    assert len(Path("/proc/self/maps").read_text().splitlines()) <= mappings


def test_absent_pages() -> None:
    """Each way of asking: some absent, none absent, and not our page map at all."""
    area = mmap.mmap(-1, 64 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    area.madvise(mmap.MADV_NOHUGEPAGE)
    address = raw_memory._address(raw_memory._ffi.from_buffer(area))
    pagemap = os.open("/proc/self/pagemap", os.O_RDONLY)
    area.write(b"x" * (63 * PAGE))
    assert raw_memory.any_absent(pagemap, address, address + 63 * PAGE) is False
    assert raw_memory.any_absent(pagemap, address, address + 64 * PAGE) is True
    null = os.open("/dev/null", os.O_RDONLY)
    assert raw_memory.any_absent(null, address, address + 64 * PAGE) is None
    os.close(null)
    os.close(pagemap)
