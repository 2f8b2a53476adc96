"""Copies through an access, beside memcpy of the same size between memory of the same kinds, in
turns.

`by_engine`: an emulated device in the server: engine.device.access in this process, on the memory
of a real client. The memory is held (a page table stands on the IOAS, as when another device is
attached) or only remembered. `by_ioctl`: what the client gets that asks for the copy itself, with
ACCESS_RW of the mock, which takes 16 MiB at most.

Figures are bandwidths, so here a larger ratio is the better one. All memory was written to before;
the buffers are private memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from mmap import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PAGESIZE, mmap
from time import perf_counter_ns
from typing import Final

import cffi
import trio

from cuse_glue.pins.source import Sources
from cuse_glue.process import raw_memory
from cuse_glue.request.caller import Caller
from iommud.engine.device import access as accesses
from iommud.engine.device.access import Access
from iommud.engine.device.context import Context
from iommud.engine.mapping.domain import Domain
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.origin import PAGE_SIZE, AccountMode
from iommud.engine.memory.pages import user_slice
from tests.bench.rig import KINDS, MIB, PRIVATE, SHARED, Bench, Effort, Row, Verdict, in_turns, size
from tests.bench.servers import Client

AT_A_TIME: Final = 16 * MIB  # bytes that a batch moves at least, as far as `Effort.repeat` allows
HELD, REMEMBERED = STATES = "held", "remembered"
READ, WRITE = DIRECTIONS = "read", "write"
IOCTL = "by ioctl"
FLAGS = {PRIVATE: MAP_PRIVATE | MAP_ANONYMOUS, SHARED: MAP_SHARED | MAP_ANONYMOUS}
_PROT: Final = 3  # read and write

_ffi: Final = cffi.FFI()


class _Driver:
    """Of an access that copies."""

    name = "bench"
    pins = False

    async def unmap(self, iova: int, length: int) -> None:
        """It has nothing pinned."""


class Engine:
    """An IOAS, and on it an access and, while the memory is to be held, a page table."""

    def __init__(self) -> None:
        self._context = Context()
        self.ioas = Ioas(self._context.host)
        self._context.objects.reserve(self.ioas)
        self._context.objects.publish(self.ioas)
        self._origins = Sources()
        self.access: Access = accesses.create(self._context, _Driver())
        trio.run(self.access.attach, self.ioas.id)

    @contextmanager
    def mapped(self, client: Client, address: int, length: int) -> Iterator[int]:
        """Map the client's memory; its IOVA."""
        # As a client that waits in its call while a device works for it: it cannot execute another
        # program.
        origin = self._origins.address_space(Caller(client.pid, os.geteuid(), os.getegid(), True))
        part = user_slice(origin, address, length, writable=True, account_mode=AccountMode.NONE)
        iova = self.ioas.iopt.map([part], length, None, _PROT)
        yield iova
        self.ioas.iopt.unmap(iova, iova + length - 1, 1)

    @contextmanager
    def state(self, state: str) -> Iterator[None]:
        domain = Domain(PAGE_SIZE)
        if state == HELD:
            for _ in self.ioas.iopt.add_domain(domain):
                pass
        yield
        if state == HELD:
            self.ioas.iopt.remove_domain(domain)

    def close(self) -> None:
        self.access.release()
        self._context.put()
        self._origins.forget_callers()


def by_engine(bench: Bench) -> Iterator[Row]:
    client = bench.alone("memory")
    engine = Engine()
    bench.stack.callback(engine.close)
    largest = bench.effort.copies[-1]
    buffer = _touch(raw_memory.huge_buffer(largest))
    for kind in KINDS:
        address = client.ask("hold", kind, largest)
        twin = _touch(memoryview(mmap(-1, largest, flags=FLAGS[kind])))
        with engine.mapped(client, address, largest) as iova:
            for state in STATES:
                with engine.state(state):
                    for direction in DIRECTIONS:
                        for length in bench.effort.copies:
                            repeat = _repeat(bench.effort, length)
                            part = buffer[:length]
                            copy = engine.access.read_into if direction == READ else engine.access.write_from
                            to, source = (part, twin) if direction == READ else (twin, part)
                            ours = partial(_bandwidth, partial(copy, iova, part), length, repeat)
                            peer = partial(_ffi.memmove, _ffi.from_buffer(to), _ffi.from_buffer(source), length)
                            theirs = partial(_bandwidth, peer, length, repeat)
                            yield Row(
                                name(direction, length, kind, state),
                                "GB/s",
                                *in_turns(bench.effort.batches, ours, theirs),
                            )


def by_ioctl(bench: Bench) -> Iterator[Row]:
    client = bench.run("memory", mock=True)
    workloads = {READ: ("read", "memcpy_from"), WRITE: ("write", "memcpy_to")}

    def once(workload: str, length: int, repeat: int) -> float:
        return length * repeat / client.ask(workload, length, repeat)

    for kind in KINDS:
        client.ask("hold", kind, bench.effort.ioctls[-1])
        client.ask("access")
        for direction, pair in workloads.items():
            for length in bench.effort.ioctls:
                repeat = _repeat(bench.effort, length)
                both = (partial(once, workload, length, repeat) for workload in pair)
                yield Row(name(direction, length, kind, IOCTL), "GB/s", *in_turns(bench.effort.batches, *both))


def _touch(memory: memoryview) -> memoryview:
    for at in range(0, len(memory), PAGESIZE):
        memory[at] = 1
    return memory


def _repeat(effort: Effort, length: int) -> int:
    return max(1, min(effort.repeat, AT_A_TIME // length))


def _bandwidth(copy: Callable[[], object], length: int, repeat: int) -> float:
    """GB/s, of `repeat` copies."""
    copy()  # caches forget during the other's batch
    begin = perf_counter_ns()
    for _ in range(repeat):
        copy()
    return length * repeat / (perf_counter_ns() - begin)


def name(direction: str, length: int, kind: str, state: str) -> str:
    return f"access {direction} {size(length)} {kind}, {state}"


def names(effort: Effort) -> set[str]:
    """The rows, all of which have a peer."""
    lengths = {HELD: effort.copies, REMEMBERED: effort.copies, IOCTL: effort.ioctls}
    return {
        name(direction, length, kind, state)
        for state, some in lengths.items()
        for kind in KINDS
        for direction in DIRECTIONS
        for length in some
    }


def verdicts(rows: Mapping[str, Row], effort: Effort) -> Iterator[Verdict]:
    largest = effort.copies[-1]
    for kind in KINDS:
        for state in STATES:
            worst = min(rows[name(direction, largest, kind, state)].ratio or 0.0 for direction in DIRECTIONS)
            what = f"bandwidth of access reads and writes of {size(largest)} {kind}, {state}, times memcpy's"
            yield Verdict(what, worst, 0.5, at_least=True)
