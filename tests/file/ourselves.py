"""This process as the client: what is asked of a real caller is asked of us, without any other
process.
"""

import ctypes
import os
import threading
from collections.abc import Callable
from typing import Any

from cuse_glue.errors import IoctlError
from cuse_glue.request.caller import Caller
from cuse_glue.request.mark import Mark
from cuse_glue.request.open_file import OpenFile


def ourselves() -> Caller:
    return Caller(threading.get_native_id(), os.getuid(), os.getgid())


class Given:
    """One descriptor as it was given: our own, of a file that has the mark."""

    def __init__(self, file: OpenFile, flags: int, no_room: int, mark: Mark | None) -> None:
        self.file = file
        self.flags = flags
        self.no_room = no_room
        self.mark = mark
        self.number = os.memfd_create("given")
        if mark is not None:
            mark.put_on(self.number)

    def close(self) -> None:
        """As the last close does."""
        os.close(self.number)
        self.file.release()


class TwinInjector:
    """Gives descriptors to this process, which is not stopped for it."""

    def __init__(self, **_: Any) -> None:
        self.given: list[Given] = []
        self.refusal: IoctlError | None = None
        self.claimed: OpenFile | None = None
        self.is_closed = False

    async def give(
        self,
        caller: Caller,
        file: OpenFile,
        *,
        flags: int,
        address: int | None,
        fill: Callable[[int], bytes],
        no_room: int,
        mark: Mark | None,
    ) -> int:
        if self.refusal is not None:
            file.release()
            raise self.refusal
        given = Given(file, flags, no_room, mark)
        self.given.append(given)
        data = fill(given.number)
        if address is not None:
            ctypes.memmove(address, data, len(data))
        return given.number

    def claim(self, caller: Caller) -> OpenFile | None:
        return self.claimed

    def close(self) -> None:
        self.is_closed = True
