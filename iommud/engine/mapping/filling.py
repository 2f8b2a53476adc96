"""Filling page tables. What they show is pinned, and only once, however many of them show it.

Ref: v7.3 io_pagetable.c iopt_fill_domain, pages.c iopt_area_fill_domains
"""

from collections.abc import Generator
from errno import EINVAL
from typing import Final

from ...errors import IoctlError
from ..memory.area import PROT_WRITE, Area, AreaMap
from ..memory.host import Host
from ..memory.pages import Pages, Slice
from .domain import Domain

FILL_AT_ONCE: Final = 256  # areas between which others get their turn while a page table is filled


def fill_areas(host: Host, domains: list[Domain], areas: list[Area], slices: list[Slice]) -> None:
    """Pin what new `areas` will show in the page tables `domains`, which exist already.

    EFAULT, ENOMEM: as Pages.pin. EINVAL: a page table cannot show it. Then nothing is pinned.
    """
    pinned: list[tuple[Area, Pages]] = []
    try:
        for area, part in zip(areas, slices, strict=True):
            part.pages.pin(host, area.first_index, area.last_index)
            pinned.append((area, part.pages))
            for domain in domains:
                _check_shown(domain, area)
    except IoctlError:
        for area, pages in pinned:
            pages.unpin(host, area.first_index, area.last_index)
        raise


def fill_domain(
    host: Host, areas: AreaMap, domain: Domain, *, first: bool, first_physical: bool
) -> Generator[None, None, None]:
    """Show every area in a page table that is being added. If it is the first one, pin them; if it
    is the first that has physical addresses, give them such. Yields now and then.

    EFAULT, ENOMEM: as Pages.pin. EINVAL: it cannot show an area. Then everything is as before.
    """
    done: list[tuple[Area, Pages]] = []
    try:
        for area in areas:
            if area.pages is not None:
                if first:
                    area.pages.pin(host, area.first_index, area.last_index)
                done.append((area, area.pages))
                _check_shown(domain, area)
                if first_physical:
                    host.physical.show(area, area.pages)
                if len(done) % FILL_AT_ONCE == 0:
                    yield
    except BaseException:
        for area, pages in done:
            if first_physical:
                host.physical.hide(area)
            if first:
                pages.unpin(host, area.first_index, area.last_index)
        raise


def _check_shown(domain: Domain, area: Area) -> None:
    # Ref: v7.3 generic_pt/iommu_pt.h map_range, io-pgtable-arm.c arm_lpae_map_pages,
    # generic_pt/fmt/vtdss.h vtdss_pt_iommu_set_prot
    if not area.prot:
        raise IoctlError(EINVAL, f"{area} was mapped neither readable nor writeable, which no page table can show")
    if domain.writeable_only and not area.prot & PROT_WRITE:
        raise IoctlError(
            EINVAL, f"{area} was mapped without IOMMU_IOAS_MAP_WRITEABLE, which a page table of this IOAS cannot show"
        )
