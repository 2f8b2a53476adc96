"""The IO page table: which IOVAs mean which bytes, and the rules by which that changes.

An IOVA can be *reserved*: nobody may map there, because a device cannot reach it. It can be
*allowed*: no device may come that would reserve it; if there are allowed IOVAs, chosen IOVAs are
among them. It can be covered by an *area*. Reserved ranges belong to an owner and go with it. The
allowed list is replaced as a whole.

Mapping goes in steps, as in the kernel. Areas are inserted with `pages = None`, so that their IOVAs
are taken; then they are filled, then published. A request that meets an area in between gets EBUSY.
Unmapping takes whole areas only, one after the other. Areas that were unmapped before a rule was
broken stay unmapped.

Page tables (`domains`) and accesses stand on it. Every domain shows every area. While there is a
domain, the pages of an area are pinned, once, however many domains there are.

Ref: v7.3 io_pagetable.c
"""

from collections.abc import Generator, Iterable, Iterator
from errno import EADDRINUSE, EBUSY, EINVAL, ENOENT, EOVERFLOW, EPERM
from typing import Protocol

from ...errors import IoctlError
from ..memory.area import PROT_READ as PROT_READ
from ..memory.area import PROT_WRITE as PROT_WRITE
from ..memory.area import Area, AreaMap
from ..memory.host import Host
from ..memory.origin import PAGE_SIZE, Identity
from ..memory.pages import Pages, Slice
from ..memory.span import U64_MAX, Span, Spans, last_of
from .allowed import NOTHING, Allowed
from .direct import Direct
from .domain import Domain
from .filling import fill_areas, fill_domain
from .iova import check, choose


class Standing(Protocol):
    """What stands on the table, looks through it and may pin: an Access. `iova_alignment`: bytes, a
    power of two.
    """

    iova_alignment: int

    async def ask_to_unpin(self, iova: int, length: int, request: object) -> None: ...


class IoPagetable:
    """The mappings of one IOAS."""

    def __init__(self, host: Host | None = None) -> None:
        self.host = host or Host()
        self.domains: list[Domain] = []
        self.accesses: list[Standing] = []
        self.areas = AreaMap()
        self.direct = Direct(self.areas)  # asked only while there is a page table
        self.allowed = NOTHING
        self.reserved = Spans()
        # how many of the page tables are: while there is one, the host knows what they show
        self.physical = 0
        self.iova_alignment = 1  # bytes, a power of two, at most PAGE_SIZE
        self.large_pages = True

    # --- map ---

    def map(self, slices: list[Slice], length: int, iova: int | None, prot: int) -> int:
        """Show `slices`, `length` bytes in all, at `iova` or, if that is None, where this chooses.
        Returns the IOVA.

        On success the areas take over the references to the slices' pages; on failure the caller
        keeps them. Errors: `insert`, `fill`.
        """
        areas = self.insert(slices, length, iova, prot)
        try:
            self.fill(areas, slices)
        except IoctlError:
            self.abort(areas)
            raise
        self.publish(areas, slices)
        return areas[0].iova

    def fill(self, areas: list[Area], slices: list[Slice]) -> None:
        """Pin what `areas` will show, if there is a page table to show it. Errors: fill_areas."""
        if self.domains:
            fill_areas(self.host, self.domains, areas, slices)

    def insert(self, slices: list[Slice], length: int, iova: int | None, prot: int) -> list[Area]:
        """The first half of `map`: the areas stand, with `pages = None`. All or none.

        EINVAL: length is 0 or not aligned, IOVA not aligned or reserved, or a slice begins off the
        alignment within its page. EEXIST: an area is there. EOVERFLOW: beyond 2^64 - 1. EPERM:
        writeable, but the pages are not. ENOSPC: no hole is large enough.
        Ref: v7.3 io_pagetable.c iopt_alloc_area_pages
        """
        if length & (self.iova_alignment - 1) or not length:
            raise IoctlError(
                EINVAL, f"length {length:#x} is 0 or not a multiple of the alignment {self.iova_alignment:#x}"
            )
        if iova is None:
            iova = choose(self, slices[0].address, length)
        else:
            check(self, iova, length)
        areas: list[Area] = []
        try:
            for part in slices:
                areas.append(self._insert_area(part, iova, prot))
                iova += part.length
        except IoctlError:
            self.abort(areas)
            raise
        return areas

    def publish(self, areas: list[Area], slices: list[Slice]) -> None:
        """The second half of `map`: from now on the areas can be used, and unmapped."""
        self.direct.clear()
        for area, part in zip(areas, slices, strict=True):
            area.pages = part.pages
            if self.physical:
                self.host.physical.show(area, part.pages)
            if self.host.observer is not None:
                self.host.observer.mapped(self, area)

    def abort(self, areas: Iterable[Area]) -> None:
        """Take back areas that were inserted and not published."""
        for area in areas:
            self.areas.remove(area)
            self.host.give()

    def _insert_area(self, part: Slice, iova: int, prot: int) -> Area:
        # Ref: v7.3 io_pagetable.c iopt_insert_area
        if prot & PROT_WRITE and not part.pages.writable:
            raise IoctlError(EPERM, "a writeable mapping of pages that were mapped without IOMMU_IOAS_MAP_WRITEABLE")
        if part.start_byte % PAGE_SIZE & (self.iova_alignment - 1):
            raise IoctlError(
                EINVAL,
                f"the memory begins {part.start_byte % PAGE_SIZE:#x} into a page, off the alignment {self.iova_alignment:#x}",
            )
        area = Area(iova, last_of(iova, part.length), part.start_byte, prot)
        if area.last_index >= part.pages.npages:
            raise IoctlError(EOVERFLOW, f"length {part.length:#x} is more than can be counted in pages")
        self.host.take()
        self.areas.add(area)
        return area

    # --- copy ---

    def slices(self, iova: int, length: int) -> list[Slice]:
        """What stands behind iova..iova+length-1, without a gap. Each slice holds a reference to
        its pages.

        EINVAL: length 0. EOVERFLOW: beyond 2^64 - 1. ENOENT: not all of it is mapped. Ref: v7.3
        io_pagetable.c iopt_get_pages
        """
        if not length:
            raise IoctlError(EINVAL, "length is 0")
        last = last_of(iova, length)
        found: list[Slice] = []
        try:
            for area, start, end in self.contiguous(iova, last):
                assert area.pages is not None
                found.append(Slice(area.pages.get(), area.start_byte + start - area.iova, end - start + 1))
        except IoctlError:
            for part in found:
                part.pages.put()
            raise
        return found

    def contiguous(self, iova: int, last: int) -> Iterator[tuple[Area, int, int]]:
        """The areas under iova..last with the part of each that is meant (start, end inclusive).
        ENOENT when it comes to a gap.

        Ref: v7.3 io_pagetable.c iopt_area_contig_init, iopt_area_contig_next
        """
        position = iova
        while True:
            area = self.areas.first(position, position)
            if area is None or area.pages is None:
                raise IoctlError(ENOENT, f"IOVA {position:#x} of {iova:#x}..{last:#x} is not mapped")
            yield area, position, min(last, area.last)
            if area.last >= last:
                return
            position = area.last + 1

    # --- unmap ---

    def unmap(self, start: int, last: int, limit: int) -> tuple[int, int | None]:
        """Unmap the areas that lie in start..last, at most `limit` of them.

        Returns how many bytes were unmapped, and where to go on (None: the range is done). If
        accesses have pinned an area, the call ends there. The area is marked, so that no new pin is
        made, and stands at the place to go on (`pinned_at`): its accesses must be asked to let go.
        EBUSY: an area is being set up, or locked. ENOENT: an area reaches out of the range. An
        error is raised only for the first area of a call, so that everything unmapped before has
        been reported.

        Ref: v7.3 io_pagetable.c iopt_unmap_iova_range
        """
        unmapped = 0
        for _ in range(limit):
            area = self.areas.first(start, last)
            if area is None:
                return unmapped, None
            refusal = self._unmap_refusal(area, start, last)
            if refusal is not None and unmapped:
                return unmapped, area.iova  # to be told next time: what was unmapped counts
            if refusal is not None:
                raise refusal
            assert area.pages is not None
            if area.accesses is not None and area.accesses.num_accesses:
                area.accesses.prevent_access = True
                return unmapped, area.iova
            self._take_out(area, area.pages)
            unmapped += area.length
            if area.last >= last:
                return unmapped, None
            start = area.last + 1
        return unmapped, start

    def refuses(self, start: int, last: int) -> bool:
        """Whether `unmap` of start..last would raise at once. If so, it had stopped there only to
        report first what it had unmapped.
        """
        area = self.areas.first(start, last)
        return area is not None and self._unmap_refusal(area, start, last) is not None

    @staticmethod
    def _unmap_refusal(area: Area, start: int, last: int) -> IoctlError | None:
        if area.pages is None:
            return IoctlError(EBUSY, f"{area} is being mapped or unmapped by another request")
        if area.accesses is not None and area.accesses.num_locks:
            return IoctlError(EBUSY, f"{area} is locked by an object that stands on it")
        if area.iova < start or area.last > last:
            return IoctlError(ENOENT, f"{area} reaches out of {start:#x}..{last:#x}; areas are not split")
        return None

    def pinned_at(self, iova: int) -> Area | None:
        """The area at `iova` that `unmap` stopped at because accesses have it pinned."""
        area = self.areas.first(iova, iova)
        return area if area is not None and area.accesses is not None and area.accesses.prevent_access else None

    def _take_out(self, area: Area, pages: Pages) -> None:
        self.direct.clear()
        self.areas.remove(area)
        self.host.give()
        area.pages = None
        if self.physical:
            self.host.physical.hide(area)
        if self.domains:
            pages.unpin(self.host, area.first_index, area.last_index)
            for domain in self.domains:
                if domain.dirty is not None:
                    domain.dirty.forget(area.iova, area.last)
        pages.put()
        if self.host.observer is not None:
            self.host.observer.unmapped(self, area)

    # --- page tables ---

    def add_domain(self, domain: Domain) -> Generator[None, None, None]:
        """Show every area in another page table. Yields now and then, so that others get their
        turn; nobody may map or unmap meanwhile.

        EINVAL: its pages are larger than the system's. EADDRINUSE: an area is off its alignment, or
        outside its aperture (or an allowed range is). EFAULT, ENOMEM: an area's memory cannot be
        pinned. EINVAL: it cannot show an area. Then everything is as before.
        Ref: v7.3 io_pagetable.c iopt_table_add_domain, iopt_fill_domain
        """
        alignment = max(domain.smallest_page, self.iova_alignment)
        if alignment > PAGE_SIZE:
            raise IoctlError(
                EINVAL, f"the page table's smallest page is {alignment:#x} bytes, the system's {PAGE_SIZE:#x}"
            )
        if alignment != self.iova_alignment:
            self._check_alignment(alignment)
        try:
            if domain.aperture_start:
                self.reserve(0, domain.aperture_start - 1, domain)
            if domain.aperture_last != U64_MAX:
                self.reserve(domain.aperture_last + 1, U64_MAX, domain)
            first_physical = domain.physical and not self.physical
            yield from fill_domain(self.host, self.areas, domain, first=not self.domains, first_physical=first_physical)
        except BaseException:
            self.unreserve(domain)
            raise
        finally:
            self.direct.clear()  # a device may have asked meanwhile
        self.domains.append(domain)
        self.physical += domain.physical
        # Anew: an access may have come or gone while the page table was filled.
        self._recalculate_alignment()

    def remove_domain(self, domain: Domain) -> None:
        """Undo `add_domain`. The last page table lets the pages go. If it was the first one, which
        counts as the holder of the pages, the last in the list becomes the holder.

        Ref: v7.3 io_pagetable.c iopt_table_remove_domain
        """
        at, last = self.domains.index(domain), self.domains.pop()
        if last is not domain:
            self.domains[at] = last
        self.physical -= domain.physical
        last_physical = domain.physical and not self.physical
        if not self.domains:
            self.direct.clear()
        if last_physical or not self.domains:
            for area in self.areas:
                if last_physical:
                    self.host.physical.hide(area)
                if not self.domains and area.pages is not None:
                    area.pages.unpin(self.host, area.first_index, area.last_index)
        self.unreserve(domain)
        self._recalculate_alignment()

    def translate(self, iova: int) -> tuple[Identity, int] | None:
        """What a page table shows at `iova`: the real page's identity and the offset into it
        (bytes); None: nothing.
        """
        area = self.areas.first(iova, iova)
        if area is None or area.pages is None or area.pages.revoked or not self.domains:
            return None
        byte = area.start_byte + iova - area.iova
        return area.pages.identity(byte // PAGE_SIZE), byte % PAGE_SIZE

    # --- accesses ---

    def add_access(self, access: Standing) -> None:
        """EADDRINUSE: an area does not conform to the access's alignment. Ref: v7.3 io_pagetable.c
        iopt_add_access
        """
        self.accesses.append(access)
        try:
            self._recalculate_alignment()
        except IoctlError:
            self.accesses.remove(access)
            raise

    def remove_access(self, access: Standing) -> None:
        self.accesses.remove(access)
        self._recalculate_alignment()

    # --- what may be mapped ---

    def allow(self, ranges: Allowed) -> None:
        """Replace the allowed list. EADDRINUSE: a range touches a reserved one; then the list stays
        as it was.

        Ref: v7.3 io_pagetable.c iopt_set_allow_iova
        """
        for reserved in self.reserved:
            span = ranges.first(reserved.start, reserved.last)
            if span is not None:
                raise IoctlError(EADDRINUSE, f"the allowed range {span} touches the reserved range {reserved}")
        self.allowed = ranges

    def reserve(self, start: int, last: int, owner: object) -> None:
        """Reserve start..last on behalf of `owner`. EADDRINUSE: an area or an allowed range is
        there.

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
        """The IOVAs that may be mapped, as (start, last), upwards. Ref: v7.3 ioas.c
        iommufd_ioas_iova_ranges
        """
        return self.reserved.holes(0, U64_MAX)

    # --- options ---

    def disable_large_pages(self) -> None:
        """Map single pages from now on, which raises the alignment to a page.

        EINVAL: areas are mapped in a page table already. EADDRINUSE: an area does not conform.
        Ref: v7.3 io_pagetable.c iopt_disable_large_pages
        """
        if not self.large_pages:
            return
        if self.domains and len(self.areas):
            raise IoctlError(EINVAL, f"{len(self.areas)} areas are mapped in page tables already")
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
        # Ref: v7.3 io_pagetable.c iopt_calculate_iova_alignment
        alignment = 1 if self.large_pages else PAGE_SIZE
        for domain in self.domains:
            alignment = max(alignment, domain.smallest_page)
        for access in self.accesses:
            alignment = max(alignment, access.iova_alignment)
        if alignment > self.iova_alignment:
            self._check_alignment(alignment)
        self.iova_alignment = alignment

    def _check_alignment(self, alignment: int) -> None:
        # Ref: v7.3 io_pagetable.c iopt_check_iova_alignment
        for area in self.areas:
            if (area.iova | area.length | area.page_offset) & (alignment - 1):
                raise IoctlError(EADDRINUSE, f"{area} does not conform to an alignment of {alignment:#x}")

    def destroy(self) -> None:
        """Let everything go. No page table and no access stands on it any more."""
        assert not self.domains
        assert not self.accesses
        for area in self.areas:
            if area.pages is not None:
                area.pages.put()
                if self.host.observer is not None:
                    self.host.observer.unmapped(self, area)
        self.host.give(len(self.areas))
        self.areas.clear()
