"""One ioctl being carried out: who asked, the decoded struct, and the way back into the caller's memory."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from errno import EFAULT, EMFILE, ENOMEM
from typing import Any, Protocol

from cuse_glue.node import OpenFile

from ..engine.context import Context
from ..engine.objects import Object
from ..engine.pages import Identity, Origin
from ..engine.span import U64_MAX
from ..engine.user_data import Read
from ..errors import IoctlError
from ..uapi import codec
from ..uapi.table import Row


class Memory(Protocol):
    """A caller's memory (bytes). All stop at the first byte that cannot be reached. `places`: several, as (address, length)."""

    def read(self, address: int, length: int) -> bytes: ...

    def write(self, address: int, data: bytes) -> int: ...

    def read_many(self, places: Sequence[tuple[int, int]]) -> bytes: ...

    def write_many(self, places: Sequence[tuple[int, int]], data: bytes) -> int: ...


class Caller(Protocol):
    """The process behind a request (cuse_glue.caller.Caller, or a test's twin)."""

    @property
    def memory(self) -> Memory: ...

    def capable(self, capability: int) -> bool: ...

    def resident(self, address: int, length: int) -> bool:
        """Whether these bytes can be reached without waiting for anybody."""

    async def settle(self, address: int, length: int) -> None:
        """Wait, in a task of its own, until they can be or never will."""

    def maps(self, offset: int, length: int) -> bool:
        """Whether its process has a shared mapping of a file at an offset in these bytes."""

    def name(self) -> str: ...


class Origins(Protocol):
    """Where the things come from that outlive a request (held by whoever keeps them)."""

    def address_space(self, caller: Any) -> Origin: ...

    def file(self, caller: Any, number: int) -> Origin: ...

    def moved(self, caller: Any, origin: Origin) -> Origin:
        """The same file, but charged to the caller."""

    def page_identity(self, caller: Any, address: int) -> Identity:
        """Which real page the caller sees at `address` (a page boundary). IoctlError(EFAULT): none."""


class Given(Protocol):
    """What stands behind a descriptor that an ioctl gives to its caller."""

    def release(self) -> None:
        """The last descriptor was closed."""


class Descriptors(Protocol):
    """How descriptors come to the caller, and whose they are."""

    async def give(
        self, request: "Request", behind: Given, field: int | None, flags: int = os.O_RDWR | os.O_CLOEXEC, no_room: int = ENOMEM
    ) -> None:
        """Answer the ioctl with success and a new descriptor, its number written at offset `field` of the struct. None: it is the answer.

        IoctlError: it could not be; the caller gets that errno and has no descriptor. Nothing may fail after this.
        """

    async def give_file(
        self, request: "Request", file: OpenFile, field: int, fill: Callable[[int], bytes], no_room: int = EMFILE
    ) -> None:
        """As `give`, for a file that does more than to stand there. `fill`, given the number, makes the bytes that are written at
        `field`, in another thread; after it only the writing can fail (EFAULT). `no_room`: the errno when no descriptor is free.
        """

    def behind(self, caller: Any, number: int) -> Given:
        """What stands behind the caller's descriptor. IoctlError(EBADFD): it has none of that number, or it is another file."""


class Request:
    """What a handler gets. `cmd` is the struct, a cffi pointer; `row` its row of the table."""

    __slots__ = ("address", "caller", "cmd", "context", "descriptors", "origins", "row", "user_size")

    def __init__(
        self,
        context: Context,
        caller: Caller,
        origins: Origins,
        descriptors: Descriptors,
        row: Row,
        address: int,
        user_size: int,
        cmd: Any,
    ) -> None:
        self.descriptors = descriptors
        self.context = context
        self.caller = caller
        self.origins = origins
        self.row = row
        self.address = address
        self.user_size = user_size
        self.cmd = cmd

    def respond(self) -> None:
        """Write the struct back, as much of it as the caller knows. EFAULT: it cannot be written.

        Ref: v7.3 iommufd_private.h iommufd_ucmd_respond
        """
        size = min(self.user_size, self.row.size)
        self.write(self.address, codec.encode(self.cmd, size), "the struct")

    @contextmanager
    def creating(self, new: Object) -> Iterator[None]:
        """Around what sets the struct's fields for an object that has its ID: then the caller is told, and the object is there for all.

        Whatever fails, EFAULT of `respond` too: there is no object.
        """
        objects = self.context.objects
        try:
            yield
            self.respond()
        except BaseException:
            objects.abort_and_destroy(new)
            raise
        objects.publish(new)

    async def settle(self, address: int, length: int) -> None:
        """To be awaited before an array is read or written: whoever makes his memory slow delays only himself."""
        if length and not self.caller.resident(address, length):
            await self.caller.settle(address, length)

    def write(self, address: int, data: bytes, what: str) -> None:
        """Write to the caller's memory. EFAULT: not all of it could be; what could stays written."""
        count = self.caller.memory.write(address, data)
        if count != len(data):
            raise IoctlError(EFAULT, f"{what} cannot be written at {address + count:#x}")

    def read(self, address: int, length: int, what: str) -> bytes:
        """Read from the caller's memory. EFAULT: not all of it could be."""
        data = self.caller.memory.read(address, length)
        if len(data) != length:
            raise IoctlError(EFAULT, f"{what} cannot be read at {address + len(data):#x}")
        return data

    def reader(self, address: int) -> Read:
        """What a driver reads the data at `address` of the caller's memory with, when it wants to."""
        memory = self.caller.memory
        return lambda offset, length: memory.read(address + offset & U64_MAX, length)

    async def give(self, behind: Given, field: int) -> None:
        """`Descriptors.give` to this caller."""
        await self.descriptors.give(self, behind, field)

    async def return_descriptor(self, behind: Given, flags: int) -> None:
        """As `give`, but the ioctl's result is the descriptor, opened with these flags. EMFILE: none is free."""
        await self.descriptors.give(self, behind, None, flags, EMFILE)

    async def give_file(self, file: OpenFile, field: int, fill: Callable[[int], bytes]) -> None:
        """`Descriptors.give_file` to this caller."""
        await self.descriptors.give_file(self, file, field, fill)

    def open_file(self, number: int) -> Given:
        """`Descriptors.behind` of this caller."""
        return self.descriptors.behind(self.caller, number)

    def address_space(self) -> Origin:
        """The caller's address space, to be held by what remembers memory in it."""
        try:
            return self.origins.address_space(self.caller)
        except OSError as error:
            # The process died in its ioctl: nobody is there to see the answer, but it gets one.
            raise IoctlError(EFAULT, f"the caller's memory is out of reach: {error}") from None

    def moved(self, origin: Origin) -> Origin:
        """The file behind `origin` as this caller's, who is charged for it from then on; to be held."""
        try:
            return self.origins.moved(self.caller, origin)
        except OSError as error:
            raise IoctlError(EFAULT, f"the caller's memory is out of reach: {error}") from None
