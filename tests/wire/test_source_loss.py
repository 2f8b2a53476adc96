"""What stays when the client unmaps, executes another program or exits, and what is lost, and says
so.
"""

import errno
import mmap
import time
from collections.abc import Callable
from typing import Any

import pytest

from cuse_glue.errors import IoctlError
from cuse_glue.pins.source import Pin, Source, Sources
from cuse_glue.process import raw_memory
from cuse_glue.request.caller import Caller
from tests.support import PATIENCE

from .conftest import Client
from .mappings import HUGE, PAGE

LENGTH = 4 * PAGE
PATTERN = bytes(range(256)) * (LENGTH // 256)
SHARED = {
    "memfd": "map_(4 * PAGE, R | W, SHARED, memfd(4 * PAGE))",
    "anonymous": "anonymous(R | W, SHARED)",
    "tmpfs": "map_(4 * PAGE, R | W, SHARED, file(4 * PAGE, '/dev/shm'))",
    "huge": f"anonymous(R | W, SHARED | HUGETLB, {HUGE})",
}
PRIVATE = {
    "anonymous": "anonymous(R | W)",
    "file": "map_(4 * PAGE, R | W, PRIVATE, file(4 * PAGE))",
    "memfd": "map_(4 * PAGE, R | W, PRIVATE, memfd(4 * PAGE))",
    "huge": f"anonymous(R | W, PRIVATE | HUGETLB, {HUGE})",
}


def unmap(client: Client, length: int) -> None:
    client.do(f"unmap(at, {length})")


def execute(client: Client, length: int) -> None:
    client.tell("execute()")
    assert client.answer() == "ready"


def leave(client: Client, length: int) -> None:
    client.end()


WAYS = {"unmap": unmap, "execute": execute, "exit": leave}
SENTENCES = {"unmap": "has unmapped", "execute": "has executed another program", "exit": "has exited"}


def pinned(client: Client, source: Source, text: str, length: int = LENGTH) -> Pin:
    at = client.do(f"at = {text}")
    at = client.do("at")
    client.do(f"poke(at, bytes(range(256)) * {LENGTH // 256})")
    return source.pin(at, length, True)


def read(pin: Pin, offset: int = 0, length: int = LENGTH) -> bytes:
    got = bytearray(length)
    pin.read_into(offset, memoryview(got))
    return bytes(got)


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", SHARED)
def test_shared_memory_stays(kind: str, way: str, client: Client, source: Source) -> None:
    length = HUGE if kind == "huge" else LENGTH
    pin = pinned(client, source, SHARED[kind], length)
    WAYS[way](client, length)
    assert read(pin) == PATTERN
    pin.write_from(PAGE - 1, memoryview(b"afterwards"))
    assert read(pin) == PATTERN[: PAGE - 1] + b"afterwards" + PATTERN[PAGE + 9 :]
    assert source.alive() == (way == "unmap")
    pin.close()


@pytest.mark.usefixtures("huge_pages")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("kind", PRIVATE)
def test_private_memory_is_lost_with_a_sentence(kind: str, way: str, client: Client, source: Source) -> None:
    length = HUGE if kind == "huge" else LENGTH
    pin = pinned(client, source, PRIVATE[kind], length)
    assert read(pin) == PATTERN
    WAYS[way](client, length)
    for access in (lambda: read(pin), lambda: pin.write_from(0, memoryview(b"x"))):
        with pytest.raises(IoctlError, match=f"process {client.pid} {SENTENCES[way]}") as caught:
            access()
        assert caught.value.errno == errno.EFAULT
    if way != "unmap":
        with pytest.raises(IoctlError, match=SENTENCES[way]):
            source.pin(client_address(pin), LENGTH, True)
    pin.close()


def client_address(pin: Pin) -> int:
    _, address = pin.identity(0)
    return address


def test_lost_in_part(client: Client, source: Source) -> None:
    """Only what is gone is refused."""
    pin = pinned(client, source, "anonymous(R | W)")
    client.do("unmap(at + 2 * PAGE, PAGE)")
    assert read(pin, 0, 2 * PAGE) == PATTERN[: 2 * PAGE]
    assert read(pin, 3 * PAGE, PAGE) == PATTERN[3 * PAGE :]
    with pytest.raises(IoctlError, match=f"unmapped the memory at {client.do('at + 2 * PAGE'):#x}"):
        read(pin)
    pin.close()


@pytest.mark.parametrize(
    "instead",
    [
        "map_(4 * PAGE, R | W, SHARED | ANONYMOUS | 0x10, address=at)",
        "map_(4 * PAGE, R | W, SHARED | 0x10, memfd(4 * PAGE), address=at)",
        "map_(4 * PAGE, R | W, PRIVATE | 0x10, memfd(4 * PAGE), address=at)",
    ],
)
def test_something_else_at_the_address(instead: str, client: Client, source: Source) -> None:
    pin = pinned(client, source, "anonymous(R | W)")
    client.do(instead)
    with pytest.raises(IoctlError, match="mapped something else"):
        read(pin)
    with pytest.raises(IoctlError, match="mapped something else"):
        pin.write_from(0, memoryview(b"x"))
    assert client.do("peek(at, 1)") == b"\0"
    pin.close()


def test_another_part_of_the_same_file(client: Client, source: Source) -> None:
    client.do("fd = memfd(8 * PAGE)")
    pin = pinned(client, source, "map_(4 * PAGE, R | W, PRIVATE, fd)")
    client.do("map_(4 * PAGE, R | W, PRIVATE | 0x10, fd, PAGE, address=at)")
    with pytest.raises(IoctlError, match="mapped something else"):
        read(pin)
    pin.close()


@pytest.mark.parametrize(
    "how", ["advise(at + PAGE, PAGE, 4)", "map_(PAGE, R | W, PRIVATE | ANONYMOUS | 0x10, address=at + PAGE)"]
)
def test_pages_given_back(how: str, client: Client, source: Source) -> None:
    """MADV_DONTNEED, or the same mapped anew: found out if we had been there, and the page not
    touched since.
    """
    pin = pinned(client, source, "anonymous(R | W)")
    assert read(pin, PAGE + 5, 10) == PATTERN[PAGE + 5 : PAGE + 15]
    client.do(how)
    with pytest.raises(IoctlError, match=f"given back or replaced the page at {client.do('at + PAGE'):#x}"):
        read(pin)
    with pytest.raises(IoctlError, match="given back"):
        pin.write_from(PAGE, memoryview(b"x"))
    assert read(pin, 2 * PAGE, PAGE) == PATTERN[2 * PAGE : 3 * PAGE]
    pin.close()


def test_one_page_of_many_given_back(client: Client, source: Source) -> None:
    """Among pages never touched and pages touched; with the quick way to ask, and without."""
    pin = pinned(client, source, "anonymous(R | W, length=256 * PAGE)", 256 * PAGE)
    assert read(pin, 0, 100 * PAGE)[:LENGTH] == PATTERN
    assert read(pin, 0, 256 * PAGE) == PATTERN + bytes(252 * PAGE)
    client.do("advise(at + 200 * PAGE, PAGE, 4)")
    with pytest.raises(IoctlError, match=f"given back or replaced the page at {client.do('at + 200 * PAGE'):#x}"):
        read(pin, PAGE, 255 * PAGE)
    assert read(pin, 0, 200 * PAGE)[:LENGTH] == PATTERN
    pin.close()


def test_no_false_alarm(client: Client, source: Source) -> None:
    """What a healthy program does to its memory loses nothing: split, merge, fork, advise, swap
    out, untouched pages.
    """
    client.do("at = anonymous(R | W, length=64 * PAGE)")
    at = client.do("at")
    pin = source.pin(at, 64 * PAGE, True)
    assert read(pin, 0, 8 * PAGE) == bytes(8 * PAGE)
    client.do("protect(at + 3 * PAGE, PAGE, R)")
    client.do("protect(at + 5 * PAGE, PAGE, NONE)")
    assert read(pin, 0, 64 * PAGE) == bytes(64 * PAGE)
    # Protection counts when memory is pinned, not when a device writes.
    pin.write_from(3 * PAGE, memoryview(b"x" * (3 * PAGE)))
    client.do("protect(at, 64 * PAGE, R | W)")
    assert client.do("peek(at + 3 * PAGE, 3 * PAGE)") == b"x" * (3 * PAGE)
    child = client.do("os.fork() or os._exit(0)")
    client.do(f"os.waitpid({child}, 0)")
    # and MADV_COLD, MADV_PAGEOUT
    for advice in (mmap.MADV_RANDOM, mmap.MADV_WILLNEED, mmap.MADV_HUGEPAGE, 20, 21):
        client.do(f"advise(at, 64 * PAGE, {advice})")
    assert read(pin, 3 * PAGE, 3 * PAGE) == b"x" * (3 * PAGE)
    pin.write_from(0, memoryview(b"y" * (64 * PAGE)))
    assert client.do("peek(at, 64 * PAGE)") == b"y" * (64 * PAGE)
    pin.close()


def test_a_clean_page_of_a_file_may_go(client: Client, source: Source) -> None:
    """The kernel takes it away when it needs memory, and reads it again; here the client gives it
    back.
    """
    client.do("fd = file(4 * PAGE)")
    client.do(f"os.pwrite(fd, bytes(range(256)) * {LENGTH // 256}, 0)")
    at = client.do("map_(4 * PAGE, R | W, PRIVATE, fd)")
    pin = source.pin(at, LENGTH, False)
    assert read(pin) == PATTERN
    client.do(f"advise({at}, 4 * PAGE, 4)")
    assert read(pin) == PATTERN
    pin.close()


def test_fork_then_write(client: Client, source: Source) -> None:
    """After a fork the device writes to the parent's page, not to the child's."""
    pin = pinned(client, source, "anonymous(R | W)")
    to_child, from_child = client.do("(os.pipe(), os.pipe())")
    (child_in, go), (answer, child_out) = to_child, from_child
    child = client.do(f"os.fork() or (os.read({child_in}, 1), os.write({child_out}, peek(at, 6)), os._exit(0))")
    pin.write_from(0, memoryview(b"parent"))
    client.do(f"os.write({go}, b'x')")
    assert client.do(f"os.read({answer}, 6)") == PATTERN[:6]
    assert client.do("peek(at, 6)") == b"parent"
    client.do(f"os.waitpid({child}, 0)")
    pin.close()


BIG = 1 << 20


def test_large_pieces_of_a_program_that_is_gone(client: Client, source: Source) -> None:
    """The same number, the same addresses perhaps, another program: nothing of it is read or
    written.
    """
    client.do(f"at = anonymous(R | W, length={BIG})")
    pin = source.pin(client.do("at"), BIG, True)
    assert read(pin, 0, BIG) == bytes(BIG)
    execute(client, 0)
    with pytest.raises(IoctlError, match="has executed another program"):
        read(pin, 0, BIG)
    with pytest.raises(IoctlError, match="has executed another program"):
        pin.write_from(0, memoryview(bytes(BIG)))
    pin.close()


def test_numbers_are_used_while_their_thread_waits(
    client: Client, sources: Sources, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For large pieces, which are twice as fast that way; never when it does not wait for us, or
    not any more (address_space.py).
    """
    numbers: list[int] = []
    moves = {name: getattr(raw_memory, name) for name in ("read_process", "write_process")}

    def spy(name: str) -> Callable[..., int]:
        def move(tid: Callable[[], int], *rest: Any) -> int:
            numbers.append(tid())
            done: int = moves[name](tid, *rest)
            return done

        return move

    for name in moves:
        monkeypatch.setattr(raw_memory, name, spy(name))
    at = client.do(f"anonymous(R | W, length={BIG})")
    waiting = Caller(client.pid, 0, 0, True)
    callers = [client.caller(), waiting, waiting]
    for caller, number in zip(callers, (0, client.pid, 0), strict=True):
        source = sources.address_space(caller)
        source.get()
        pin = source.pin(at, BIG, True)
        if number == 0:
            caller.end()
        pin.write_from(0, memoryview(b"e" * BIG))
        assert read(pin, 0, BIG) == b"e" * BIG == client.do(f"peek({at}, {BIG})")
        assert numbers == [number] * 2
        numbers.clear()
        pin.close()
        source.put()


def test_truncated_under_us(client: Client, source: Source) -> None:
    """No SIGBUS; what is left is still there."""
    client.do("fd = memfd(4 * PAGE)")
    pin = pinned(client, source, "map_(4 * PAGE, R | W, SHARED, fd)")
    client.do("os.ftruncate(fd, PAGE)")
    assert read(pin, 0, PAGE) == PATTERN[:PAGE]
    for access in (lambda: read(pin), lambda: pin.write_from(PAGE, memoryview(b"x"))):
        with pytest.raises(IoctlError, match="byte 0x1000 of the file cannot be reached: its end is now at 0x1000"):
            access()
    client.do("os.ftruncate(fd, 4 * PAGE)")
    assert read(pin) == PATTERN[:PAGE] + bytes(3 * PAGE)
    pin.close()


@pytest.mark.usefixtures("huge_pages")
def test_huge_pages_truncated_under_us(client: Client, source: Source) -> None:
    client.do(f"fd = memfd({HUGE}, MFD | MFD_HUGETLB)")
    pin = pinned(client, source, f"map_({HUGE}, R | W, SHARED, fd)", HUGE)
    client.do("os.ftruncate(fd, 0)")
    for access in (lambda: read(pin), lambda: pin.write_from(0, memoryview(b"x"))):
        with pytest.raises(IoctlError, match="its end is now at 0x0"):
            access()
    pin.close()


def test_truncated_all_the_time(client: Client, source: Source) -> None:
    """A client that shrinks and grows its file while we copy harms nobody but itself."""
    client.do(f"fd = memfd({BIG})")
    at = client.do(f"map_({BIG}, R | W, SHARED, fd)")
    pin = source.pin(at, BIG, True)
    client.do(f"again_and_again(lambda: (os.ftruncate(fd, 0), os.ftruncate(fd, {BIG})))")
    refused = 0
    deadline = time.monotonic() + PATIENCE
    while refused < 100 and time.monotonic() < deadline:
        for access in (lambda: read(pin, 0, BIG), lambda: pin.write_from(0, memoryview(bytes(BIG)))):
            try:
                access()
            except IoctlError as refusal:
                refused += refusal.errno == errno.EFAULT
    assert refused >= 100
    client.do("leave()")
    pin.write_from(0, memoryview(b"x" * BIG))
    assert client.do(f"peek({at}, {BIG})") == b"x" * BIG
    pin.close()


@pytest.mark.parametrize("hole", ["os.posix_fallocate", "punch"])
def test_a_hole(hole: str, client: Client, source: Source) -> None:
    client.do("fd = memfd(4 * PAGE)")
    pin = pinned(client, source, "map_(4 * PAGE, R | W, SHARED, fd)")
    if hole == "punch":
        client.do("import ctypes; ctypes.CDLL(None).fallocate(fd, 3, ctypes.c_long(PAGE), ctypes.c_long(PAGE))")
        assert read(pin) == PATTERN[:PAGE] + bytes(PAGE) + PATTERN[2 * PAGE :]
    else:
        client.do("os.posix_fallocate(fd, 0, 8 * PAGE)")
        assert read(pin) == PATTERN
    pin.close()


def test_sealed_for_writing_is_refused_while_pinned(client: Client, sources: Sources) -> None:
    """As the kernel does for pinned pages."""
    fd = client.do("[fd := memfd(4 * PAGE, MFD | os.MFD_ALLOW_SEALING)]")[0]
    source = sources.file(client.caller(), fd)
    source.get()
    pin = source.pin(0, LENGTH, True)
    seal = "__import__('fcntl').fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE)"
    with pytest.raises(AssertionError, match="busy"):
        client.do(seal)
    pin.close()
    assert client.do(seal) == 0
    source.put()
