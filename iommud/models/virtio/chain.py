"""What a driver puts into a ring: a chain of descriptors, each of which names a stretch of its
memory that the device may read, or one that it may write.

A device must not care how a request is cut into descriptors: it has a stream of bytes to read, and
behind that one to write. So nothing of a chain is left here but these two lists of stretches.

Ref: VIRTIO 1.2 2.6.4, 2.7.5
"""

from collections.abc import Iterable, Sequence
from typing import Final

from ...pci.function import DmaFault, PciFunction
from .wire import DESCRIPTOR, WRITE

MOST: Final = 1024  # descriptors of a chain: as the longest rings that drivers know

Part = tuple[int, int]  # a stretch: IOVA and bytes


class Broken(Exception):
    """The driver's ring makes no sense. What it says is for people."""


class Chain:
    """`id`: what the driver knows it by. `slots`: descriptors that it takes in the ring itself.
    `table`: where the rest of its descriptors are.
    """

    __slots__ = ("id", "readable", "slots", "table", "writable")

    def __init__(self) -> None:
        self.id = self.slots = 0
        self.readable: list[Part] = []
        self.writable: list[Part] = []
        self.table: Part | None = None

    def __len__(self) -> int:
        """Its descriptors."""
        return len(self.readable) + len(self.writable)

    def add(self, iova: int, length: int, flags: int) -> None:
        """One more descriptor. Broken: it is to be read, and comes after one that is to be written;
        or it is one too many.
        """
        if flags & WRITE:
            self.writable.append((iova, length))
        elif self.writable:
            raise Broken(f"a descriptor to be read ({iova:#x}, {length} bytes) comes after one to be written")
        else:
            self.readable.append((iova, length))
        if len(self) > MOST:
            raise Broken(f"a chain has more than {MOST} descriptors")

    def refer(self, iova: int, length: int) -> None:
        """The rest is in a table. Broken: it is none."""
        count, rest = divmod(length, DESCRIPTOR.size)
        if rest or not 0 < count <= MOST:
            raise Broken(f"an indirect table ({iova:#x}, {length} bytes) has not 1 to {MOST} descriptors of 16 bytes")
        self.table = iova, length


def total(parts: Iterable[Part]) -> int:
    """Bytes."""
    return sum(length for _, length in parts)


def cut(parts: Iterable[Part], begin: int, end: int) -> list[Part]:
    """The stretches that bytes begin..end (exclusive) of a stream lie in. None is empty."""
    found: list[Part] = []
    at = 0
    for iova, length in parts:
        if at >= end:
            break
        first, last = max(begin, at), min(end, at + length)
        if first < last:
            found.append((iova + first - at, last - first))
        at += length
    return found


def read(function: PciFunction, parts: Iterable[Part]) -> bytes:
    """All bytes of these stretches. Raises DmaFault."""
    return b"".join(function.dma_read(iova, length) for iova, length in parts)


def write(function: PciFunction, parts: Iterable[Part], data: bytes) -> None:
    """Fill these stretches. Raises DmaFault."""
    at, view = 0, memoryview(data)
    for iova, length in parts:
        function.dma_write(iova, view[at : at + length])
        at += length


def read_each(function: PciFunction, wanted: Sequence[Sequence[Part]]) -> list[bytes | DmaFault]:
    """Of each list all its bytes, or why they cannot be read. Quickly, if there are many."""
    found: list[bytes | DmaFault] = []
    data = function.dma_gather([part for parts in wanted for part in parts]) if len(wanted) > 1 else b""
    at = 0
    for parts in wanted:
        end = at + total(parts)
        if end <= len(data):
            found.append(data[at:end])
            at = end
            continue
        data = b""
        try:
            found.append(read(function, parts))
        except DmaFault as fault:
            found.append(fault)
    return found
