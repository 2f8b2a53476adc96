"""Pinned memory: pieces of files that are mapped here, and pieces that are reached in the process.

**Shared** memory (memfd, MAP_SHARED, huge pages, files) is mapped here. It stays when the client unmaps it or exits.

**Private** memory is reached in the process, as is shared memory whose file we may not open (no CAP_SYS_ADMIN, a file system that can
make us wait, a file sealed since). It is lost when the client unmaps it, executes another program or exits, where a real pin
would keep the page. A loss is found out at the next access and refused with EFAULT and a sentence:
- The address space is gone: its files in /proc say so, and cannot show another one.
- Nothing, or something else (shared, another file, another part of it), is mapped at the address now.
- A page of anonymous memory was there at an earlier access and is not any more, nor swapped out: it was given back (MADV_DONTNEED), or
  unmapped and something like it mapped in its place. A healthy program does not do that to memory a device uses.

What cannot be found out: anonymous memory that was unmapped and mapped anew at the same address **and touched again**, or mapped
anew without our having accessed the page before. Then the device sees the new memory; it is the same client's, at the address it
named. Likewise what the client changes between our look and the copy. Nothing leads into another address space (origin.py).

Holding a file does not hold its pages: when a client truncates it or punches a hole, a real pin keeps the old pages. Here what lies
beyond the end is refused, and a hole reads as zeros.
"""

from bisect import bisect_right
from collections.abc import Iterator
from errno import EFAULT
from typing import Any, Final, NamedTuple, Protocol

from . import raw_memory
from .held_file import HeldFile, Window
from .origin import PAGE_SIZE, Mm
from .uring import Lost
from .vma import Gone, Vma

_TOUCHED: Final = b"\1"


class Refused(Exception):
    """Memory that cannot be pinned or reached: the errno the kernel would give, and why, for people."""

    def __init__(self, errno: int, why: str) -> None:
        super().__init__(errno, why)
        self.errno = errno
        self.why = why


class TrulyHeld(Protocol):
    """A piece of memory that stays, whatever its client does. uring.Lost: it cannot be reached."""

    def read(self, at: int, buffer: memoryview) -> None: ...

    def write(self, at: int, data: memoryview) -> None: ...

    def close(self) -> None: ...


def read_held(held: TrulyHeld, at: int, buffer: memoryview) -> None:
    """Refused(EFAULT)."""
    try:
        held.read(at, buffer)
    except Lost as why:
        raise Refused(EFAULT, f"byte {at:#x} of what was pinned cannot be read: {why}") from None


def write_held(held: TrulyHeld, at: int, data: memoryview) -> None:
    """Refused(EFAULT)."""
    try:
        held.write(at, data)
    except Lost as why:
        raise Refused(EFAULT, f"byte {at:#x} of what was pinned cannot be written: {why}") from None


def let_go(piece: "Mapped | InProcess") -> None:
    held, piece.held = piece.held, None
    if held is not None:
        held.close()


class Stretch(NamedTuple):
    """`length` bytes of one memory. `identity`: of its first page, as Pin.identity says it. `page_size`: bytes, of huge pages too."""

    identity: tuple[Any, ...]
    length: int
    page_size: int


class Mapped:
    """A piece of a file, seen through a window of ours (None: it was opened to be written only)."""

    __slots__ = ("_file", "_offset", "_window", "address", "held", "is_open", "length")

    def __init__(self, file: HeldFile, window: Window | None, offset: int, length: int) -> None:
        self.length = length
        self.held: TrulyHeld | None = None  # `true_pin` sets it
        self.is_open = True
        self._file = file
        self._window = window
        self._offset = offset
        self.address = window.address + offset - window.start if window is not None else 0
        file.hold()
        if window is not None:
            window.hold()

    @property
    def writable(self) -> bool:
        return self._window is not None and self._window.writable

    def read(self, at: int, buffer: memoryview) -> None:
        if self._window is None:
            raise Refused(EFAULT, "the file was not opened for reading")
        if self.held is not None:
            read_held(self.held, at, buffer)
            return
        self._check(at, len(buffer), raw_memory.read_mapping(self.address + at, buffer))

    def write(self, at: int, data: memoryview) -> None:
        if not self.writable:
            raise Refused(EFAULT, "the file is sealed against writing, or was opened read-only")
        if self.held is not None:
            write_held(self.held, at, data)
            return
        self._check(at, len(data), raw_memory.write_mapping(self.address + at, data))

    def _check(self, at: int, wanted: int, done: int) -> None:
        if done < wanted:
            place, size = self._offset + at + done, self._file.size
            why = f"its end is now at {size:#x}" if place >= size else "the file system has no page left for it"
            raise Refused(EFAULT, f"byte {place:#x} of the file cannot be reached: {why}")

    def identity(self, at: int) -> tuple[Any, ...]:
        return "file", self._file.dev, self._file.inode, self._offset + at

    @property
    def page_size(self) -> int:
        return self._file.page_size

    def close(self) -> None:
        self.is_open = False
        let_go(self)
        if self._window is not None:
            self._window.drop()
        self._file.drop()


class InProcess:
    """A piece of one mapping of a client, reached at its address until it is `held`."""

    __slots__ = ("_backing", "_delta", "_mm", "_touched", "_trusted", "address", "held", "is_open", "length", "page_size")

    def __init__(self, mm: Mm, trusted: bool, vma: Vma, address: int, length: int, page_size: int = PAGE_SIZE) -> None:
        self.length = length
        self.held: TrulyHeld | None = None  # `true_pin` sets it
        self.is_open = True
        self.page_size = page_size
        self._mm = mm
        self._trusted = trusted
        self.address = address
        self._backing = vma.shared, vma.dev, vma.inode
        self._delta = vma.delta
        self._touched: bytearray | None = None  # one byte a page: we have been there

    def read(self, at: int, buffer: memoryview) -> None:
        if self.held is not None:
            read_held(self.held, at, buffer)
            return
        address = self.address + at
        self._check(address, len(buffer))
        done = self._mm.read(address, buffer)
        self._after(at, len(buffer), done)

    def write(self, at: int, data: memoryview) -> None:
        if self.held is not None:
            write_held(self.held, at, data)
            return
        address = self.address + at
        self._check(address, len(data))
        done = self._mm.write(address, data, trusted=self._trusted)
        self._after(at, len(data), done)

    def _check(self, start: int, length: int) -> None:
        """Whether what was pinned is still there, as far as that can be known."""
        end = start + length
        position = start
        try:
            for vma in self._mm.maps.covering(start, end):
                if vma.start > position:
                    break
                if self._backing != (vma.shared, vma.dev, vma.inode) or (vma.inode and vma.delta != self._delta):
                    raise Refused(EFAULT, f"process {self._mm.pid} has mapped something else at {position:#x}")
                position = vma.end
        except Gone:
            raise Refused(EFAULT, f"{self._mm.fate()}, with the memory at {start:#x}") from None
        if position < end:
            raise Refused(EFAULT, f"process {self._mm.pid} has unmapped the memory at {position:#x}")
        if self._touched is not None:
            first = start // PAGE_SIZE
            count = (end - 1) // PAGE_SIZE - first + 1
            index = first - self.address // PAGE_SIZE
            absent = self._mm.absent(first * PAGE_SIZE, count)
            touched = self._touched[index : index + count]
            replaced = _TOUCHED in absent and int.from_bytes(absent, "big") & int.from_bytes(touched, "big")
            if replaced:
                page = (first + count - 1 - (replaced.bit_length() - 1) // 8) * PAGE_SIZE
                raise Refused(EFAULT, f"process {self._mm.pid} has given back or replaced the page at {page:#x}")

    def _after(self, at: int, wanted: int, done: int) -> None:
        if done < wanted:
            if not self._mm.alive():
                raise Refused(EFAULT, f"{self._mm.fate()}, with the memory at {self.address + at + done:#x}")
            raise Refused(EFAULT, f"process {self._mm.pid} has no page at {self.address + at + done:#x} any more")
        if self._backing == (False, 0, 0):  # of a file, the kernel may take a clean page away at any time
            if self._touched is None:
                self._touched = bytearray(-(-self.length // PAGE_SIZE))
            first, last = at // PAGE_SIZE, (at + wanted - 1) // PAGE_SIZE
            self._touched[first : last + 1] = _TOUCHED * (last - first + 1)

    def identity(self, at: int) -> tuple[Any, ...]:
        shared, dev, inode = self._backing
        if shared and inode:
            return "file", dev, inode, self.address + self._delta + at
        return "private", self._mm, self.address + at

    def close(self) -> None:
        self.is_open = False
        let_go(self)


Piece = Mapped | InProcess


class Counted(Protocol):
    """What a pin keeps for as long as it lasts."""

    def hold(self) -> None: ...

    def drop(self) -> None: ...


class Pin:
    """Pinned memory: bytes from 0 to its length. `close` it once nobody reads or writes it.

    `read_into` and `write_from` may run in a worker thread, several at a time; they wait for as long as the client can delay a fault in
    its private memory. Much is moved best in pieces of 4 MiB, through one `raw_memory.huge_buffer`: that is half of memcpy's speed or more.
    """

    __slots__ = ("_pieces", "_source", "_starts", "length")

    def __init__(self, source: Counted, pieces: list[Piece]) -> None:
        self._source: Counted | None = source
        self._pieces = pieces
        self._starts: list[int] = []
        self.length = 0
        for piece in pieces:
            self._starts.append(self.length)
            self.length += piece.length
        source.hold()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (contiguous bytes) from byte `offset`. Refused(EFAULT): lost, and why; `buffer` may have been filled in part."""
        for piece, at, begin, end in self._split(offset, len(buffer)):
            piece.read(at, buffer[begin:end])

    def write_from(self, offset: int, data: memoryview) -> None:
        """Write `data` (contiguous bytes) to byte `offset`. Refused(EFAULT): lost, and why; a part may have been written."""
        for piece, at, begin, end in self._split(offset, len(data)):
            piece.write(at, data[begin:end])

    def identity(self, offset: int) -> tuple[Any, ...]:
        """Which page lies at byte `offset` (a page boundary): equal for two addresses exactly if a store to one is seen at the other.

        ("file", device, inode, file offset in bytes) of shared memory, ("private", address space, address) else.
        """
        index = bisect_right(self._starts, offset) - 1
        return self._pieces[index].identity(offset - self._starts[index])

    def stretches(self) -> Iterator[Stretch]:
        """Of what memory it is, from byte 0 on: `identity` for whole stretches. Takes no time for each page."""
        for piece in self._pieces:
            yield Stretch(piece.identity(0), piece.length, piece.page_size)

    def _split(self, offset: int, length: int) -> Iterator[tuple[Piece, int, int, int]]:
        if offset < 0 or offset + length > self.length:
            raise ValueError(f"bytes {offset:#x}+{length:#x} of a pin of {self.length:#x}")
        index = bisect_right(self._starts, offset) - 1
        done = 0
        while done < length:
            piece = self._pieces[index]
            at = offset + done - self._starts[index]
            end = min(length, done + piece.length - at)
            yield piece, at, done, end
            done = end
            index += 1

    def close(self) -> None:
        """Let go. A second time has no effect."""
        source, self._source = self._source, None
        if source is not None:
            close_all(self._pieces)
            source.drop()


def close_all(pieces: list[Piece]) -> None:
    """Close them and empty the list."""
    while pieces:
        pieces.pop().close()
