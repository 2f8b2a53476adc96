"""Filling page tables: what they show is pinned, once, however many of them show it.

Ref: v7.3 io_pagetable.c iopt_fill_domain, pages.c iopt_area_fill_domains
"""

from collections.abc import Generator
from errno import EINVAL
from typing import TYPE_CHECKING, Final

from ..errors import IoctlError
from .area import PROT_WRITE, Area
from .domain import Domain
from .pages import Pages, Slice

if TYPE_CHECKING:
    from .io_pagetable import IoPagetable

FILL_AT_ONCE: Final = 256  # areas between which others get their turn while a page table is filled


def fill_areas(table: "IoPagetable", areas: list[Area], slices: list[Slice]) -> None:
    """Pin what new `areas` will show, for the page tables that are there.

    EFAULT, ENOMEM: as Pages.cover. EINVAL: a page table cannot show it. Then nothing is pinned.
    """
    covered: list[tuple[Area, Pages]] = []
    try:
        for area, part in zip(areas, slices, strict=True):
            part.pages.cover(table.host, area.first_index, area.last_index)
            covered.append((area, part.pages))
            for domain in table.domains:
                _check_shown(domain, area)
    except IoctlError:
        for area, pages in covered:
            pages.uncover(table.host, area.first_index, area.last_index)
        raise


def fill_domain(table: "IoPagetable", domain: Domain) -> Generator[None, None, None]:
    """Show every area in a page table that is to be added, pinning it if that is the first. Yields now and then.

    EFAULT, ENOMEM: as Pages.cover. EINVAL: it cannot show an area. Then everything is as before.
    """
    first, first_physical = not table.domains, domain.physical and not table.physical
    done: list[tuple[Area, Pages]] = []
    try:
        for area in table.areas:
            if area.pages is not None:
                if first:
                    area.pages.cover(table.host, area.first_index, area.last_index)
                done.append((area, area.pages))
                _check_shown(domain, area)
                if first_physical:
                    table.host.physical.show(area, area.pages)
                if len(done) % FILL_AT_ONCE == 0:
                    yield
    except BaseException:
        for area, pages in done:
            if first_physical:
                table.host.physical.hide(area)
            if first:
                pages.uncover(table.host, area.first_index, area.last_index)
        raise


def _check_shown(domain: Domain, area: Area) -> None:
    # Ref: v7.3 generic_pt/iommu_pt.h map_range, io-pgtable-arm.c arm_lpae_map_pages, generic_pt/fmt/vtdss.h vtdss_pt_iommu_set_prot
    if not area.prot:
        raise IoctlError(EINVAL, f"{area} was mapped neither readable nor writeable, which no page table can show")
    if domain.writeable_only and not area.prot & PROT_WRITE:
        raise IoctlError(EINVAL, f"{area} was mapped without IOMMU_IOAS_MAP_WRITEABLE, which a page table of this IOAS cannot show")
