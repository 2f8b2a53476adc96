"""What of an IO page table lies in memory that our own process has mapped: a device's DMA there is
a copy between two addresses, however many areas it crosses.

A client may map its memory page by page (DPDK does), and a device may work off thousands of small
commands a second. To find each area, its pages and its pin, and to copy for each of them alone,
costs twenty times the copy. So neighbours that lie together are joined to an `Extent`, and
remembered by blocks of IOVAs, each when DMA first comes there.

Nothing is remembered of an IO page table in which anything was mapped or unmapped since, or which
was filled since. So what is remembered is as true as the areas are. What was revoked, and what is
reached through a client's process, has questions to be asked at each DMA, and never stands here.
"""

from bisect import bisect_right
from typing import Final, NamedTuple

from ..memory.area import PROT_WRITE, AreaMap
from ..memory.origin import Mapped
from ..memory.span import U64_MAX

BLOCK_SHIFT: Final = 19
BEYOND: Final = 128 << 10  # bytes that an extent may reach beyond its block
MOST: Final = 4096  # blocks that are remembered


class Extent(NamedTuple):
    """IOVAs that lie together, with the same `prot`: each at `delta` more in `memory`."""

    start: int
    last: int
    delta: int
    prot: int
    memory: Mapped


class Direct:
    """The extents of the areas that a page table shows. `clear` it whenever an area comes or goes,
    or its pages are pinned or let go.
    """

    __slots__ = ("_areas", "_blocks")

    def __init__(self, areas: AreaMap) -> None:
        self._areas = areas
        self._blocks: dict[int, list[Extent]] = {}

    def clear(self) -> None:
        self._blocks.clear()

    def find(self, iova: int, length: int, prot: int) -> Extent | None:
        """The extent in which all of this lies (1 byte or more), and permits `prot` (one bit).
        None: it cannot be reached so.
        """
        extents = self._blocks.get(iova >> BLOCK_SHIFT)
        if extents is None:
            extents = self._fill(iova >> BLOCK_SHIFT)
        at = 0 if len(extents) == 1 else bisect_right(extents, (iova, U64_MAX + 1)) - 1
        if at < 0:
            return None
        found = extents[at]
        if found.start <= iova and iova + length - 1 <= found.last and found.prot & prot:
            return found
        return None

    def _fill(self, number: int) -> list[Extent]:
        start = number << BLOCK_SHIFT
        end = start + (1 << BLOCK_SHIFT)
        found: list[Extent] = []
        for area in self._areas.touching(start, end + BEYOND - 1):
            if area.pages is None:
                continue
            iova, last = max(area.iova, start), min(area.last, end + BEYOND - 1)
            for place, length in area.pages.places(area.start_byte + iova - area.iova, last - iova + 1):
                if place is not None:
                    prot = area.prot if place.writable else area.prot & ~PROT_WRITE
                    extent = Extent(iova, iova + length - 1, place.address - iova, prot, place.memory)
                    before = found[-1] if found else None
                    if before is not None and before.last + 1 == iova and before[2:] == extent[2:]:
                        found[-1] = before._replace(last=extent.last)
                    else:
                        found.append(extent)
                iova += length
        if len(self._blocks) >= MOST:
            self._blocks.clear()
        self._blocks[number] = found
        return found
