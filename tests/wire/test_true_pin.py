"""True pins of real processes, which are taken in hand wherever they are: what is pinned, what
shows, and what is left of it afterwards.
"""

import logging
import os
import random
import re
import signal
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from cuse_glue.errors import IoctlError
from cuse_glue.pins.account import of as account_of
from cuse_glue.pins.source import Pin, Source, Sources
from cuse_glue.request.caller import forget_threads
from cuse_glue.tracing import ptrace

from .conftest import Client, descriptors
from .mappings import PAGE

pytestmark = [
    pytest.mark.usefixtures("root"),
    pytest.mark.skipif(ptrace.machine() is not ptrace.X86_64, reason="x86-64 only"),
]

PAGES = 4
LENGTH = PAGES * PAGE
PATTERN = bytes(range(256)) * (LENGTH // 256)
KILLS = 40


def status(pid: int, name: str) -> int:
    """Pages."""
    found = re.search(rf"^{name}:\s*(\d+) kB$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 // PAGE if found else 0


def capabilities(pid: int) -> list[str]:
    return re.findall(r"^Cap.*$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)


def traces(client: Client) -> tuple[list[str], list[str], int]:
    """Its descriptors, its mappings and its threads."""
    fds = sorted(os.listdir(f"/proc/{client.pid}/fd"))
    maps = [line for line in Path(f"/proc/{client.pid}/maps").read_text().splitlines() if "[heap]" not in line]
    return fds, maps, len(os.listdir(f"/proc/{client.pid}/task"))


class World:
    """The sources of a device that makes true pins."""

    def __init__(self) -> None:
        self.sources = Sources(true_pins=True)
        assert self.sources.true_pins is not None
        self.true_pins = self.sources.true_pins
        self.held: list[Source] = []

    def source(self, client: Client) -> Source:
        source = self.sources.address_space(client.caller())
        source.get()
        self.held.append(source)
        return source

    async def settle(self) -> None:
        self.true_pins.settle_soon()
        await self.true_pins.wait_until_idle()

    async def pin(self, client: Client, text: str = "anonymous(R | W)", *, locked: bool = False) -> Pin:
        """Pin new memory of the client's, which is at `at` there and has the pattern."""
        client.do(f"at = {text}")
        client.do(f"poke(at, bytes(range(256)) * {LENGTH // 256})")
        source = self.source(client)
        pin = source.pin(client.do("at"), LENGTH, True)
        source.pinned(PAGES, locked)
        await self.settle()
        return pin

    async def unpin(self, pin: Pin, *, locked: bool = False) -> None:
        self.held[-1].pinned(-PAGES, locked)
        pin.close()
        await self.settle()


@asynccontextmanager
async def world() -> AsyncIterator[World]:
    forget_threads()
    before = descriptors()
    made = World()
    yield made
    for source in made.held:
        source.put()
    made.true_pins.close()
    made.sources.forget_callers()
    # A memfd of ours stays, which counting needs.
    assert [name for name in descriptors() if "iommud-pinned" not in name] == [
        name for name in before if "iommud-pinned" not in name
    ]


def read(pin: Pin) -> bytes:
    got = bytearray(LENGTH)
    pin.read_into(0, memoryview(got))
    return bytes(got)


def unmap(client: Client) -> None:
    client.do(f"unmap(at, {LENGTH})")


def replace(client: Client) -> None:
    client.do(f"unmap(at, {LENGTH})")
    assert client.do(f"map_({LENGTH}, R | W, PRIVATE | ANONYMOUS, -1, 0, at)") == client.do("at")
    client.do("poke(at, b'new')")


def execute(client: Client) -> None:
    client.tell("execute()")
    assert client.answer() == "ready"


def leave(client: Client) -> None:
    client.end()


@pytest.mark.parametrize("way", [unmap, replace, execute, leave])
@pytest.mark.parametrize(
    "text", ["anonymous(R | W)", "map_(4 * PAGE, R | W, PRIVATE, memfd(4 * PAGE))", "anonymous(R | W, SHARED)"]
)
async def test_it_stays(client: Client, text: str, way: object) -> None:
    async with world() as here:
        pin = await here.pin(client, text)
        assert status(client.pid, "VmPin") == PAGES
        assert callable(way)
        way(client)
        assert read(pin) == PATTERN
        pin.write_from(PAGE - 2, memoryview(b"over"))
        assert read(pin) == PATTERN[: PAGE - 2] + b"over" + PATTERN[PAGE + 2 :]
        await here.unpin(pin)
        if way is not leave:
            assert status(client.pid, "VmPin") == 0


async def test_by_a_thread_that_gave_up_its_capability(client: Client) -> None:
    """As on kernels that do not count what has CAP_IPC_LOCK; its process keeps the capability."""
    before = capabilities(client.pid)
    async with world() as here:
        here.true_pins._counts_all = False
        source = here.source(client)
        source.pinned(7, False)
        await here.settle()
        assert status(client.pid, "VmPin") == 7
        assert capabilities(client.pid) == before
        source.pinned(-7, False)
        await here.settle()


async def test_the_client_sees_what_is_written(client: Client) -> None:
    async with world() as here:
        pin = await here.pin(client)
        pin.write_from(3, memoryview(b"hello"))
        assert client.do("peek(at, 9)") == PATTERN[:3] + b"hello" + PATTERN[8:9]
        await here.unpin(pin)


async def test_nothing_is_left_in_the_client(client: Client) -> None:
    client.do("at = anonymous(R | W)")
    async with world() as here:
        before = traces(client)
        pin = here.source(client).pin(client.do("at"), LENGTH, True)
        for locked in PAGES, PAGES + 3, 1:
            here.held[0].pinned(PAGES, False)
            here.held[0].pinned(locked, True)
            await here.settle()
            assert (status(client.pid, "VmPin"), status(client.pid, "VmLck")) == (PAGES + locked, locked)
            fds, maps, threads = traces(client)
            assert (fds, len(maps), threads) == (before[0], len(before[1]) + 1, 1)
            here.held[0].pinned(-locked, True)
            here.held[0].pinned(-PAGES, False)
        pin.close()
        await here.settle()
        assert (status(client.pid, "VmPin"), status(client.pid, "VmLck")) == (0, 0)
        assert traces(client) == before


async def test_a_mapping_that_the_client_took_away_is_not_touched_again(client: Client) -> None:
    async with world() as here:
        source = here.source(client)
        source.pinned(3, True)
        await here.settle()
        account = account_of(source.mm)
        assert account.region is not None
        address, pages = account.region
        client.do(f"unmap({address}, {pages * PAGE})")
        client.do(f"there = map_({pages * PAGE}, R | W, PRIVATE | ANONYMOUS, -1, 0, {address})")
        client.do(f"poke({address}, b'mine')")
        source.pinned(-3, True)
        await here.settle()
        assert client.do(f"peek({address}, 4)") == b"mine"


async def test_many_threads_any_of_which_is_taken(client: Client) -> None:
    for _ in range(5):
        client.do("thread('1')")
    async with world() as here:
        pin = await here.pin(client, locked=True)
        assert (status(client.pid, "VmPin"), status(client.pid, "VmLck")) == (PAGES, PAGES)
        await here.unpin(pin, locked=True)
        assert (status(client.pid, "VmPin"), status(client.pid, "VmLck")) == (0, 0)
    client.do("leave()")


async def test_a_client_with_a_debugger_is_watched(client: Client, caplog: pytest.LogCaptureFixture) -> None:
    attached, done = threading.Event(), threading.Event()

    def debug() -> None:
        tracee = ptrace.Tracee(client.pid, ptrace.X86_64, client.caller().memory)
        attached.set()
        done.wait()
        tracee.interrupt()
        tracee.wait_stop()
        tracee.detach()

    debugger = threading.Thread(target=debug)
    debugger.start()
    attached.wait()
    async with world() as here:
        pin = await here.pin(client)
        assert read(pin) == PATTERN
        await here.settle()
        done.set()
        debugger.join()
        unmap(client)
        with pytest.raises(IoctlError, match="has unmapped"):
            read(pin)
        assert status(client.pid, "VmPin") == 0
        await here.unpin(pin)
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) == 1
    assert "is traced by process" in said[0]


async def test_memory_that_is_not_writable_is_watched(client: Client) -> None:
    async with world() as here:
        client.do("at = anonymous(R | W)")
        client.do("poke(at, b'first')")
        client.do(f"protect(at, {LENGTH}, R)")
        source = here.source(client)
        pin = source.pin(client.do("at"), LENGTH, False)
        source.pinned(PAGES, False)
        await here.settle()
        assert status(client.pid, "VmPin") == PAGES
        got = bytearray(5)
        pin.read_into(0, memoryview(got))
        assert got == b"first"
        unmap(client)
        with pytest.raises(IoctlError, match="has unmapped"):
            pin.read_into(0, memoryview(got))
        await here.unpin(pin)


async def test_a_pin_that_is_closed_before_it_is_truly_pinned(client: Client) -> None:
    async with world() as here:
        client.do("at = anonymous(R | W)")
        source = here.source(client)
        for _ in range(20):
            pin = source.pin(client.do("at"), LENGTH, True)
            here.true_pins.settle_soon()
            pin.close()
        await here.settle()
        assert status(client.pid, "VmPin") == 0


async def test_clients_that_die_in_our_hands() -> None:
    rng = random.Random(3)
    for _ in range(KILLS):
        client = Client()
        async with world() as here:
            client.do("at = anonymous(R | W)")
            source = here.source(client)
            pin = source.pin(client.do("at"), LENGTH, True)
            source.pinned(PAGES, True)
            here.true_pins.settle_soon()
            killer = threading.Timer(rng.random() * 0.002, os.kill, (client.pid, signal.SIGKILL))
            killer.start()
            with trio.fail_after(20):
                await here.true_pins.wait_until_idle()
            killer.join()
            client.end()
            source.pinned(-PAGES, True)
            pin.close()
            with trio.fail_after(20):
                await here.settle()
