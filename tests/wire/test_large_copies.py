"""Large copies, which several threads share: what arrives, and what is said of a copy that stops on
the way.
"""

import os
import threading
from collections.abc import Iterator

import pytest

from cuse_glue.process import raw_memory

PAGE = os.sysconf("SC_PAGESIZE")
MOST = raw_memory.SHARE * raw_memory.MOST_SHARES
LENGTHS = [2 * raw_memory.SHARE - 1, 2 * raw_memory.SHARE, 3 * raw_memory.SHARE + 4711, MOST, MOST + 1]


@pytest.fixture(params=[1, 2, 3, 4])
def _processors(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    count: int = request.param
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(count)))


@pytest.fixture
def file() -> Iterator[int]:
    """A file of MOST + 1 bytes, each of which differs from those a share away."""
    fd = os.memfd_create("large", os.MFD_CLOEXEC)
    for at in range(0, MOST + 1, PAGE):
        os.pwrite(fd, (at // PAGE).to_bytes(4, "little") * (PAGE // 4), at)
    yield fd
    os.close(fd)


@pytest.mark.usefixtures("_processors")
@pytest.mark.parametrize("length", LENGTHS)
def test_every_byte_arrives(length: int, file: int) -> None:
    wanted = os.pread(file, length, 1)
    address = raw_memory.map_shared(file, 0, MOST + PAGE, writable=True)
    got = bytearray(length)
    assert raw_memory.read_mapping(address + 1, got) == length
    assert got == wanted
    os.ftruncate(file, 0)
    os.ftruncate(file, MOST + PAGE)
    assert raw_memory.write_mapping(address + 1, wanted) == length
    assert os.pread(file, length + 2, 0) == b"\0" + wanted + b"\0"
    raw_memory.unmap(address, MOST + PAGE)


@pytest.mark.usefixtures("_processors")
@pytest.mark.parametrize("length", LENGTHS)
def test_the_count_ends_at_the_first_gap(length: int, file: int) -> None:
    wanted = os.pread(file, length, 0)
    for gap in sorted({at // PAGE * PAGE for at in (0, PAGE, length // 4, length // 2, length * 3 // 4, length - 1)}):
        address = raw_memory.map_shared(file, 0, MOST + PAGE, writable=True)
        raw_memory.unmap(address + gap, PAGE)
        got = bytearray(length)
        assert raw_memory.read_mapping(address, got) == gap
        assert got[:gap] == wanted[:gap]
        assert raw_memory.write_mapping(address, wanted) == gap
        raw_memory.unmap(address, MOST + PAGE)


def test_without_threads_it_is_done_all_the_same(file: int, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def start(thread: threading.Thread) -> None:
        asked.append(thread)
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    monkeypatch.setattr(threading.Thread, "start", start)
    address = raw_memory.map_shared(file, 0, MOST, writable=False)
    got = bytearray(MOST)
    assert raw_memory.read_mapping(address, got) == MOST
    assert len(asked) == raw_memory.MOST_SHARES - 1
    assert got == os.pread(file, MOST, 0)
    raw_memory.unmap(address, MOST)
