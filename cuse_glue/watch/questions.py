"""What a watcher (watcher.py) and a session say to each other. They use three ioctls on our device,
which nobody else can make.

- QUESTION: somebody is about to make this system call on a file of ours. The result is the errno
  that refuses it; 0: it goes on.
- PERFORM: somebody calls this ioctl. The result is the ioctl's, unless the form says that a
  descriptor is to be given.
- FINISH: the descriptor has been given. The argument is its number, or -errno; the result is the
  ioctl's.

Forms lie in the watcher's memory. The session reads and writes them there.
"""

import errno
import struct
from typing import Final, NamedTuple, Protocol

from ..request.open_file import OpenFile
from ..system import seccomp

QUESTION: Final = 0x5700  # _IO('W', 0): FUSE itself copies nothing
PERFORM: Final = 0x5701
FINISH: Final = 0x5702

# QUESTION: thread, number of the call, flags of the open file, arguments
MESSAGE: Final = struct.Struct("=IIi6Q")
# PERFORM: argument, thread, command, uid and gid of the client, and
# descriptors of the watcher's for its mem and maps in /proc, or -1. They were opened in the call.
ORDER: Final = struct.Struct("=QIIIIii")
# Behind an ORDER, filled in by the session: place and kind of the lock that the file gets, whether
# a file is to be opened at all, flags to open with.
GIFT: Final = struct.Struct("=QiIi4x")
NOT_MARKED: Final = -errno.ENOLCK  # what FINISH tells when the lock could not be had


class Call(NamedTuple):
    """A system call that somebody is about to make on a file of ours."""

    name: str
    tid: int
    flags: int  # of the open file, as F_GETFL tells them
    arguments: tuple[int, ...]  # six, as they were in the registers: 64 bits without a sign


class Watched(Protocol):
    """What a session needs to know about the watcher of its clients."""

    @property
    def watcher(self) -> int:
        """The watcher's process ID. It is a child of ours that nobody has waited for."""

    def refusal(self, file: OpenFile, call: Call) -> int:
        """The errno with which a file like this refuses the call. 0: the call goes on, and FUSE
        answers it.
        """


def read_question(message: bytes) -> Call:
    """The watcher's question, as a Call. ValueError: it is no question."""
    here = seccomp.machine()
    if len(message) != MESSAGE.size or here is None:
        raise ValueError("no question")
    tid, number, flags, *arguments = MESSAGE.unpack(message)
    for name, its in here.calls.items():
        if its == number:
            return Call(name, tid, flags, tuple(arguments))
    raise ValueError(f"no call has the number {number}")
