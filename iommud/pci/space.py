"""A function's own configuration space: what a configuration read or write on the bus does.

Each bit is one of three: read-only, writable, or cleared by writing a one to it. `written` is
called after each write, for what the function has to do then (its power state, its interrupts). One
range can be no bits at all: there the function itself answers (`answer`).
Values are little-endian, as PCI is; sizes are 1, 2 or 4 bytes, and an access does not cross a
dword: the host sees to that, as hardware demands.
"""

from collections.abc import Callable
from typing import Final


def nothing(offset: int, size: int) -> None:
    """Nobody is told."""


def zero(offset: int, size: int) -> int:
    """Nobody answers."""
    return 0


def dropped(offset: int, size: int, value: int) -> None:
    """Nobody takes it."""


class ConfigSpace:
    """`size` bytes of registers, 256 or 4096. Until something is put there they read as zero, and
    writes are dropped.
    """

    def __init__(self, size: int) -> None:
        self.size: Final = size
        self.written: Callable[[int, int], None] = nothing  # by the bus, at (offset, size)
        self._value = bytearray(size)
        self._write = bytearray(size)
        self._clear = bytearray(size)
        self._at_reset = bytes(size)
        self._answered = range(0)
        self._load: Callable[[int, int], int] = zero
        self._store: Callable[[int, int, int], None] = dropped

    def put(self, offset: int, data: bytes, write: bytes = b"", clear: bytes = b"") -> None:
        """Registers, with the bits that the bus may write, and those that it clears by writing
        ones.
        """
        end = offset + len(data)
        self._value[offset:end] = data
        self._write[offset:end] = write.ljust(len(data), b"\0")
        self._clear[offset:end] = clear.ljust(len(data), b"\0")

    def answer(self, where: range, load: Callable[[int, int], int], store: Callable[[int, int, int], None]) -> None:
        """An access that begins within `where` is a call: a read is `load(offset, size)`, a write
        `store(offset, size, value)`.
        """
        self._answered, self._load, self._store = where, load, store

    def seal(self) -> None:
        """All registers have been put: `reset` goes back to this."""
        self._at_reset = bytes(self._value)

    def read(self, offset: int, size: int) -> int:
        if offset in self._answered:
            return self._load(offset, size)
        return int.from_bytes(self._value[offset : offset + size], "little")

    def write(self, offset: int, size: int, value: int) -> None:
        """A write by the bus."""
        if offset in self._answered:
            self._store(offset, size, value & (1 << 8 * size) - 1)
            return
        for i, new in enumerate((value & (1 << 8 * size) - 1).to_bytes(size, "little"), offset):
            mask = self._write[i]
            self._value[i] = ((self._value[i] & ~mask) | (new & mask)) & ~(new & self._clear[i])
        self.written(offset, size)

    def change(self, offset: int, size: int, bits: int, value: int) -> None:
        """The function itself sets the bits of `bits` to those of `value`, whatever the bus may
        write.
        """
        old = self.read(offset, size)
        self._value[offset : offset + size] = ((old & ~bits) | (value & bits)).to_bytes(size, "little")

    def reset(self) -> None:
        """Every register has the value that it had at first."""
        self._value[:] = self._at_reset
