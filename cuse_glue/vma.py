"""What is mapped where in a client: one question per mapping (PROCMAP_QUERY, Linux 6.11), or the text of /proc/PID/maps once.

Both go through one descriptor of /proc/TID/maps, which keeps naming the address space it was opened on: after an exec it says that this is
gone, and never describes the new program. The text is also gone when that one thread has ended; then another that lives there is asked.

Ref: v7.3 include/uapi/linux/fs.h struct procmap_query
"""

import errno
import fcntl
import os
import re
import struct
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

_PROCMAP_QUERY: Final = 0xC0686611  # _IOWR('f', 17, struct procmap_query)
_QUERY: Final = struct.Struct("=9Q4I2Q")
_OR_NEXT: Final = 0x10
_READABLE: Final = 0x01
_WRITABLE: Final = 0x02
_SHARED: Final = 0x08
_HIGHEST: Final = (1 << 64) - 1
_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (.)(.).(.) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)", re.MULTILINE
)


class Gone(Exception):
    """Nobody lives in the address space any more."""


class Vma(NamedTuple):
    """One mapping, `start` to `end` (exclusive). dev, inode and offset (bytes, of `start`) say of what file; all 0: none."""

    start: int
    end: int
    readable: bool
    writable: bool
    shared: bool
    offset: int
    dev: int
    inode: int

    @property
    def delta(self) -> int:
        """File offset minus address: the same for all pieces of what was one mapping of a file."""
        return self.offset - self.start


class Maps:
    """The mappings of one address space. Owns its descriptor of /proc/TID/maps.

    `again` gives that of another thread which lives in it. OSError: there is none.
    """

    __slots__ = ("_again", "_fd", "_lock", "_text")

    def __init__(self, fd: int, again: Callable[[], int]) -> None:
        self._fd = fd
        self._again = again
        self._text = False
        self._lock = threading.Lock()

    def close(self) -> None:
        os.close(self._fd)

    def alive(self) -> bool:
        """Whether anybody still lives in the address space."""
        try:
            self.covering(0, 1)
        except Gone:
            return False
        return True

    def covering(self, start: int, end: int) -> list[Vma]:
        """The mappings that have bytes from `start` to `end` (exclusive), by address; there may be holes. Gone: nobody lives there."""
        if not self._text:
            try:
                return self._query(start, end)
            except OSError as error:
                if error.errno != errno.ENOTTY:
                    raise
                self._text = True
        return self._parse(start, end)

    def _query(self, start: int, end: int) -> list[Vma]:
        found: list[Vma] = []
        while start < end:
            buffer = bytearray(_QUERY.size)
            _QUERY.pack_into(buffer, 0, _QUERY.size, _OR_NEXT, start, *[0] * 12)
            try:
                fcntl.ioctl(self._fd, _PROCMAP_QUERY, buffer, True)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    break
                if error.errno == errno.ESRCH:
                    raise Gone from None
                raise
            _, _, _, at, upto, flags, _, offset, inode, major, minor, _, _, _, _ = _QUERY.unpack(buffer)
            if at >= end:
                break
            found.append(
                Vma(
                    at,
                    upto,
                    bool(flags & _READABLE),
                    bool(flags & _WRITABLE),
                    bool(flags & _SHARED),
                    offset,
                    os.makedev(major, minor),
                    inode,
                )
            )
            start = upto
        return found

    def _parse(self, start: int, end: int) -> list[Vma]:
        with self._lock:  # one file position
            text = self._read()
            if not text:
                try:
                    other = self._again()
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE):
                        raise
                    raise Gone from None
                os.dup2(other, self._fd, inheritable=False)
                os.close(other)
                text = self._read()
        if not text:
            raise Gone
        found = []
        for at, upto, r, w, s, offset, major, minor, inode in _LINE.findall(text):
            vma = Vma(
                int(at, 16),
                int(upto, 16),
                r == b"r",
                w == b"w",
                s == b"s",
                int(offset, 16),
                os.makedev(int(major, 16), int(minor, 16)),
                int(inode),
            )
            if vma.start < end and vma.end > start:
                found.append(vma)
        return found

    def _read(self) -> bytes:
        parts = []
        try:
            os.lseek(self._fd, 0, os.SEEK_SET)
            while part := os.read(self._fd, 1 << 16):
                parts.append(part)
        except ProcessLookupError:
            return b""
        return b"".join(parts)


def vm_flags(smaps: bytes, start: int) -> frozenset[str]:
    """The two-letter flags of the mapping that begins at `start`, from the text of /proc/PID/smaps; empty when it is not there."""
    found = re.search(rb"^%x-[0-9a-f]+ .*\n(?:[A-Z].*\n)*?VmFlags: (.*)$" % start, smaps, re.MULTILINE)
    return frozenset(found[1].decode().split()) if found is not None else frozenset()
