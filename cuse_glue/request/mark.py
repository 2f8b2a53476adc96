"""A mark by which a given descriptor is known again, wherever it goes. It is a lock of one byte
that the open file holds, and that /proc/TID/fdinfo shows.
"""

import fcntl
import os
import struct
from typing import Final, NamedTuple

_F_OFD_SETLK: Final = 37
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock: type whence start length pid


class Mark(NamedTuple):
    """`place`: which byte is locked (at least 1). `kind`: F_RDLCK or F_WRLCK, whichever the file's
    access mode allows.
    """

    place: int
    kind: int

    def put_on(self, fd: int) -> None:
        """OSError: another open file has a lock there."""
        fcntl.fcntl(fd, _F_OFD_SETLK, _FLOCK.pack(self.kind, os.SEEK_SET, self.place, 1, 0))
