"""One ioctl that is being carried out: who asked, the decoded struct, and the way back into the
caller's memory.
"""

import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from errno import EFAULT, EMFILE, ENOMEM
from typing import Any, Protocol

import trio

from cuse_glue.request.caller import Memory
from cuse_glue.request.inline import leave
from cuse_glue.request.open_file import OpenFile

from ..engine.device.context import Context
from ..engine.mapping.objects import Object
from ..engine.mapping.user_data import Read
from ..engine.memory.origin import PAGE_SIZE, Identity, Origin
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from ..uapi import codec
from ..uapi.layout import Layout


class Client(Protocol):
    """The process behind a request (cuse_glue.request.caller.Caller, or a test's twin)."""

    @property
    def memory(self) -> Memory: ...

    def capable(self, capability: int) -> bool: ...

    def resident(self, address: int, length: int) -> bool:
        """Whether these bytes can be reached without waiting for anybody."""

    async def settle(self, address: int, length: int) -> None:
        """Wait, in a task of its own, until they can be or never will."""

    async def zeros(self, address: int, length: int) -> tuple[int, bool]:
        """How many of many bytes are zero before one that is not, or cannot be read; whether it is
        not.
        """

    def maps(self, offset: int, length: int) -> bool:
        """Whether its process has a shared mapping of a file at an offset in these bytes."""

    def name(self) -> str: ...


class ClientOrigin(Origin, Protocol):
    """Where a request's memory comes from. One can look ahead at it, in another thread, before it
    is pinned.
    """

    def look(self, start: int, length: int) -> Callable[[], None] | None:
        """Call this before memory is pinned. If it returns something, a worker thread must call
        that first. Call `forget_look` afterwards.
        """

    def forget_look(self) -> None: ...


class Origins(Protocol):
    """Where memory and files come from that outlive a request. Whoever keeps them holds them.
    OSErrors: the caller is gone, or out of reach.
    """

    def address_space(self, caller: Any) -> ClientOrigin: ...

    def file(self, caller: Any, number: int) -> ClientOrigin: ...

    def moved(self, caller: Any, origin: Any) -> ClientOrigin:
        """The same file (one that `file` returned), but charged to the caller."""

    def page_identity(self, caller: Any, address: int) -> Identity:
        """Which real page the caller sees at `address` (a page boundary).
        IoctlError(EFAULT): none.
        """


class Given(Protocol):
    """What stands behind a descriptor that an ioctl gives to its caller."""

    def release(self) -> None:
        """The last descriptor was closed."""


class Descriptors(Protocol):
    """How descriptors come to the caller, and what stands behind them."""

    async def give(
        self,
        request: "Request",
        behind: Given,
        field: int | None,
        flags: int = os.O_RDWR | os.O_CLOEXEC,
        no_room: int = ENOMEM,
    ) -> None:
        """Answer the ioctl with success and a new descriptor, whose number is written at offset
        `field` of the struct. If `field` is None, the number is the ioctl's result.

        IoctlError: it was not possible; the caller gets that errno and no descriptor. Nothing may
        fail after this.
        """

    async def give_file(
        self, request: "Request", file: OpenFile, field: int, fill: Callable[[int], bytes], no_room: int = EMFILE
    ) -> None:
        """As `give`, for a file that answers requests itself. `fill` gets the number, and returns
        the bytes that are written at `field`; it runs in another thread. After it only the writing
        can fail (EFAULT). `no_room`: the errno if no descriptor is free.
        """

    def behind(self, caller: Any, number: int) -> Given:
        """What stands behind the caller's descriptor. IoctlError(EBADFD): there is no descriptor
        with that number, or it is another file.
        """


@dataclass(slots=True, eq=False)
class Request:
    """What a handler gets. `cmd` is the struct, a cffi pointer, of the layout `struct`. The caller
    has it at `address`, and knows `user_size` bytes of it.
    """

    context: Context
    caller: Client
    origins: Origins
    descriptors: Descriptors
    struct: Layout
    address: int
    user_size: int
    cmd: Any

    def respond(self) -> None:
        """Write the struct back, as much of it as the caller knows. EFAULT: it cannot be written.

        Ref: v7.3 iommufd_private.h iommufd_ucmd_respond
        """
        size = min(self.user_size, self.struct.size)
        self.write(self.address, codec.encode(self.cmd, size), "the struct")

    @contextmanager
    def creating(self, new: Object) -> Iterator[None]:
        """For use around what sets the struct's fields for an object that has its ID. At the end
        the caller is told, and the object is published.

        If anything fails, even `respond` (EFAULT), there is no object.
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
        """Await this before an array is read or written, so that a client that makes its memory
        slow delays only itself.
        """
        if length and not self.caller.resident(address, length):
            await self.caller.settle(address, length)

    def write(self, address: int, data: bytes, what: str) -> None:
        """Write to the caller's memory. EFAULT: not all of it could be written; what could be stays
        written.
        """
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
        """A function by which a driver reads the data at `address` of the caller's memory, when it
        wants to.
        """
        memory = self.caller.memory
        return lambda offset, length: memory.read(address + offset & U64_MAX, length)

    async def give(self, behind: Given, field: int) -> None:
        """`Descriptors.give` to this caller."""
        await self.descriptors.give(self, behind, field)

    async def return_descriptor(self, behind: Given, flags: int) -> None:
        """As `give`, but the ioctl's result is the descriptor, opened with these flags. EMFILE:
        none is free.
        """
        await self.descriptors.give(self, behind, None, flags, EMFILE)

    async def give_file(self, file: OpenFile, field: int, fill: Callable[[int], bytes]) -> None:
        """`Descriptors.give_file` to this caller."""
        await self.descriptors.give_file(self, file, field, fill)

    def open_file(self, number: int) -> Given:
        """`Descriptors.behind` of this caller."""
        return self.descriptors.behind(self.caller, number)

    def address_space(self) -> ClientOrigin:
        """The caller's address space. Whatever remembers memory in it holds it."""
        try:
            return self.origins.address_space(self.caller)
        except OSError as error:
            raise _out_of_reach(error) from None

    def page_identity(self, address: int) -> Identity:
        """`Origins.page_identity` of this caller."""
        try:
            return self.origins.page_identity(self.caller, address)
        except OSError as error:
            raise _out_of_reach(error) from None

    @asynccontextmanager
    async def looked(self, origin: ClientOrigin, start: int, length: int) -> AsyncIterator[None]:
        """For use around what pins these bytes of the caller's memory. They may lie in very many
        mappings, and others have their turn while these are looked up.
        """
        first = start // PAGE_SIZE * PAGE_SIZE
        ask = origin.look(first, -(-(start + length) // PAGE_SIZE) * PAGE_SIZE - first)
        try:
            if ask is not None:
                await leave()
                await trio.to_thread.run_sync(ask)
            yield
        finally:
            origin.forget_look()

    def moved(self, origin: Origin) -> Origin:
        """The file behind `origin` as this caller's, who is charged for it from now on. `get`
        it.
        """
        try:
            return self.origins.moved(self.caller, origin)
        except OSError as error:
            raise _out_of_reach(error) from None


def _out_of_reach(error: OSError) -> IoctlError:
    """EFAULT. The process may have died in its ioctl; nobody is there to see the answer, but there
    has to be one. Or we may not look into the process.
    """
    return IoctlError(EFAULT, f"the caller's memory is out of reach: {error.strerror}")
