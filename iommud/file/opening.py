"""What an open(2) of one of VFIO's files does, whichever it is."""

from collections.abc import Awaitable, Callable
from typing import Final, Protocol

from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile

from ..errors import IoctlError


class Daemon(Protocol):
    """What is behind all device files: IommuDevice."""

    def given(self, caller: Caller) -> OpenFile | None:
        """The file that we are making the caller open; None: we are not."""

    async def conclude(self, caller: Caller, cmd: int, name_of: Callable[[int], str], work: Awaitable[int]) -> int:
        """What the ioctl returns that `work` carries out."""

    def refused(self, caller: Caller, what: str, refusal: IoctlError) -> OSError:
        """What is raised for a refused call that is no ioctl."""

    async def give(self, caller: Caller, file: OpenFile) -> int:
        """End the caller's ioctl with a descriptor of this file, to read and write; returns its
        number. On any failure the file is released. EMFILE: no number is free. Others:
        Injector.give.
        """

    def opened(self) -> None: ...

    def closed(self) -> None: ...


class FileOpener:
    """What a session serves. A subclass makes the file."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon: Final = daemon

    def make(self, caller: Caller) -> OpenFile:
        """The file of a new open. IoctlError: why there is none."""
        raise NotImplementedError

    def open(self, caller: Caller, flags: int) -> OpenFile:
        """A new file; but if we made the caller open one that is being given to it: that one.
        Errors: `make`.
        """
        given = self._daemon.given(caller)
        if given is not None:
            return given
        try:
            return self._opened(self.make(caller))
        except IoctlError as refusal:
            raise self._daemon.refused(caller, "open", refusal) from None

    def _opened(self, file: OpenFile) -> OpenFile:
        self._daemon.opened()
        return file
