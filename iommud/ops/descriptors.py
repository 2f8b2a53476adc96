"""Descriptors that ioctls give to clients, and the way back from a client's descriptor number to what it stands for.

A client names an access by the number of a descriptor of its own, which may have been duplicated, inherited or sent. What tells us which of
our open files it is, at the cost of one small read and from any process, is the file's position: ours to set when we give it, random,
and of no other use, as these files are neither read nor written at a position. Who moves it loses the access (EBADFD).
"""

import os
import re
import secrets
import select
from collections.abc import Callable
from errno import EBADFD, EINVAL, EMFILE, ENOMEM, ENOTTY
from typing import Final

from cuse_glue.caller import Caller
from cuse_glue.inject import Injector, Refused
from cuse_glue.node import OpenFile

from ..errors import IoctlError
from .request import Given, Request

# A device without a poll of its own, as the kernel's are: always ready for everything.
ALWAYS_READY: Final = select.POLLIN | select.POLLOUT | select.POLLRDNORM | select.POLLWRNORM

_POSITION: Final = re.compile(rb"^pos:\t(\d+)$", re.MULTILINE)


class GivenFile:
    """The open file behind a descriptor that was given: it answers nothing by itself, but its last close matters."""

    seekable: Final = True

    def __init__(self, behind: Given, forget: Callable[[], None]) -> None:
        self.behind = behind
        self._forget = forget

    async def ioctl(self, caller: Caller, cmd: int, arg: int, compat: bool) -> int:
        return -ENOTTY

    async def read(self, caller: Caller, size: int, nonblocking: bool) -> bytes:
        raise OSError(EINVAL, os.strerror(EINVAL))

    async def write(self, caller: Caller, data: bytes, nonblocking: bool) -> int:
        raise OSError(EINVAL, os.strerror(EINVAL))

    def poll(self, wake: Callable[[], None] | None) -> int:
        return ALWAYS_READY

    def release(self) -> None:
        self._forget()
        self.behind.release()


class DescriptorBook:
    """What was given, by position. `Descriptors` of ops.request for real processes."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        self._given: dict[int, GivenFile] = {}

    async def give(
        self, request: Request, behind: Given, field: int | None, flags: int = os.O_RDWR | os.O_CLOEXEC, no_room: int = ENOMEM
    ) -> None:
        caller = request.caller
        assert isinstance(caller, Caller)
        position = secrets.randbits(62) | 1

        def forget() -> None:
            del self._given[position]

        file = self._given[position] = GivenFile(behind, forget)

        def mark(number: int) -> bytes:
            fd = caller.descriptor(number)
            try:
                os.lseek(fd, position, os.SEEK_SET)
            finally:
                os.close(fd)
            return number.to_bytes(4, "little")

        await self.give_file(request, file, field, mark, no_room=no_room, flags=flags)

    async def give_file(
        self,
        request: Request,
        file: OpenFile,
        field: int | None,
        fill: Callable[[int], bytes],
        no_room: int = EMFILE,
        flags: int = os.O_RDWR | os.O_CLOEXEC,
    ) -> None:
        caller = request.caller
        assert isinstance(caller, Caller)
        try:
            address = request.address + field if field is not None else None
            await self._injector.give(caller, file, flags=flags, address=address, fill=fill, no_room=no_room)
        except Refused as refusal:
            raise IoctlError(refusal.errno, refusal.why) from None

    def behind(self, caller: Caller, number: int) -> Given:
        if not self._given:
            raise IoctlError(EBADFD, f"descriptor {number} of the caller is none that was given to it here")
        try:
            with open(f"/proc/{caller.tid}/fdinfo/{number & 0xFFFFFFFF}", "rb", buffering=0) as info:
                found = _POSITION.search(info.read(256))
        except OSError:
            raise IoctlError(EBADFD, f"the caller has no descriptor {number}") from None
        file = self._given.get(int(found[1])) if found is not None else None
        if file is None:
            raise IoctlError(EBADFD, f"descriptor {number} of the caller is none that was given to it here")
        return file.behind
