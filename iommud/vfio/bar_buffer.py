"""dma-bufs of BARs: whoever maps one (IOAS_MAP_FILE) lets other devices do DMA to the registers of
this one.

A buffer is revoked while nothing answers: memory is disabled, the device is being reset, in low
power, or closed. What is mapped when that happens is lost for ever.

Ref: v7.3 vfio_pci_dmabuf.c
"""

from collections.abc import Sequence
from errno import EFAULT, ENODEV, EOPNOTSUPP
from typing import Final

from ..engine.memory.dma_buf import DmaBuf, DmaBufMapping
from ..errors import IoctlError
from ..pci.regions import Regions

_WIDEST: Final = 8  # bytes of one access on the bus


class BarBuffer(DmaBuf):
    """`ranges` of a BAR: (offset, length), whole pages."""

    def __init__(self, regions: Regions, bar: int, ranges: Sequence[tuple[int, int]]) -> None:
        super().__init__(sum(length for _, length in ranges))
        self._regions: Final = regions
        self._bar: Final = bar
        self._ranges: Final = ranges

    def attach(self) -> DmaBufMapping:
        """ENODEV: it is revoked. EOPNOTSUPP: it has several ranges."""
        if self.revoked:
            raise IoctlError(ENODEV, "the dma-buf is revoked: its device's memory is disabled, or it is closed")
        if len(self._ranges) != 1:
            raise IoctlError(EOPNOTSUPP, f"the dma-buf has {len(self._ranges)} ranges; only one can be mapped")
        return DmaBufMapping(self)

    def move(self, revoked: bool) -> None:
        """Revoke the buffer, or permit mappings again. No effect if it is so already. Ref: v7.3
        vfio_pci_dma_buf_move
        """
        if revoked != self.revoked:
            self.revoke(revoked)

    def read_into(self, start: int, buffer: memoryview) -> None:
        for at, size in accesses(self._ranges[0][0] + start, len(buffer)):
            done = at - self._ranges[0][0] - start
            try:
                value = self._regions.load(self._bar, at, size)
            except IoctlError as nobody:
                raise IoctlError(EFAULT, nobody.why) from None
            buffer[done : done + size] = value.to_bytes(size, "little")

    def write_from(self, start: int, data: memoryview) -> None:
        for at, size in accesses(self._ranges[0][0] + start, len(data)):
            done = at - self._ranges[0][0] - start
            try:
                self._regions.store(self._bar, at, size, int.from_bytes(data[done : done + size], "little"))
            except IoctlError as nobody:
                raise IoctlError(EFAULT, nobody.why) from None


def accesses(start: int, length: int) -> "list[tuple[int, int]]":
    """DMA of these bytes as the bus carries it: aligned accesses of up to 8 bytes."""
    found, at, end = [], start, start + length
    while at < end:
        size = _WIDEST
        while at % size or at + size > end:
            size //= 2
        found.append((at, size))
        at += size
    return found
