"""Descriptors that ioctls give to clients, and the way back from a client's descriptor number to
what it stands for.

A client names an access by the number of its own descriptor, which may have been duplicated,
inherited or sent. Which of our open files is it? A lock tells, which we put on the open file when
we give it. The lock is of one byte at a random place. The open file holds it, and not a process
(F_OFD_SETLK), and /proc/TID/fdinfo shows it. So the answer costs one small read, and works from any
process. A client that takes the lock off loses the access (EBADFD).
"""

import fcntl
import os
import re
import secrets
from collections.abc import Callable
from errno import EBADFD, EMFILE, ENOMEM, ENOTTY
from typing import Final

from cuse_glue.request.caller import Caller
from cuse_glue.request.mark import Mark
from cuse_glue.request.open_file import OpenFile
from cuse_glue.system.means import SHORT, with_means
from cuse_glue.tracing.inject import Injector

from ..errors import IoctlError
from ..ops.request import Given, Request
from .no_data import NoData

# the line of a lock of one byte; the group is the byte's place
_MARK: Final = re.compile(rb"^lock:\t\d+: OFDLCK .* (\d+) \1$", re.MULTILINE)
_FDINFO: Final = 4096  # bytes of fdinfo that are read


class GivenFile(NoData):
    """The open file behind a descriptor that was given. It answers nothing by itself, but its last
    close matters.
    """

    def __init__(self, behind: Given, forget: Callable[[], None]) -> None:
        self.behind = behind
        self._forget = forget

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return -ENOTTY

    def release(self) -> None:
        self._forget()
        self.behind.release()


class DescriptorBook:
    """What was given, by its mark. It is the `Descriptors` of ops.request for real processes."""

    def __init__(self, injector: Injector) -> None:
        self._injector = injector
        self._given: dict[int, GivenFile] = {}

    async def give(
        self,
        request: Request,
        behind: Given,
        field: int | None,
        flags: int = os.O_RDWR | os.O_CLOEXEC,
        no_room: int = ENOMEM,
    ) -> None:
        place = secrets.randbits(62) | 1

        def forget() -> None:
            del self._given[place]

        file = self._given[place] = GivenFile(behind, forget)
        # the kind of lock that the open mode allows
        kind = fcntl.F_WRLCK if flags & os.O_ACCMODE == os.O_WRONLY else fcntl.F_RDLCK

        def fill(number: int) -> bytes:
            return number.to_bytes(4, "little")

        await self._give(request, file, field, fill, no_room, flags, Mark(place, kind))

    async def give_file(
        self,
        request: Request,
        file: OpenFile,
        field: int | None,
        fill: Callable[[int], bytes],
        no_room: int = EMFILE,
        flags: int = os.O_RDWR | os.O_CLOEXEC,
    ) -> None:
        await self._give(request, file, field, fill, no_room, flags, None)

    async def _give(
        self,
        request: Request,
        file: OpenFile,
        field: int | None,
        fill: Callable[[int], bytes],
        no_room: int,
        flags: int,
        mark: Mark | None,
    ) -> None:
        caller = request.caller
        assert isinstance(caller, Caller)
        address = request.address + field if field is not None else None
        await self._injector.give(caller, file, flags=flags, address=address, fill=fill, no_room=no_room, mark=mark)

    def behind(self, caller: Caller, number: int) -> Given:
        if not self._given:
            raise IoctlError(EBADFD, f"descriptor {number} of the caller is none that was given to it here")
        try:
            with with_means(
                lambda: open(f"/proc/{caller.tid}/fdinfo/{number & 0xFFFFFFFF}", "rb", buffering=0)
            ) as info:
                marks = _MARK.findall(info.read(_FDINFO))
        except OSError as error:
            if error.errno in SHORT:
                raise
            raise IoctlError(EBADFD, f"the caller has no descriptor {number}") from None
        for place in map(int, marks):
            if place in self._given:
                return self._given[place].behind
        raise IoctlError(EBADFD, f"descriptor {number} of the caller is none that was given to it here")
