"""Descriptors that ioctls give to clients, and the way back from a client's descriptor number to what it stands for.

A client names an access by the number of a descriptor of its own, which may have been duplicated, inherited or sent. What tells us which of
our open files it is, at the cost of one small read and from any process, is a lock that we put on it when we give it: of one byte at a
random place, held by the open file and not by a process (F_OFD_SETLK), and shown in /proc/TID/fdinfo. Who takes it off loses the access
(EBADFD).
"""

import fcntl
import os
import re
import secrets
import select
import struct
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

_F_OFD_SETLK: Final = 37
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type whence start length pid
_MARK: Final = re.compile(rb"^lock:\t\d+: OFDLCK .* (\d+) \1$", re.MULTILINE)  # a lock of one byte: where
_FDINFO: Final = 4096  # bytes of it that are read


class GivenFile:
    """The open file behind a descriptor that was given: it answers nothing by itself, but its last close matters."""

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
    """What was given, by its mark. `Descriptors` of ops.request for real processes."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        self._given: dict[int, GivenFile] = {}

    async def give(
        self, request: Request, behind: Given, field: int | None, flags: int = os.O_RDWR | os.O_CLOEXEC, no_room: int = ENOMEM
    ) -> None:
        caller = request.caller
        assert isinstance(caller, Caller)
        place = secrets.randbits(62) | 1

        def forget() -> None:
            del self._given[place]

        file = self._given[place] = GivenFile(behind, forget)
        kind = fcntl.F_WRLCK if flags & os.O_ACCMODE == os.O_WRONLY else fcntl.F_RDLCK  # what the open mode allows

        def mark(number: int) -> bytes:
            fd = caller.descriptor(number)
            try:
                fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(kind, os.SEEK_SET, place, 1, 0))
            except OSError as error:
                raise Refused(no_room, f"its file cannot be marked ({error.strerror}): a program holds a lock on the device?") from None
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
                marks = _MARK.findall(info.read(_FDINFO))
        except OSError:
            raise IoctlError(EBADFD, f"the caller has no descriptor {number}") from None
        for place in map(int, marks):
            if place in self._given:
                return self._given[place].behind
        raise IoctlError(EBADFD, f"descriptor {number} of the caller is none that was given to it here")
