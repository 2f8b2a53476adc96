"""The IO page table: which IOVAs mean which bytes, and the rules by which that changes.

An IOVA is *reserved* (nobody may map there: a device cannot reach it), *allowed* (no device may come that would reserve it; chosen
IOVAs come from here if any are), or covered by an *area*. Reserved ranges belong to an owner and go with it; the allowed list is replaced
as a whole.

Mapping is in steps, as in the kernel: areas are put in with `pages = None` so that their IOVAs are taken, then filled, then published; a
request that meets an area in between gets EBUSY. Unmapping takes whole areas only, one after the other: those taken before a rule
was broken stay taken.

Ref: v7.3 io_pagetable.c
"""

from collections.abc import Iterable
from errno import EADDRINUSE, EBUSY, EEXIST, EINVAL, ENOENT, ENOSPC, EOVERFLOW, EPERM
from typing import Final

from ..errors import IoctlError
from .area import Area, AreaMap
from .pages import PAGE_SIZE, Slice
from .span import U64_MAX, Span, Spans

PROT_WRITE: Final = 1 << 1
PROT_READ: Final = 1 << 0
HUGE_PAGE_SIZE: Final = 2 << 20  # bytes; what the kernel's choice of an IOVA is aligned to at most (x86-64, THP)


class IoPagetable:
    """The mappings of one IOAS."""

    def __init__(self) -> None:
        self.areas = AreaMap()
        self.allowed = Spans()
        self.reserved = Spans()
        self.iova_alignment = 1  # bytes, a power of two, at most PAGE_SIZE
        self.large_pages = True

    # --- map ---

    def map(self, slices: list[Slice], length: int, iova: int | None, prot: int) -> int:
        """Show `slices`, `length` bytes in all, at `iova` or, if that is None, where this chooses. Returns the IOVA.

        On success the areas take over the references to the slices' pages; on failure the caller keeps them. Errors as `reserve`.
        """
        areas = self.insert(slices, length, iova, prot)
        self.publish(areas, slices)
        return areas[0].iova

    def insert(self, slices: list[Slice], length: int, iova: int | None, prot: int) -> list[Area]:
        """The first half of `map`: the areas stand, with `pages = None`. All or none.

        EINVAL: length is 0 or not aligned, IOVA not aligned or reserved, or a slice begins off the alignment within its page.
        EEXIST: an area is there. EOVERFLOW: beyond 2^64 - 1. EPERM: writeable, but the pages are not. ENOSPC: no hole is large enough.
        Ref: v7.3 io_pagetable.c iopt_alloc_area_pages
        """
        if length & (self.iova_alignment - 1) or not length:
            raise IoctlError(EINVAL, f"length {length:#x} is 0 or not a multiple of the alignment {self.iova_alignment:#x}")
        if iova is None:
            iova = self._choose(slices[0].address, length)
        else:
            self._check(iova, length)
        areas: list[Area] = []
        try:
            for part in slices:
                areas.append(self._insert_area(part, iova, prot))
                iova += part.length
        except IoctlError:
            self.abort(areas)
            raise
        return areas

    @staticmethod
    def publish(areas: list[Area], slices: list[Slice]) -> None:
        """The second half of `map`: from here on the areas can be used, and unmapped."""
        for area, part in zip(areas, slices, strict=True):
            area.pages = part.pages

    def abort(self, areas: Iterable[Area]) -> None:
        """Take back areas that were inserted and not published."""
        for area in areas:
            self.areas.remove(area)

    def _insert_area(self, part: Slice, iova: int, prot: int) -> Area:
        # Ref: v7.3 io_pagetable.c iopt_insert_area
        if prot & PROT_WRITE and not part.pages.writable:
            raise IoctlError(EPERM, "a writeable mapping of pages that were mapped without IOMMU_IOAS_MAP_WRITEABLE")
        if part.start_byte % PAGE_SIZE & (self.iova_alignment - 1):
            raise IoctlError(
                EINVAL, f"the memory begins {part.start_byte % PAGE_SIZE:#x} into a page, off the alignment {self.iova_alignment:#x}"
            )
        last = iova + part.length - 1
        if last > U64_MAX:
            raise IoctlError(EOVERFLOW, f"IOVA {iova:#x} + length {part.length:#x} is beyond 2^64 - 1")
        area = Area(iova, last, part.start_byte, prot)
        self.areas.add(area)
        return area

    def _check(self, iova: int, length: int) -> None:
        # Ref: v7.3 io_pagetable.c iopt_check_iova
        if iova & (self.iova_alignment - 1):
            raise IoctlError(EINVAL, f"IOVA {iova:#x} is not a multiple of the alignment {self.iova_alignment:#x}")
        last = iova + length - 1
        if last > U64_MAX:
            raise IoctlError(EOVERFLOW, f"IOVA {iova:#x} + length {length:#x} is beyond 2^64 - 1")
        reserved = self.reserved.first(iova, last)
        if reserved is not None:
            raise IoctlError(EINVAL, f"IOVA {iova:#x}..{last:#x} touches the reserved range {reserved}")
        area = self.areas.first(iova, last)
        if area is not None:
            raise IoctlError(EEXIST, f"IOVA {iova:#x}..{last:#x} overlaps {area}")

    def _choose(self, address: int, length: int) -> int:
        """The lowest free IOVA, aligned as the memory is (to the length's next power of two, 2 MiB at most), never 0.

        Ref: v7.3 io_pagetable.c iopt_alloc_iova
        """
        if length >= U64_MAX // 2:
            raise IoctlError(EOVERFLOW, f"length {length:#x} is too large for a chosen IOVA")
        alignment = 1 << (length - 1).bit_length()
        if address:
            alignment = min(alignment, address & -address)
        alignment = min(alignment, HUGE_PAGE_SIZE)
        if alignment < self.iova_alignment:
            raise IoctlError(
                EINVAL, f"memory at {address:#x}, aligned to {alignment:#x}, cannot meet the alignment {self.iova_alignment:#x}"
            )
        offset = address % PAGE_SIZE
        first, last = PAGE_SIZE, U64_MAX - PAGE_SIZE
        if len(self.allowed):
            windows = [(max(s, first), min(e, last)) for s, e in self.allowed.union() if e >= first and s <= last]
        else:
            windows = [(first, last)]
        for start, end in windows:
            begin = _fit(start, end, length, alignment, offset)
            if begin is None:
                continue
            for hole_start, hole_last in self.areas.holes(begin, end, length):
                for free_start, free_last in self.reserved.holes(hole_start, hole_last):
                    found = _fit(free_start, free_last, length, alignment, offset)
                    if found is not None:
                        return found
        raise IoctlError(ENOSPC, f"no free range of {length:#x} bytes aligned to {alignment:#x} is left")

    # --- copy ---

    def slices(self, iova: int, length: int) -> list[Slice]:
        """What stands behind iova..iova+length-1, without a gap; each slice holds a reference to its pages.

        EINVAL: length 0. EOVERFLOW: beyond 2^64 - 1. ENOENT: not all of it is mapped. Ref: v7.3 io_pagetable.c iopt_get_pages
        """
        if not length:
            raise IoctlError(EINVAL, "length is 0")
        last = iova + length - 1
        if last > U64_MAX:
            raise IoctlError(EOVERFLOW, f"IOVA {iova:#x} + length {length:#x} is beyond 2^64 - 1")
        found: list[Slice] = []
        position = iova
        while True:
            area = self.areas.first(position, position)
            if area is None or area.pages is None:
                for part in found:
                    part.pages.put()
                raise IoctlError(ENOENT, f"IOVA {position:#x} of {iova:#x}..{last:#x} is not mapped")
            end = min(last, area.last)
            found.append(Slice(area.pages.get(), area.start_byte + position - area.iova, end - position + 1))
            if area.last >= last:
                return found
            position = area.last + 1

    # --- unmap ---

    def unmap(self, start: int, last: int, limit: int) -> tuple[int, int | None]:
        """Unmap the areas that lie in start..last, `limit` at most.

        Returns the bytes unmapped and where to go on, None when the range is done. EBUSY: an area is being set up. ENOENT: an area
        reaches out of the range. What was unmapped before the error stays so.
        Ref: v7.3 io_pagetable.c iopt_unmap_iova_range
        """
        unmapped = 0
        for _ in range(limit):
            area = self.areas.first(start, last)
            if area is None:
                return unmapped, None
            if area.pages is None:
                raise IoctlError(EBUSY, f"{area} is being mapped or unmapped by another request")
            if area.iova < start or area.last > last:
                raise IoctlError(ENOENT, f"{area} reaches out of {start:#x}..{last:#x}; areas are not split")
            self.areas.remove(area)
            pages, area.pages = area.pages, None
            pages.put()
            unmapped += area.length
            if area.last >= last:
                return unmapped, None
            start = area.last + 1
        return unmapped, start

    # --- what may be mapped ---

    def allow(self, ranges: Spans) -> None:
        """Replace the allowed list. EADDRINUSE: a range touches a reserved one; then the list stays as it was.

        Ref: v7.3 io_pagetable.c iopt_set_allow_iova
        """
        for span in ranges:
            reserved = self.reserved.first(span.start, span.last)
            if reserved is not None:
                raise IoctlError(EADDRINUSE, f"the allowed range {span} touches the reserved range {reserved}")
        self.allowed = ranges

    def reserve(self, start: int, last: int, owner: object) -> None:
        """Reserve start..last on behalf of `owner`. EADDRINUSE: an area or an allowed range is there.

        Ref: v7.3 io_pagetable.c iopt_reserve_iova
        """
        area = self.areas.first(start, last)
        if area is not None:
            raise IoctlError(EADDRINUSE, f"{start:#x}..{last:#x} cannot be reserved: {area} is there")
        allowed = self.allowed.first(start, last)
        if allowed is not None:
            raise IoctlError(EADDRINUSE, f"{start:#x}..{last:#x} cannot be reserved: {allowed} was allowed")
        self.reserved.add(Span(start, last, owner))

    def unreserve(self, owner: object) -> None:
        """Give back what was reserved on behalf of `owner`."""
        self.reserved.remove_owner(owner)

    def usable(self) -> Iterable[tuple[int, int]]:
        """The IOVAs that may be mapped, as (start, last), upwards. Ref: v7.3 ioas.c iommufd_ioas_iova_ranges"""
        return self.reserved.holes(0, U64_MAX)

    # --- options ---

    def disable_large_pages(self) -> None:
        """Map single pages from now on, which raises the alignment to a page.

        EADDRINUSE: an area does not conform. Ref: v7.3 io_pagetable.c iopt_disable_large_pages
        """
        if not self.large_pages:
            return
        self.large_pages = False
        try:
            self._recalculate_alignment()
        except IoctlError:
            self.large_pages = True
            raise

    def enable_large_pages(self) -> None:
        self.large_pages = True
        self._recalculate_alignment()

    def _recalculate_alignment(self) -> None:
        # Ref: v7.3 io_pagetable.c iopt_calculate_iova_alignment, iopt_check_iova_alignment
        alignment = 1 if self.large_pages else PAGE_SIZE
        if alignment > self.iova_alignment:
            for area in self.areas:
                if (area.iova | area.length | area.page_offset) & (alignment - 1):
                    raise IoctlError(EADDRINUSE, f"{area} does not conform to an alignment of {alignment:#x}")
        self.iova_alignment = alignment

    def destroy(self) -> None:
        """Let everything go."""
        for area in self.areas:
            if area.pages is not None:
                area.pages.put()
        self.areas.clear()


def _fit(start: int, last: int, length: int, alignment: int, offset: int) -> int | None:
    """Where in start..last a range of `length` bytes begins that is aligned, plus `offset`; None if it does not fit.

    A hole of a single byte never fits. Ref: v7.3 io_pagetable.c __alloc_iova_check_range
    """
    aligned = start + alignment - 1
    if aligned > U64_MAX:
        return None
    aligned = aligned & ~(alignment - 1) | offset
    if aligned >= last or last - aligned < length - 1:
        return None
    return aligned
