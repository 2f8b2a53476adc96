"""What is mapped where in a client. The kernel is asked for each mapping (PROCMAP_QUERY, Linux
6.11), or once for the text of /proc/PID/maps.

Both ways go through one descriptor of /proc/TID/maps. It keeps naming the address space that it was
opened on: after an exec it says that this one is gone, and never describes the new program. The
text is also gone when that one thread has ended; then another thread that lives there is asked.

A program may be able to do more with a mapping than the mapping says. No processor that we run on
has pages that can be written and not read, so memory with PROT_WRITE alone can be read. Memory with
PROT_EXEC alone can be read as well on an x86 without protection keys. Loads, and pins of pages that
are there, follow the processor. Pins of pages that are not there yet, and process_vm_readv, follow
the mapping and want PROT_READ.

Ref: v7.3 include/uapi/linux/fs.h struct procmap_query; mm/gup.c check_vma_flags, gup_fast;
arch/x86/mm/pgprot.c, arch/arm64/mm/mmap.c
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
_NOTHING: Final = (0,) * 12
_OR_NEXT: Final = 0x10
_READABLE: Final = 0x01
_WRITABLE: Final = 0x02
_EXECUTABLE: Final = 0x04
_SHARED: Final = 0x08
_HIGHEST: Final = (1 << 64) - 1
_LINE: Final = re.compile(
    rb"^([0-9a-f]+)-([0-9a-f]+) (.)(.)(.)(.) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)", re.MULTILINE
)
_SMAPS: Final = 1 << 18  # bytes of smaps that are looked through at once
_HEAD: Final = re.compile(rb"([0-9a-f]+)-([0-9a-f]+) ")


def _can_only_be_run() -> bool:
    """Whether memory with PROT_EXEC alone cannot be read."""
    if os.uname().machine != "x86_64":
        return True  # some arm64 processors have it, and nothing tells which
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            return any(line.startswith("flags") and " ospke" in line for line in file)
    except OSError:
        return False


# A mapping with one of these flags can be read by its program, even without _READABLE.
_READ_ALL_THE_SAME: Final = _WRITABLE | (0 if _can_only_be_run() else _EXECUTABLE)


class AddressSpaceGone(Exception):
    """Nobody lives in the address space any more."""


class Vma(NamedTuple):
    """One mapping, `start` to `end` (exclusive). `dev`, `inode` and `offset` (bytes, at `start`)
    say of which file; all 0: of none.

    `readable` and `writable`: what its program can do. `unsaid`: the program can read it, but did
    not ask for that (PROT_READ).
    """

    start: int
    end: int
    readable: bool
    writable: bool
    shared: bool
    offset: int
    dev: int
    inode: int
    unsaid: bool = False

    @property
    def delta(self) -> int:
        """File offset minus address: the same for all pieces of what was one mapping of a file."""
        return self.offset - self.start


class Maps:
    """The mappings of one address space. Owns its descriptor of /proc/TID/maps.

    `again` returns a descriptor of another thread that lives there. OSError: there is none.
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
        except AddressSpaceGone:
            return False
        return True

    def covering(self, start: int, end: int, most: int = 1 << 62) -> list[Vma]:
        """The mappings that have bytes from `start` to `end` (exclusive), by address; there may be
        holes. At least the first `most` of them. AddressSpaceGone: nobody lives there.
        """
        if not self._text:
            try:
                return self._query(start, end, most)
            except OSError as error:
                if error.errno != errno.ENOTTY:
                    raise
                self._text = True
        return self._parse(start, end)

    def _query(self, start: int, end: int, most: int) -> list[Vma]:
        found: list[Vma] = []
        buffer = bytearray(_QUERY.size)
        fd, ask, unpack = self._fd, fcntl.ioctl, _QUERY.unpack
        while start < end and len(found) < most:
            _QUERY.pack_into(buffer, 0, _QUERY.size, _OR_NEXT, start, *_NOTHING)
            try:
                ask(fd, _PROCMAP_QUERY, buffer, True)
            except OSError as error:
                if error.errno == errno.ENOENT:
                    break
                if error.errno == errno.ESRCH:
                    raise AddressSpaceGone from None
                raise
            _, _, _, at, upto, flags, _, offset, inode, major, minor, _, _, _, _ = unpack(buffer)
            if at >= end:
                break
            found.append(_vma(at, upto, flags, offset, major, minor, inode))
            start = upto
        return found

    def _parse(self, start: int, end: int) -> list[Vma]:
        with self._lock:  # all threads share one file position
            text = self._read()
            if not text:
                try:
                    other = self._again()
                except OSError as error:
                    if error.errno in (errno.EMFILE, errno.ENFILE):
                        raise
                    raise AddressSpaceGone from None
                os.dup2(other, self._fd, inheritable=False)
                os.close(other)
                text = self._read()
        if not text:
            raise AddressSpaceGone
        found = []
        for at, upto, r, w, x, s, offset, major, minor, inode in _LINE.findall(text):
            flags = (
                (r == b"r" and _READABLE)
                | (w == b"w" and _WRITABLE)
                | (x == b"x" and _EXECUTABLE)
                | (s == b"s" and _SHARED)
            )
            vma = _vma(int(at, 16), int(upto, 16), flags, int(offset, 16), int(major, 16), int(minor, 16), int(inode))
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


def _vma(start: int, end: int, flags: int, offset: int, major: int, minor: int, inode: int) -> Vma:
    unsaid = not flags & _READABLE and bool(flags & _READ_ALL_THE_SAME)
    return Vma(
        start,
        end,
        unsaid or bool(flags & _READABLE),
        bool(flags & _WRITABLE),
        bool(flags & _SHARED),
        offset,
        os.makedev(major, minor),
        inode,
        unsaid,
    )


def flagged(smaps: int, flags: tuple[bytes, ...]) -> list[tuple[int, int]]:
    """The mappings (start, end) that have one of these VmFlags (two letters each), by address.
    `smaps`: a descriptor of /proc/PID/smaps.

    For any thread. It takes about 10 us for each mapping, and lets other threads run meanwhile.
    """
    found = []
    rest = b""  # the lines of a mapping of which not all are there yet
    while part := os.read(smaps, _SMAPS):
        text = rest + part
        whole = text.rfind(b"\n")
        end = text.find(b"\n", text.rfind(b"\nVmFlags:", 0, whole) + 1) + 1 if b"\nVmFlags:" in text[:whole] else 0
        rest = text[end:]
        found += _flagged(text, end, flags)
    return found + _flagged(rest, len(rest), flags)


def _flagged(text: bytes, end: int, flags: tuple[bytes, ...]) -> list[tuple[int, int]]:
    found = set()
    for flag in flags:
        at = -1
        while (at := text.find(b" %s " % flag, at + 1, end)) >= 0:
            line = text.rfind(b"\n", 0, at) + 1
            if not text.startswith(b"VmFlags:", line):
                continue
            # Back to the last line that begins as a mapping does: all others begin with a capital
            # letter.
            while (head := _HEAD.match(text, line)) is None:
                line = text.rfind(b"\n", 0, line - 1) + 1
            found.add((int(head[1], 16), int(head[2], 16)))
    return sorted(found)
