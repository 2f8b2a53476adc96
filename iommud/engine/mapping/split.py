"""Cutting an area in two. Only VFIO's first unmap needs it: it may unmap the middle of what was
mapped.

Both halves show the same bytes as before, at the same IOVAs. So no page table changes, and no page
is pinned or let go. What the area held of its Pages, the halves hold, each its part.

Ref: v7.3 io_pagetable.c iopt_cut_iova, iopt_area_split
"""

from collections.abc import Iterable
from errno import EBUSY, EINVAL, EOPNOTSUPP

from ...errors import IoctlError
from ..memory.area import Area
from ..memory.dma_buf import DmaBufPages
from .io_pagetable import IoPagetable


def cut(iopt: IoPagetable, lasts: Iterable[int]) -> None:
    """Make each of `lasts` the last IOVA of an area, if there is an area at all. An area that
    begins there stays whole, as in Linux.

    EBUSY: the area is being mapped or unmapped. EOPNOTSUPP: it is of a dma-buf. EINVAL: the place
    is off the alignment, accesses have pinned the area, or a page table may show it by large pages.
    What was cut before the error stays cut.
    """
    for last in lasts:
        area = iopt.areas.first(last, last)
        if area is not None and last not in (area.iova, area.last):
            _split(iopt, area, last)


def _split(iopt: IoPagetable, area: Area, last: int) -> None:
    pages, accesses = area.pages, area.accesses
    if pages is None or (accesses is not None and accesses.prevent_access):
        raise IoctlError(EBUSY, f"{area} is being mapped or unmapped by another request")
    if isinstance(pages, DmaBufPages):
        raise IoctlError(EOPNOTSUPP, f"{area} is of a dma-buf, and those are not split")
    start_byte = area.start_byte + last + 1 - area.iova
    if (last + 1 | start_byte) & (iopt.iova_alignment - 1):
        raise IoctlError(EINVAL, f"{area} cannot be split after {last:#x}, off the alignment {iopt.iova_alignment:#x}")
    if accesses is not None and accesses.num_accesses:
        raise IoctlError(EINVAL, f"{area} is pinned by accesses, so it is not split")
    if iopt.domains and iopt.large_pages:
        raise IoctlError(
            EINVAL, f"{area} may be mapped by large pages, which are not split: VFIO_TYPE1_IOMMU was not set in time"
        )
    iopt.host.take()
    lower = Area(area.iova, last, area.start_byte, area.prot)
    upper = Area(last + 1, area.last, start_byte, area.prot)
    lower.pages, upper.pages = pages, pages.get()
    if iopt.domains:
        pages.split_pin(area.first_index, upper.first_index, area.last_index)
    iopt.areas.remove(area)
    iopt.host.physical.hide(area)
    for half in lower, upper:
        iopt.areas.add(half)
        if iopt.physical:
            iopt.host.physical.show(half, pages)
    if iopt.host.observer is not None:
        iopt.host.observer.split(iopt, area, lower, upper)
