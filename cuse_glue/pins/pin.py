"""Pinned memory: pieces of files that are mapped here, and pieces that are reached in the process.

**Shared** memory (memfd, MAP_SHARED, huge pages, files) is mapped here. It stays when the client
unmaps it or exits.

**Private** memory is reached in the process. So is shared memory whose file we may not open (no
CAP_SYS_ADMIN, a file system that can make us wait, a file that was sealed since). It is lost when
the client unmaps it, executes another program or exits; a real pin would keep the page. The next
access finds the loss, and is refused with EFAULT and a sentence. These losses are found:

- The address space is gone. Its files in /proc say so, and cannot show another one.
- Nothing is mapped at the address now, or something else: shared memory, another file, another part
  of the file.
- A page of anonymous memory was there at an earlier access, and now it is neither there nor swapped
  out. It was given back (MADV_DONTNEED), or unmapped and something like it was mapped in its place.
  A healthy program does not do that to memory that a device uses.

Two losses cannot be found. First: the client unmaps anonymous memory and maps new memory at the
same address, and **has touched it again**, or we had not accessed the page before. Then the device
sees the new memory, which belongs to the same client, at the address that the client named. Second:
the client changes something between our look and the copy. Neither leads into another address space
(address_space.py).

To have a file open does not pin its pages. When a client truncates the file or punches a hole, a
real pin keeps the old pages. Here, access beyond the end is refused, and a hole reads as zeros.
"""

from bisect import bisect_right
from collections.abc import Hashable, Iterator
from errno import EFAULT
from typing import Final, Protocol

from ..errors import IoctlError
from ..process import raw_memory
from ..process.vma import AddressSpaceGone, Vma
from ..request.address_space import Mm
from ..system.page import PAGE_SIZE
from .client_file import ClientFile, Window
from .uring import PinLost

_TOUCHED: Final = b"\1"


def of_file(dev: int, inode: int, offset: int) -> "Identity":
    """The identity of the page at this byte of a file that is mapped shared."""
    return ("file", dev, inode), offset


def of_process(mm: Mm, address: int) -> "Identity":
    """The identity of a page that belongs to this address space alone."""
    return ("private", mm), address


class TrulyPinned(Protocol):
    """A piece of memory that stays, whatever its client does. PinLost: it cannot be reached."""

    def read(self, at: int, buffer: memoryview) -> None: ...

    def write(self, at: int, data: memoryview) -> None: ...

    def close(self) -> None: ...


def read_true_pin(true_pin: TrulyPinned, at: int, buffer: memoryview) -> None:
    """Fill `buffer` from a piece that is truly pinned. IoctlError(EFAULT): it is lost."""
    try:
        true_pin.read(at, buffer)
    except PinLost as why:
        raise IoctlError(EFAULT, f"byte {at:#x} of what was pinned cannot be read: {why}") from None


def write_true_pin(true_pin: TrulyPinned, at: int, data: memoryview) -> None:
    """Write to a piece that is truly pinned. IoctlError(EFAULT): it is lost."""
    try:
        true_pin.write(at, data)
    except PinLost as why:
        raise IoctlError(EFAULT, f"byte {at:#x} of what was pinned cannot be written: {why}") from None


def unpin(piece: "InFile | InProcess") -> None:
    true_pin, piece.true_pin = piece.true_pin, None
    if true_pin is not None:
        true_pin.close()


Identity = tuple[Hashable, int]  # which page: of which memory, and at which byte of it


class InFile:
    """A piece of a file, seen through a window of ours (None: the file was opened for writing
    only).
    """

    __slots__ = ("_file", "_offset", "_window", "address", "is_open", "length", "true_pin")

    def __init__(self, file: ClientFile, window: Window | None, offset: int, length: int) -> None:
        self.length = length
        self.true_pin: TrulyPinned | None = None  # true_pin.py sets it
        self.is_open = True
        self._file = file
        self._window = window
        self._offset = offset
        self.address = window.address + offset - window.start if window is not None else 0
        file.get()
        if window is not None:
            window.get()

    @property
    def writable(self) -> bool:
        return self._window is not None and self._window.writable

    def read(self, at: int, buffer: memoryview) -> None:
        if self._window is None:
            raise IoctlError(EFAULT, "the file was not opened for reading")
        if self.true_pin is not None:
            read_true_pin(self.true_pin, at, buffer)
            return
        self._check(at, len(buffer), raw_memory.read_mapping(self.address + at, buffer))

    def write(self, at: int, data: memoryview) -> None:
        if not self.writable:
            raise IoctlError(EFAULT, "the file is sealed against writing, or was opened read-only")
        if self.true_pin is not None:
            write_true_pin(self.true_pin, at, data)
            return
        self._check(at, len(data), raw_memory.write_mapping(self.address + at, data))

    def _check(self, at: int, wanted: int, done: int) -> None:
        if done < wanted:
            place, size = self._offset + at + done, self._file.size
            why = f"its end is now at {size:#x}" if place >= size else "the file system has no page left for it"
            raise IoctlError(EFAULT, f"byte {place:#x} of the file cannot be reached: {why}")

    def place(self, at: int) -> tuple[Window, int, int, bool] | None:
        if self._window is None:
            return None
        return self._window, self.address + at, self.length - at, self._window.writable

    def identity(self, at: int) -> Identity:
        return of_file(self._file.dev, self._file.inode, self._offset + at)

    @property
    def page_size(self) -> int:
        return self._file.page_size

    def close(self) -> None:
        self.is_open = False
        unpin(self)
        if self._window is not None:
            self._window.put()
        self._file.put()


class InProcess:
    """A piece of one mapping of a client. Until it has a `true_pin`, it is reached at its address
    in the client.
    """

    __slots__ = ("_backing", "_delta", "_mm", "_touched", "address", "is_open", "length", "page_size", "true_pin")

    def __init__(self, mm: Mm, vma: Vma, address: int, length: int, page_size: int = PAGE_SIZE) -> None:
        self.length = length
        self.true_pin: TrulyPinned | None = None  # true_pin.py sets it
        self.is_open = True
        self.page_size = page_size
        self._mm = mm
        self.address = address
        self._backing = vma.shared, vma.dev, vma.inode
        self._delta = vma.delta
        self._touched: bytearray | None = None  # one byte for each page: 1 once we accessed it

    def read(self, at: int, buffer: memoryview) -> None:
        if self.true_pin is not None:
            read_true_pin(self.true_pin, at, buffer)
            return
        address = self.address + at
        self._check(address, len(buffer))
        done = self._mm.read(address, buffer)
        self._after(at, len(buffer), done)

    def write(self, at: int, data: memoryview) -> None:
        if self.true_pin is not None:
            write_true_pin(self.true_pin, at, data)
            return
        address = self.address + at
        self._check(address, len(data))
        done = self._mm.write(address, data)
        self._after(at, len(data), done)

    def _check(self, start: int, length: int) -> None:
        """Check, as far as it can be known, that what was pinned is still there."""
        end = start + length
        position = start
        try:
            for vma in self._mm.maps.covering(start, end):
                if vma.start > position:
                    break
                if self._backing != (vma.shared, vma.dev, vma.inode) or (vma.inode and vma.delta != self._delta):
                    raise IoctlError(EFAULT, f"process {self._mm.pid} has mapped something else at {position:#x}")
                position = vma.end
        except AddressSpaceGone:
            raise IoctlError(EFAULT, f"{self._mm.why_gone()}, with the memory at {start:#x}") from None
        if position < end:
            raise IoctlError(EFAULT, f"process {self._mm.pid} has unmapped the memory at {position:#x}")
        if self._touched is not None:
            first = start // PAGE_SIZE
            count = (end - 1) // PAGE_SIZE - first + 1
            index = first - self.address // PAGE_SIZE
            absent = self._mm.absent(first * PAGE_SIZE, count)
            touched = self._touched[index : index + count]
            replaced = _TOUCHED in absent and int.from_bytes(absent, "big") & int.from_bytes(touched, "big")
            if replaced:
                page = (first + count - 1 - (replaced.bit_length() - 1) // 8) * PAGE_SIZE
                raise IoctlError(EFAULT, f"process {self._mm.pid} has given back or replaced the page at {page:#x}")

    def _after(self, at: int, wanted: int, done: int) -> None:
        if done < wanted:
            if not self._mm.alive():
                raise IoctlError(EFAULT, f"{self._mm.why_gone()}, with the memory at {self.address + at + done:#x}")
            raise IoctlError(EFAULT, f"process {self._mm.pid} has no page at {self.address + at + done:#x} any more")
        # only anonymous memory: the kernel may take away a clean page of a file at any time
        if self._backing == (False, 0, 0):
            if self._touched is None:
                self._touched = bytearray(-(-self.length // PAGE_SIZE))
            first, last = at // PAGE_SIZE, (at + wanted - 1) // PAGE_SIZE
            self._touched[first : last + 1] = _TOUCHED * (last - first + 1)

    def identity(self, at: int) -> Identity:
        shared, dev, inode = self._backing
        if shared and inode:
            return of_file(dev, inode, self.address + self._delta + at)
        return of_process(self._mm, self.address + at)

    def close(self) -> None:
        self.is_open = False
        unpin(self)


Piece = InFile | InProcess


class Refcounted(Protocol):
    """What is closed by its last `put`."""

    def get(self) -> None: ...

    def put(self) -> None: ...


class Pin:
    """Pinned memory: bytes from 0 to its length. `close` it once nobody reads or writes it.

    `read_into` and `write_from` may run in a worker thread, several at a time. They wait for as
    long as the client can delay a fault in its private memory. Large copies are fastest in pieces
    of 4 MiB, through one `raw_memory.huge_buffer`: half of memcpy's speed or more.
    """

    __slots__ = ("_pieces", "_source", "_starts", "_truly", "length")

    def __init__(self, source: Refcounted, pieces: list[Piece], *, truly: bool = False) -> None:
        """`truly`: the pieces have true pins, or will."""
        self._source: Refcounted | None = source
        self._truly = truly
        self._pieces = pieces
        self._starts: list[int] = []
        self.length = 0
        for piece in pieces:
            self._starts.append(self.length)
            self.length += piece.length
        source.get()

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` (contiguous bytes) from byte `offset`. IoctlError(EFAULT): lost, and why;
        `buffer` may have been filled in part.
        """
        for piece, at, begin, end in self._split(offset, len(buffer)):
            piece.read(at, buffer[begin:end])

    def write_from(self, offset: int, data: memoryview) -> None:
        """Write `data` (contiguous bytes) to byte `offset`. IoctlError(EFAULT): lost, and why; a
        part may have been written.
        """
        for piece, at, begin, end in self._split(offset, len(data)):
            piece.write(at, data[begin:end])

    def place(self, offset: int) -> tuple[Window, int, int, bool] | None:
        """In which window the bytes from `offset` on lie, at which address, how many of them, and
        whether they can be written. None: in none, or what truly pins them is to be asked.
        """
        if self._truly:
            return None
        index = bisect_right(self._starts, offset) - 1
        piece = self._pieces[index]
        return piece.place(offset - self._starts[index]) if isinstance(piece, InFile) else None

    def identity(self, offset: int) -> Identity:
        """Which page lies at byte `offset` (a page boundary): equal for two addresses exactly if a
        store to one is seen at the other.
        """
        index = bisect_right(self._starts, offset) - 1
        return self._pieces[index].identity(offset - self._starts[index])

    def stretches(self) -> Iterator[tuple[Hashable, int, int, int]]:
        """The stretches of memory that the pin consists of, from byte 0 on. Each has the two words
        of `identity`, its length (bytes) and its page size (bytes; larger for huge pages). The time
        does not grow with the number of pages.
        """
        for piece in self._pieces:
            yield *piece.identity(0), piece.length, piece.page_size

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
        """Unpin the memory. To call it a second time has no effect."""
        source, self._source = self._source, None
        if source is not None:
            close_all(self._pieces)
            source.put()


def close_all(pieces: list[Piece]) -> None:
    """Close them and empty the list."""
    while pieces:
        pieces.pop().close()
