"""Looking through a client's memory in a thread aside, and stopping that."""

import ctypes
import errno
import fcntl
import mmap
import os
import struct
import threading
from collections.abc import Iterator

import pytest
import trio

from cuse_glue.process import raw_memory
from cuse_glue.process.aside import Touch, ZeroSearch
from cuse_glue.request.caller import Caller
from tests.support import PATIENCE

from .conftest import Client
from .mappings import PAGE

BIG = 64 << 20
GUARD_INSTALL = 102
USERFAULTFD = {"x86_64": 323, "aarch64": 282}[os.uname().machine]
UFFDIO_API, UFFDIO_REGISTER, UFFDIO_COPY = 0xC018AA3F, 0xC020AA00, 0xC028AA03
MISSING = 1


def search(client: Client, address: int, length: int) -> tuple[int, bool]:
    found = ZeroSearch(lambda: client.pid)
    try:
        return found(address, length)
    finally:
        found.close()


def resident(client: Client) -> int:
    text: str = client.do("[line for line in open('/proc/self/status') if line.startswith('VmRSS')][0]")
    return int(text.split()[1]) << 10


def test_what_was_never_touched_is_not_made(client: Client) -> None:
    at = client.do(f"anonymous(R | W, length={16 * BIG})")
    before = resident(client)
    assert search(client, at, 16 * BIG) == (16 * BIG, False)
    assert search(client, at + 1, 16 * BIG - 2) == (16 * BIG - 2, False)
    assert resident(client) - before < BIG


@pytest.mark.parametrize("where", [0, 1, PAGE - 1, PAGE, 5 << 20, BIG // 2 + 17, BIG - 1])
@pytest.mark.parametrize("how", ["PRIVATE", "SHARED"])
def test_the_first_byte_that_is_not_zero(where: int, how: str, client: Client) -> None:
    at = client.do(f"anonymous(R | W, {how}, length={BIG})")
    client.do(f"poke({at} + {BIG} - 1, b'x')")
    client.do(f"poke({at} + {where}, b'x')")
    assert search(client, at, BIG) == (where, True)
    assert search(client, at + where + 1, BIG - where - 1) == (max(BIG - where - 2, 0), where < BIG - 1)


def test_zeros_that_were_written(client: Client) -> None:
    """They are there, and looked at."""
    at = client.do(f"anonymous(R | W, length={BIG})")
    client.do(f"poke({at} + {BIG // 2}, bytes(PAGE))")
    assert search(client, at, BIG) == (BIG, False)


def test_where_it_ends(client: Client) -> None:
    at = client.do(f"anonymous(R | W, length={BIG})")
    client.do(f"unmap({at} + {BIG // 2}, PAGE)")
    assert search(client, at, BIG) == (BIG // 2, False)
    client.do(f"protect({at}, PAGE, NONE)")
    assert search(client, at, BIG) == (0, False)
    client.do(f"protect({at}, PAGE, W)")  # which can be read
    assert search(client, at, BIG) == (BIG // 2, False)
    try:
        client.do(f"advise({at} + 7 * PAGE, PAGE, {GUARD_INSTALL})")
    except AssertionError:
        pytest.skip("no guard regions before Linux 6.13")
    assert search(client, at, BIG) == (7 * PAGE, False)
    assert search(client, (1 << 64) - PAGE, PAGE) == (0, False)


def test_without_a_pagemap(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel before 6.7: all of it is read."""
    monkeypatch.setattr(raw_memory, "_PAGEMAP_SCAN", 0)
    at = client.do(f"anonymous(R | W, length={BIG})")
    client.do(f"poke({at} + {BIG} - 1, b'x')")
    assert search(client, at, BIG) == (BIG - 1, True)


class Slow:
    """Memory of ours, of which pages come when `fill` is called."""

    def __init__(self, length: int) -> None:
        libc = ctypes.CDLL(None, use_errno=True)
        self._fd: int = libc.syscall(USERFAULTFD, os.O_CLOEXEC)
        if self._fd < 0:
            pytest.skip("no userfaultfd for us")
        fcntl.ioctl(self._fd, UFFDIO_API, struct.pack("QQQ", 0xAA, 0, 0))
        self._area = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self._area))
        fcntl.ioctl(self._fd, UFFDIO_REGISTER, struct.pack("QQQQ", self.address, length, MISSING, 0))

    def wanted(self) -> int:
        """Wait until somebody wants a page; which."""
        message = os.read(self._fd, 32)
        return int(struct.unpack_from("Q", message, 16)[0]) - self.address

    def fill(self, at: int, data: bytes) -> None:
        page = ctypes.create_string_buffer(data, PAGE)
        fcntl.ioctl(self._fd, UFFDIO_COPY, struct.pack("QQQQq", self.address + at, ctypes.addressof(page), PAGE, 0, 0))

    def close(self) -> None:
        os.close(self._fd)  # whoever waits gets zeros


@pytest.fixture
def slow() -> Iterator[Slow]:
    made = Slow(BIG)
    yield made
    made.close()


def test_pages_that_somebody_brings_are_waited_for(slow: Slow) -> None:
    found: list[tuple[int, bool]] = []
    looking = ZeroSearch(os.getpid)
    helper = threading.Thread(target=lambda: found.append(looking(slow.address, BIG)))
    helper.start()
    assert slow.wanted() == 0
    slow.fill(0, b"")
    assert slow.wanted() == PAGE
    slow.fill(PAGE, b"\0\0x")
    slow_rest = threading.Thread(target=slow.close)
    slow_rest.start()
    helper.join(PATIENCE)
    slow_rest.join(PATIENCE)
    slow._fd = os.open(os.devnull, os.O_RDONLY)
    looking.close()
    assert found == [(PAGE + 2, True)]


def test_who_is_stopped_makes_no_further_call(slow: Slow) -> None:
    """But for the one it sleeps in, which is sure of whom it reaches."""
    touch = Touch(os.getpid)

    def run() -> None:
        assert touch.begin()
        touch(range(slow.address, slow.address + BIG, PAGE))
        touch.over()

    helper = threading.Thread(target=run)
    helper.start()
    assert slow.wanted() == 0
    while not touch.sleeps():
        os.sched_yield()
    assert touch.stop()
    slow.fill(0, b"")
    helper.join(PATIENCE)
    assert not helper.is_alive()
    assert touch.sleeps()
    assert not Caller(os.getpid(), 0, 0).resident(slow.address + PAGE, 1)


def test_who_was_stopped_before_he_began_does_nothing() -> None:
    touch = Touch(os.getpid)
    assert not touch.stop()
    assert touch.sleeps()
    assert not touch.begin()


async def test_an_interrupt_is_waited_for_until_our_thread_sleeps(slow: Slow, monkeypatch: pytest.MonkeyPatch) -> None:
    asleep: list[bool] = []
    stop = Touch.stop

    def spy(touch: Touch) -> bool:
        begun = stop(touch)
        asleep.append(touch.sleeps())
        return begun

    monkeypatch.setattr(Touch, "stop", spy)
    caller = Caller(os.getpid(), os.geteuid(), os.getegid(), True)
    with trio.move_on_after(PATIENCE) as patience:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(caller.settle, slow.address, 2 * PAGE)
            assert await trio.to_thread.run_sync(slow.wanted) == 0
            nursery.cancel_scope.cancel()
    assert not patience.cancelled_caught
    assert asleep == [True]
    slow.fill(0, b"")
    assert not caller.resident(slow.address + PAGE, 1), "the next page is not asked for any more"


def test_nobody_is_reached_who_does_not_wait_any_more(client: Client) -> None:
    at = client.do("touched(anonymous(R | W))")
    caller = client.caller()
    memory = caller.memory
    touch = Touch(memory.number)
    assert (memory.read(at, 4), memory.write(at, b"new!"), memory.read_many([(at, 2)])) == (b"\1" * 4, 4, b"ne")
    caller.end()
    assert (memory.read(at, 4), memory.read(at, 2 * PAGE), memory.read_many([(at, 2)])) == (b"", b"", b"")
    assert (memory.write(at, b"old?"), memory.write(at, bytes(2 * PAGE)), memory.write_many([(at, 4)], b"old?")) == (
        0,
        0,
        0,
    )
    assert touch._read(at, memoryview(bytearray(1))) == 0
    assert client.do(f"peek({at}, 4)") == b"new!"
    for ask in caller.process, lambda: caller.descriptor(0):
        with pytest.raises(OSError) as caught:
            ask()
        assert caught.value.errno in (errno.ENOENT, errno.EINVAL, errno.ESRCH)
    assert not caller.capable(21)
    assert caller.name() == "[0]"
