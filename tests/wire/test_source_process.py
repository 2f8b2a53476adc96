"""Threads of a client and of ours, the limits of a process, and memory as the process sees
it now.
"""

import os
import resource
import threading
from pathlib import Path

import pytest

from cuse_glue.errors import IoctlError
from cuse_glue.pins.source import Pin, Source, Sources
from cuse_glue.process import vma

from .conftest import Client
from .mappings import PAGE
from .test_source_loss import BIG, read
from .test_source_ways import NO_SUCH_IOCTL


@pytest.fixture(params=["this kernel", "an old kernel"])
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """An old one has no PROCMAP_QUERY, and the text that it has instead ends with the thread."""
    if request.param == "an old kernel":
        monkeypatch.setattr(vma, "_PROCMAP_QUERY", NO_SUCH_IOCTL)


def in_another_thread(client: Client, sources: Sources, text: str) -> tuple[Source, int]:
    tid, at = client.do(f"thread({text!r})")
    assert tid != client.pid
    found = sources.address_space(client.caller(tid))
    found.get()
    return found, at


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("length", [PAGE, BIG])
def test_the_thread_that_mapped_is_gone(length: int, client: Client, sources: Sources) -> None:
    """Small pieces and large ones, which need a living thread, go on."""
    source, at = in_another_thread(client, sources, f"anonymous(R | W, length={BIG})")
    pin = source.pin(at, BIG, True)
    client.do("leave()")
    pin.write_from(0, memoryview(b"z" * length))
    assert client.do(f"peek({at}, {length})") == b"z" * length
    assert read(pin, 0, length) == b"z" * length
    more = source.pin(at, PAGE, True)
    of_main = sources.address_space(client.caller())
    assert of_main is source, "all threads of a process have one address space"
    more.close()
    pin.close()
    source.put()


@pytest.mark.usefixtures("kernel")
def test_the_first_thread_is_gone(client: Client, sources: Sources) -> None:
    """A process lives on without its first thread, whose number is the process's."""
    source, at = in_another_thread(client, sources, f"map_({BIG}, R | W, SHARED, memfd({BIG}))")
    private = client.do(f"anonymous(R | W, length={BIG})")
    client.tell("import ctypes; ctypes.CDLL(None).syscall(60, 0)")  # exit(2) of this thread only
    status = f"/proc/{client.pid}/task/{client.pid}/status"
    while "State:\tZ" not in Path(status).read_text():
        os.sched_yield()
    for where in (private, at):
        pin = source.pin(where, BIG, True)
        pin.write_from(0, memoryview(b"q" * BIG))
        assert read(pin, 0, BIG) == b"q" * BIG
        pin.close()
    assert source.alive()
    source.put()


def test_limits(client: Client, source: Source) -> None:
    client.do("import resource, ctypes")
    soft, hard = client.do("resource.getrlimit(resource.RLIMIT_MEMLOCK)")
    assert source.memlock_limit() == (None if soft == resource.RLIM_INFINITY else soft)
    client.do(f"resource.setrlimit(resource.RLIMIT_MEMLOCK, ({1 << 16}, {hard}))")
    assert source.memlock_limit() == 1 << 16
    assert source.locked_pages() == 0
    client.do("at = anonymous(R | W)")
    assert client.do("ctypes.CDLL(None).mlock(ctypes.c_void_p(at), 3 * PAGE)") == 0
    assert source.locked_pages() == 3
    client.do("resource.setrlimit(resource.RLIMIT_MEMLOCK, (12345, 12345))")
    assert source.memlock_limit() == 12345
    client.end()
    assert source.memlock_limit() == 12345
    assert source.locked_pages() == 0
    assert not source.alive()


def test_the_limit_of_a_process_that_has_gone_before_anybody_asked(client: Client, source: Source) -> None:
    soft, _ = client.do("__import__('resource').getrlimit(8)")  # RLIMIT_MEMLOCK
    client.end()
    assert source.memlock_limit() == (None if soft == resource.RLIM_INFINITY else soft)


@pytest.mark.parametrize(("soft", "expected"), [(resource.RLIM_INFINITY, None), (4096, 4096)])
def test_no_limit(soft: int, expected: int | None, source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every root may raise its limit: the kernel's answer is made up here."""
    monkeypatch.setattr(resource, "prlimit", lambda pid, what: (soft, resource.RLIM_INFINITY))
    assert source.memlock_limit() == expected


def test_read_and_write_now(client: Client, source: Source) -> None:
    """What the process itself could do, protection included."""
    at = client.do("at = anonymous(R | W)") or client.do("at")
    source.write_now(at + PAGE - 2, memoryview(b"across"))
    got = bytearray(6)
    source.read_now(at + PAGE - 2, memoryview(got))
    assert got == b"across" == client.do("peek(at + PAGE - 2, 6)")
    client.do("protect(at + PAGE, PAGE, R)")
    source.read_now(at + PAGE - 2, memoryview(got))
    with pytest.raises(IoctlError, match=f"{at + PAGE:#x} .* cannot be written"):
        source.write_now(at + PAGE - 2, memoryview(b"across"))
    client.do("protect(at + PAGE, PAGE, NONE)")
    with pytest.raises(IoctlError, match=f"{at + PAGE:#x} .* cannot be read"):
        source.read_now(at + PAGE - 2, memoryview(got))
    client.end()
    with pytest.raises(IoctlError, match="has exited"):
        source.read_now(at, memoryview(got))


def test_reading_in_threads(client: Client, source: Source) -> None:
    """Nothing is shared between copies that run at the same time."""
    client.do(f"at = map_({BIG}, R | W, SHARED, memfd({BIG}))")
    client.do(f"private = anonymous(R | W, length={BIG})")
    client.do(
        f"for n in range({BIG // PAGE}): poke(at + n * PAGE, bytes([n % 251]) * PAGE), poke(private + n * PAGE, bytes([n % 251]) * PAGE)"
    )
    pins = [source.pin(client.do(name), BIG, True) for name in ("at", "private")]
    wrong = []

    def work(pin: Pin, start: int) -> None:
        for page in [*range(start, BIG // PAGE), *range(start)]:
            if read(pin, page * PAGE, PAGE) != bytes([page % 251]) * PAGE:
                wrong.append(page)
        if read(pin, 0, BIG)[::PAGE] != bytes(page % 251 for page in range(BIG // PAGE)):
            wrong.append(-1)

    workers = [threading.Thread(target=work, args=(pin, start)) for pin in pins for start in (0, 50, 100)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong
    for pin in pins:
        pin.close()
