"""Twins of what a request needs of the outside: a caller whose memory is a few mapped stretches of bytes."""

from collections.abc import Sequence
from errno import EMFILE
from typing import Any

from iommud.engine.context import Context
from iommud.engine.pages import Identity
from iommud.errors import IoctlError
from iommud.ops.dispatch import Dispatcher, Handler
from iommud.ops.request import Given

PAGE = 4096


class TwinMemory:
    """Pages at addresses, each readable, and writable unless said otherwise."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}
        self.read_only: set[int] = set()

    def map(self, address: int, data: bytes = b"", *, read_only: bool = False) -> int:
        """Map the pages that `data` at `address` needs (at least one), and write it there; returns the address."""
        for page in range(address // PAGE, (address + max(len(data), 1) - 1) // PAGE + 1):
            self.pages.setdefault(page, bytearray(PAGE))
            if read_only:
                self.read_only.add(page)
        self._copy(address, data)
        return address

    def _copy(self, address: int, data: bytes) -> None:
        for at, byte in enumerate(data, address):
            self.pages[at // PAGE][at % PAGE] = byte

    def read(self, address: int, length: int) -> bytes:
        out = bytearray()
        while len(out) < length and (address + len(out)) // PAGE in self.pages:
            at = address + len(out)
            out += self.pages[at // PAGE][at % PAGE : at % PAGE + length - len(out)]
        return bytes(out)

    def write(self, address: int, data: bytes) -> int:
        for count in range(len(data)):
            page = (address + count) // PAGE
            if page not in self.pages or page in self.read_only:
                return count
            self.pages[page][(address + count) % PAGE] = data[count]
        return len(data)

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


class TwinCaller:
    def __init__(self) -> None:
        self.memory = TwinMemory()
        self.capabilities: set[int] = set()

    def capable(self, capability: int) -> bool:
        return capability in self.capabilities

    def resident(self, address: int, length: int) -> bool:
        return True

    async def settle(self, address: int, length: int) -> None:
        raise AssertionError("a twin's memory is always there")

    def maps(self, offset: int, length: int) -> bool:
        return False

    def name(self) -> str:
        return "twin[1]"


class NoOrigins:
    """For ioctls that remember nobody's memory."""

    def address_space(self, caller: Any) -> Any:
        raise AssertionError("not for this test")

    def file(self, caller: Any, number: int) -> Any:
        raise AssertionError("not for this test")

    def moved(self, caller: Any, origin: Any) -> Any:
        raise AssertionError("not for this test")

    def page_identity(self, caller: Any, address: int) -> Identity:
        raise AssertionError("not for this test")


class NoDescriptors:
    async def give(self, request: Any, behind: Given, field: int | None, flags: int = 0, no_room: int = 0) -> None:
        raise AssertionError("not for this test")

    async def give_file(self, request: Any, file: Any, field: int, fill: Any, no_room: int = EMFILE) -> None:
        file.release()
        raise IoctlError(no_room, "a twin has no descriptor free")

    def behind(self, caller: Any, number: int) -> Given:
        raise AssertionError("not for this test")


class Bench:
    """A context, a caller and a dispatcher, to try one ioctl after another."""

    def __init__(self, test_handler: Handler | None = None) -> None:
        self.caller = TwinCaller()
        self.context = Context()
        self.dispatcher = Dispatcher(NoOrigins(), NoDescriptors(), test_handler)

    async def errno(self, cmd: int, address: int) -> int:
        """What the client gets: 0, or the errno. A refusal without a sentence is none."""
        try:
            await self.dispatcher.dispatch(self.context, self.caller, cmd, address)
        except IoctlError as refusal:
            return refusal.errno if refusal.why else -1
        return 0
