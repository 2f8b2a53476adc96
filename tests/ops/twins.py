"""Twins of what a request needs of the outside: a process with memory and descriptors, and how
descriptors come to it.

What a client maps is real: its address space holds bytes, a pin holds the pages that were there
when it was made, and a file has an offset for each of its bytes. Nothing here waits for anybody,
but memory can be said to be slow.
"""

import os
from collections.abc import Callable, Sequence
from errno import EBADF, EBADFD, EFAULT, EMFILE, ENOMEM, ESRCH
from typing import Any

import trio

from cuse_glue.request.inline import leave
from cuse_glue.request.open_file import OpenFile
from iommud.engine.memory.origin import Identity
from iommud.errors import IoctlError
from iommud.ops.request import Given, Request
from tests.engine.fakes import FakeOrigin, FakePin, Faults

PAGE = 4096


class TwinMemory:
    """Pages at addresses, each readable, and writable unless said otherwise. `slow`: pages that
    cannot be reached without a wait.
    """

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.read_only: set[int] = set()
        self.slow: set[int] = set()

    def map(self, address: int, data: bytes = b"", *, read_only: bool = False) -> int:
        """Map the pages that `data` at `address` needs (at least one), and write it there; returns
        the address.
        """
        for page in pages_of(address, max(len(data), 1)):
            self.pages.setdefault(page, bytearray(PAGE))
            if read_only:
                self.read_only.add(page)
            else:
                self.read_only.discard(page)
        self._put(address, data)
        return address

    def unmap(self, address: int, length: int = 1) -> None:
        for page in pages_of(address, length):
            del self.pages[page]
            self.read_only.discard(page)

    def make_slow(self, address: int, length: int = 1) -> None:
        self.slow.update(pages_of(address, length))

    def read(self, address: int, length: int) -> bytes:
        self._check_quick(address, length)
        out = bytearray()
        while len(out) < length and (address + len(out)) // PAGE in self.pages:
            at = address + len(out)
            out += self.pages[at // PAGE][at % PAGE : at % PAGE + length - len(out)]
        return bytes(out)

    def write(self, address: int, data: bytes) -> int:
        self._check_quick(address, len(data))
        pages = pages_of(address, len(data))
        stop = next((page for page in pages if page not in self.pages or page in self.read_only), pages.stop)
        count = min(max(stop * PAGE - address, 0), len(data))
        self._put(address, data[:count])
        return count

    def read_many(self, places: Sequence[tuple[int, int]]) -> bytes:
        out = bytearray()
        for address, length in places:
            out += (part := self.read(address, length))
            if len(part) < length:
                break
        return bytes(out)

    def write_many(self, places: Sequence[tuple[int, int]], data: bytes) -> int:
        done = 0
        for address, length in places:
            done += (count := self.write(address, data[done : done + length]))
            if count < length:
                break
        return done

    def _put(self, address: int, data: bytes) -> None:
        while data:
            page, at = divmod(address, PAGE)
            part = data[: PAGE - at]
            self.pages[page][at : at + len(part)] = part
            address, data = address + len(part), data[len(part) :]

    def _check_quick(self, address: int, length: int) -> None:
        if self.slow:
            assert self.slow.isdisjoint(pages_of(address, length)), "memory that is slow is to be waited for"


def pages_of(address: int, length: int) -> range:
    return range(address // PAGE, (address + length - 1) // PAGE + 1)


class TwinOrigin(FakeOrigin):
    """What a request's memory comes from. `to_look`: what is to be called, in a worker thread,
    before it is pinned.
    """

    def __init__(self, faults: Faults | None = None, **how: Any) -> None:
        super().__init__(faults, **how)
        self.to_look: Callable[[], None] | None = None
        self.looked: list[tuple[int, int]] = []  # (start, length) of each look
        self.looking = 0  # looks that are not forgotten

    def look(self, start: int, length: int) -> Callable[[], None] | None:
        self.looked.append((start, length))
        self.looking += 1
        return self.to_look

    def forget_look(self) -> None:
        self.looking -= 1

    def read_now(self, address: int, buffer: memoryview, *, itself: bool = True) -> None:
        for page in pages_of(address, len(buffer)):
            begin, end = max(page * PAGE, address), min((page + 1) * PAGE, address + len(buffer))
            buffer[begin - address : end - address] = self.page(page)[begin % PAGE : begin % PAGE + end - begin]

    def write_now(self, address: int, data: memoryview) -> None:
        for page in pages_of(address, len(data)):
            begin, end = max(page * PAGE, address), min((page + 1) * PAGE, address + len(data))
            self.page(page)[begin % PAGE : begin % PAGE + end - begin] = data[begin - address : end - address]


class TwinProcess(TwinOrigin):
    """The address space of a client, as the engine knows it."""

    def __init__(self, memory: TwinMemory, name: str) -> None:
        super().__init__(mm=name)
        self.memory = memory.pages
        self._twin = memory

    def page(self, number: int) -> bytearray:
        if number not in self.memory or self.lost:
            raise IoctlError(EFAULT, f"page {number:#x} is not mapped")
        return self.memory[number]

    def pin(self, start: int, length: int, writable: bool, *, brief: bool = False) -> FakePin:
        self._check_writable(start, length if writable else 0)
        return super().pin(start, length, writable, brief=brief)

    def write_now(self, address: int, data: memoryview) -> None:
        self._check_writable(address, len(data))
        super().write_now(address, data)

    def _check_writable(self, start: int, length: int) -> None:
        if not self._twin.read_only.isdisjoint(pages_of(start, length)):
            raise IoctlError(EFAULT, "the memory is read-only")


class TwinCaller:
    """A process. `files`: what its descriptors are that were not given to it here."""

    def __init__(self, name: str = "twin") -> None:
        self.memory = TwinMemory()
        self.process = TwinProcess(self.memory, name)
        self.capabilities: set[int] = set()
        self.files: dict[int, TwinOrigin] = {}
        self.mapped: set[tuple[int, int]] = set()  # (offset, length) of the device file
        self.gone = False
        self.waits: list[tuple[int, int]] = []  # what was waited for: (address, length)
        self.aside: list[tuple[int, int]] = []  # what was looked through aside: (address, length)
        self.meanwhile: Callable[[], None] = lambda: None  # done while it is waited

    def capable(self, capability: int) -> bool:
        return capability in self.capabilities

    def resident(self, address: int, length: int) -> bool:
        return self.memory.slow.isdisjoint(pages_of(address, length))

    async def settle(self, address: int, length: int) -> None:
        await leave()
        await trio.lowlevel.checkpoint()
        self.waits.append((address, length))
        self.memory.slow.difference_update(pages_of(address, length))
        self.meanwhile()

    async def zeros(self, address: int, length: int) -> tuple[int, bool]:
        await leave()
        await trio.lowlevel.checkpoint()
        self.aside.append((address, length))
        self.memory.slow.difference_update(pages_of(address, length))
        data = self.memory.read(address, length)
        zeros = len(data) - len(data.lstrip(b"\0"))
        return zeros, zeros < len(data)

    def maps(self, offset: int, length: int) -> bool:
        return (offset, length) in self.mapped

    def name(self) -> str:
        return f"{self.process.mm}[1]"


class TwinOrigins:
    """Where what the engine remembers comes from."""

    def __init__(self) -> None:
        self.given: list[TwinOrigin] = []

    def address_space(self, caller: TwinCaller) -> TwinOrigin:
        return self._given(caller, caller.process)

    def file(self, caller: TwinCaller, number: int) -> TwinOrigin:
        if number not in caller.files:
            raise OSError(EBADF, os.strerror(EBADF))
        return self._given(caller, caller.files[number])

    def moved(self, caller: TwinCaller, origin: TwinOrigin) -> TwinOrigin:
        moved = TwinOrigin(uid=caller.process.uid, mm=caller.process.mm, is_file=True)
        moved.memory = origin.memory
        moved.limit = caller.process.limit
        return self._given(caller, moved)

    def page_identity(self, caller: TwinCaller, address: int) -> Identity:
        return self._given(caller, caller.process).identity(address // PAGE)

    def _given(self, caller: TwinCaller, origin: TwinOrigin) -> TwinOrigin:
        if caller.gone:
            raise ProcessLookupError(ESRCH, os.strerror(ESRCH))
        if origin not in self.given:
            self.given.append(origin)
        return origin

    def check_gone(self) -> None:
        """Nothing remembers any of it."""
        for origin in self.given:
            assert origin.looking == 0
            assert origin.refs == 0
            assert origin.pins == []


class TwinDescriptors:
    """The descriptors that were given here, from 100 on. `room`: how many more there may be."""

    def __init__(self) -> None:
        self.open: dict[int, Given] = {}
        self.flags: dict[int, int] = {}
        self.room = 100
        self.result = 0  # what the ioctl returns when it is the descriptor
        self.before_write: Callable[[], None] = lambda: (
            None
        )  # when the descriptor is there, and the client does not know yet

    async def give(
        self,
        request: Request,
        behind: Given,
        field: int | None,
        flags: int = os.O_RDWR | os.O_CLOEXEC,
        no_room: int = ENOMEM,
    ) -> None:
        def fill(number: int) -> bytes:
            return number.to_bytes(4, "little")

        await self._give(request, behind, field, fill, no_room, flags)

    async def give_file(
        self,
        request: Request,
        file: OpenFile,
        field: int,
        fill: Callable[[int], bytes],
        no_room: int = EMFILE,
    ) -> None:
        await self._give(request, file, field, fill, no_room, os.O_RDWR | os.O_CLOEXEC)

    async def _give(
        self, request: Request, behind: Given, field: int | None, fill: Callable[[int], bytes], no_room: int, flags: int
    ) -> None:
        try:
            if len(self.open) >= self.room:
                raise IoctlError(no_room, "the client has no descriptor free")
            number = next(number for number in range(100, 1000) if number not in self.open)
            data = fill(number)
            self.before_write()
            if field is None:
                self.result = number
            else:
                request.write(request.address + field, data, "the descriptor")
        except BaseException:
            behind.release()
            raise
        self.open[number], self.flags[number] = behind, flags

    def behind(self, caller: TwinCaller, number: int) -> Given:
        if number not in self.open:
            raise IoctlError(EBADFD, f"descriptor {number} is none of ours")
        return self.open[number]

    def close(self, number: int) -> None:
        """The client closes it, or ends."""
        self.open.pop(number).release()
