"""What is given to a client: an open file of ours, as a descriptor of the client's, and how its
ioctl then ends.
"""

import errno
import os
from collections.abc import Callable
from dataclasses import dataclass

from ..errors import IoctlError
from .mark import Mark as Mark
from .open_file import OpenFile


@dataclass(frozen=True)
class Gift:
    """One descriptor that a handler wants to give (`Injector.give`)."""

    file: OpenFile
    flags: int  # of open(2): access mode and O_CLOEXEC
    address: int | None  # where in the client's memory; None: the ioctl returns the number
    fill: Callable[[int], bytes]
    no_room: int
    mark: Mark | None

    @property
    def close_on_exec(self) -> bool:
        return bool(self.flags & os.O_CLOEXEC)

    def refusal(self, error: int, what: str) -> IoctlError:
        """What a failed system call means for the ioctl. `error`: the call's errno; `what`: what
        the client cannot do, for people.
        """
        if error == errno.EMFILE:
            return IoctlError(self.no_room, "the client has no descriptor free (RLIMIT_NOFILE)")
        return IoctlError(error, f"the client cannot {what}: {os.strerror(error)}")

    def put_mark(self, fd: int) -> None:
        """IoctlError: the file cannot be marked."""
        try:
            if self.mark is not None:
                self.mark.put_on(fd)
        except OSError as error:
            raise self.not_marked(os.strerror(error.errno or 0)) from None

    def not_marked(self, why: str) -> IoctlError:
        """The error that says that the file cannot have the mark."""
        return IoctlError(self.no_room, f"its file cannot be marked ({why}): a program holds a lock on the device?")
