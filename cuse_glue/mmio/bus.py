"""Where an address of a stopped thread leads: to the device, or to the program's own memory.

Nearly every instruction has one operand in memory, which is what faulted, and lies in one page
(`OnePage`). For the others we have to ask what is mapped where (`Everywhere`).

The program's memory is read by its address space's files (`bound.py`). We do not read a page that
would have to come from a file first, because we may serve that file ourselves.
"""

import os
from typing import Final

from ..process.bound import BoundMemory
from ..process.vma import AddressSpaceGone, Maps, Vma
from .device import AccessRefused, Device

PAGE: Final = 4096  # bytes; no other pages are known where there are BARs
_ENTRY: Final = 8  # bytes of /proc/TID/pagemap for one page
_PRESENT: Final = 0x80  # in the last byte of an entry
# The inode of the one file that a session serves. No other file that could be mapped has it: in
# other file systems it is a directory, or nothing.
_OURS: Final = 1


class Straddles(Exception):
    """The operand is not in one page. Nothing has been done."""


class OnePage:
    """A `Bus` of the one page that a thread has touched."""

    def __init__(self) -> None:
        self.offset = 0  # of the page, in the file
        self.device: Device | None = None

    def load(self, address: int, size: int) -> int:
        within = address & PAGE - 1
        if within + size > PAGE or self.device is None:
            raise Straddles
        return self.device.load(self.offset + within, size) & (1 << 8 * size) - 1

    def store(self, address: int, size: int, value: int) -> None:
        within = address & PAGE - 1
        if within + size > PAGE or self.device is None:
            raise Straddles
        self.device.store(self.offset + within, size, value)


class Everywhere:
    """A `Bus` of all that a thread has mapped. `close` it. AccessRefused."""

    def __init__(self, tid: int, offset: int, device: Device) -> None:
        """`offset`: of the page that the thread has touched. OSError: it cannot be looked into."""
        self._offset = offset
        self._device = device
        self._memory = BoundMemory(tid)
        self._pagemap = -1
        try:
            self._pagemap = os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            self._maps = Maps(os.open(f"/proc/{tid}/maps", os.O_RDONLY | os.O_CLOEXEC), _nobody_else)
        except OSError:
            self._memory.close()
            if self._pagemap >= 0:
                os.close(self._pagemap)
            raise
        self._file: int | None = None  # st_dev of the file, once the page was met

    def close(self) -> None:
        self._memory.close()
        self._maps.close()
        os.close(self._pagemap)

    def load(self, address: int, size: int) -> int:
        parts = self._parts(address, size)
        value = shift = 0
        for at, length, offset in parts:
            if offset is None:
                found = int.from_bytes(self.read(at, length), "little")
            else:
                found = self._device.load(offset, length) & (1 << 8 * length) - 1
            value |= found << shift
            shift += 8 * length
        return value

    def store(self, address: int, size: int, value: int) -> None:
        for at, length, offset in self._parts(address, size):
            part = value & (1 << 8 * length) - 1
            value >>= 8 * length
            if offset is None:
                self.write(at, part.to_bytes(length, "little"))
            else:
                self._device.store(offset, length, part)

    def place(self, address: int) -> int | None:
        """The offset in the device's file that `address` leads to; None: it leads elsewhere."""
        vma = self._mapping(address)
        if not vma.shared or vma.inode != _OURS or os.major(vma.dev):
            return None
        offset = address + vma.delta
        if offset & -PAGE == self._offset and self._file is None:
            self._file = vma.dev
        return offset if vma.dev == self._file else None

    def read(self, address: int, length: int) -> bytes:
        """Bytes of the program's own memory."""
        self._must_be_here(address, length)
        found = self._memory.read(address, length)
        if len(found) != length:
            raise AccessRefused(f"{length} bytes at {address:#x} of the client's memory cannot be read")
        return found

    def write(self, address: int, data: bytes) -> None:
        """Write bytes to the program's own memory."""
        self._must_be_here(address, len(data))
        if self._memory.write(address, data) != len(data):
            raise AccessRefused(f"{len(data)} bytes at {address:#x} of the client's memory cannot be written")

    def _parts(self, address: int, size: int) -> list[tuple[int, int, int | None]]:
        """The parts of an operand. Each: address, bytes, and what `place` says of the address."""
        parts: list[tuple[int, int, int | None]] = []
        while size:
            length = min(size, PAGE - address % PAGE)
            offset = self.place(address)
            if parts and offset is not None and parts[-1][2] == offset - parts[-1][1]:
                start, before, first = parts.pop()
                parts.append((start, before + length, first))
            else:
                parts.append((address, length, offset))
            address, size = address + length, size - length
        return parts

    def _mapping(self, address: int) -> Vma:
        try:
            found = self._maps.covering(address, address + 1, 1)
        except AddressSpaceGone:
            raise AccessRefused("the client's memory is gone") from None
        if not found or not found[0].start <= address < found[0].end:
            raise AccessRefused(f"nothing is mapped at {address:#x} of the client's memory")
        return found[0]

    def _must_be_here(self, address: int, length: int) -> None:
        for page in range(address & -PAGE, address + length, PAGE):
            if self._mapping(page).inode and not is_present(self._pagemap, page):
                raise AccessRefused(f"the page at {page:#x} of the client's memory is in a file, and not here")


def is_present(pagemap: int, address: int) -> bool:
    """Whether the page at `address` is in memory. `pagemap`: an open /proc/TID/pagemap. False, too,
    when its address space is gone.
    """
    if address >> 62:
        return False
    entry = os.pread(pagemap, _ENTRY, address // PAGE * _ENTRY)
    return len(entry) == _ENTRY and entry[-1] >= _PRESENT


def _nobody_else() -> int:
    raise ProcessLookupError
