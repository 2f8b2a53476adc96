"""What MAP_DMA made, as type1 remembers it: a *dma*. Unlike an area of the engine it is never cut,
and may be of several kinds of memory: then it is several areas.

Ref: v7.3 vfio_iommu_type1.c struct vfio_dma
"""

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Final

from ...engine.memory.origin import Origin


class Dma:
    """`iova`..`last` is memory of `payer`, which holds a reference to it. `invalid`: its address is
    to be told anew (VFIO_DMA_UNMAP_FLAG_VADDR); what devices reach stays. `bitmap`: what an earlier
    dirty bitmap has left (bitmap.py).
    """

    __slots__ = ("bitmap", "invalid", "iova", "last", "payer")

    def __init__(self, iova: int, last: int, payer: Origin) -> None:
        self.iova: Final = iova
        self.last: Final = last
        self.payer = payer
        self.invalid = False
        self.bitmap = 0
        payer.get()

    @property
    def size(self) -> int:
        """Bytes."""
        return self.last - self.iova + 1

    def __str__(self) -> str:
        return f"the mapping {self.iova:#x}..{self.last:#x}"


class Dmas:
    """Those of one container: none overlaps another. Made for the 65,535 that there can be."""

    def __init__(self) -> None:
        self._dmas: Final[list[Dma]] = []  # upwards

    def __len__(self) -> int:
        return len(self._dmas)

    def __iter__(self) -> Iterator[Dma]:
        return iter(self._dmas)

    def add(self, dma: Dma) -> None:
        insort(self._dmas, dma, key=_iova)

    def remove(self, dma: Dma) -> None:
        del self._dmas[bisect_left(self._dmas, dma.iova, key=_iova)]

    def touching(self, start: int, last: int) -> list[Dma]:
        """Those that have an IOVA in common with start..last, upwards."""
        return self._dmas[bisect_left(self._dmas, start, key=_last) : bisect_right(self._dmas, last, key=_iova)]

    def first(self, start: int, last: int) -> Dma | None:
        """The lowest of these."""
        at = bisect_left(self._dmas, start, key=_last)
        return self._dmas[at] if at < len(self._dmas) and self._dmas[at].iova <= last else None


def _iova(dma: Dma) -> int:
    return dma.iova


def _last(dma: Dma) -> int:
    return dma.last
