"""The IOVAs that a type1 container can map: what all its page tables reach, without what any of its
groups reserves.

The list begins with the first group, and is made smaller by each that comes. When a group goes, the
list is made anew from the groups that stay, but within its first and its last IOVA, which move only
if a page table goes as well. So what a group reserved at the very end of the list stays away.

Ref: v7.3 vfio_iommu_type1.c vfio_iommu_aper_resize, vfio_iommu_resv_exclude,
vfio_iommu_aper_expand, vfio_iommu_resv_refresh
"""

from collections.abc import Iterable, Sequence
from errno import EINVAL
from typing import Final

from ...engine.device.model import Region
from ...engine.memory.span import U64_MAX, Span, Spans
from ...errors import IoctlError

Range = tuple[int, int]  # first and last IOVA


class Usable:
    """`ranges`: upwards. Empty: there is no group yet, and no limit."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self.ranges: Final[Sequence[Range]] = tuple(ranges)

    def has(self, start: int, last: int) -> bool:
        """Whether all of start..last lies in one range."""
        return not self.ranges or any(low <= start and last <= high for low, high in self.ranges)

    def lost(self, first: int, last: int) -> list[Range]:
        """What an aperture of first..last would take away at both ends. EINVAL: all of it."""
        if not self.ranges:
            return []
        low, high = self.ranges[0][0], self.ranges[-1][1]
        if first > high or last < low:
            raise IoctlError(EINVAL, f"the page table reaches {first:#x}..{last:#x}, the container {low:#x}..{high:#x}")
        return [(low, first - 1)] * (first > low) + [(last + 1, high)] * (last < high)

    def within(self, first: int, last: int) -> "Usable":
        """The part in first..last."""
        found = self.ranges or ((first, last),)
        return Usable((max(low, first), min(high, last)) for low, high in found if low <= last and high >= first)

    def without(self, regions: Iterable[Region]) -> "Usable":
        """What is left beside `regions`. EINVAL: nothing."""
        taken = Spans()
        for region in regions:
            taken.add(Span(region.start, region.last))
        found = [hole for low, high in self.ranges for hole in taken.holes(low, high)]
        if not found:
            raise IoctlError(EINVAL, "the groups of the container reserve all IOVAs")
        return Usable(found)

    def refreshed(self, apertures: Sequence[Range] | None, regions: Iterable[Region]) -> "Usable":
        """After a group has gone. `apertures`: of the page tables that stay, if one has gone as
        well; None: none has. `regions`: of the groups that stay.
        """
        low, high = self.ranges[0][0], self.ranges[-1][1]
        if apertures is not None:
            low = max((first for first, _ in apertures), default=0)
            high = min((last for _, last in apertures), default=U64_MAX)
        try:
            return Usable(((low, high),)).without(regions)
        except IoctlError:
            return self
