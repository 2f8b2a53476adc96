"""Devices without an IOMMU: their DMA goes to physical addresses, whatever they are attached to.

So a client asks for physical addresses, and tells the device. A page table of theirs is a list of what is pinned, which nothing
walks but IOAS_NOIOMMU_GET_PA; attached to one or not, to one of another kind even, the device can do the same. It shares nothing with
others: each is a group of its own, which nobody can own.

What of the host's memory a real device would reach is all of it. Here it is what a page table of this kind shows just now, in any
context, and in the way that one of them was mapped; beyond that a client's mistake is told, where hardware would read or write what
is not the client's.

Ref: v7.3 hwpt_noiommu.c, device.c iommufd_device_is_noiommu, io_pagetable.c iopt_get_phys
"""

from errno import EFAULT, EINVAL, ENOENT, EOPNOTSUPP, EPERM
from typing import Final

from ..errors import IoctlError
from .area import PROT_READ, PROT_WRITE
from .domain import Domain
from .host import Host
from .io_pagetable import IoPagetable
from .pages import PAGE_SIZE
from .physical import Shower
from .user_data import UserData

# Of AMD's format: every power of two from a page on, but for 512 GiB.
PAGE_SIZES: Final = (1 << 52) - (4 << 10) & ~(512 << 30)


class NoIommuDomain(Domain):
    """The list of what an IOAS has pinned."""

    __slots__ = ()
    pasids = False
    physical = True


def noiommu_domain(driver: object, flags: int, data: UserData | None) -> Domain:
    """EOPNOTSUPP: any flag, any data. Ref: v7.3 hwpt_noiommu.c noiommu_alloc_paging_flags"""
    if flags or data is not None:
        what = f"flags {flags:#x}" if flags else "data"
        raise IoctlError(EOPNOTSUPP, f"a page table for a device without an IOMMU takes no {what}")
    return NoIommuDomain(driver, PAGE_SIZES)


def get_phys(iopt: IoPagetable, iova: int, most: int) -> tuple[int, int]:
    """The physical address behind `iova`, and how many bytes from there on follow in both, `most` (at least 1) at most.

    EINVAL: a dma-buf that was revoked. ENOENT: nothing is mapped there. EOPNOTSUPP: no device without an IOMMU made the
    page table that holds the pages. EFAULT: they were lost. ENOMEM: Physical.runs. Ref: v7.3 io_pagetable.c iopt_get_phys
    """
    area = iopt.areas.first(iova, iova)
    if area is None or area.pages is None:
        raise IoctlError(ENOENT, f"IOVA {iova:#x} is not mapped")
    if area.pages.revoked:
        raise IoctlError(EINVAL, f"{area} is of a dma-buf that was revoked")
    if not iopt.domains or not iopt.domains[0].physical:
        holder = "the page table that holds it is of an IOMMU" if iopt.domains else "no page table shows it"
        raise IoctlError(EOPNOTSUPP, f"the physical address of {area} is not known: {holder}")
    byte = area.start_byte + iova - area.iova
    offset, most = byte % PAGE_SIZE, min(most, area.last - iova + 1)
    runs = iopt.host.physical.runs(area.pages, byte // PAGE_SIZE, area.last_index)
    address, length = next(runs, (0, 0))
    if not length:
        raise IoctlError(EFAULT, f"the memory of {area} was lost")
    for following, more in runs:
        if length - offset >= most or following != address + length:
            break
        length += more
    return address + offset, min(length - offset, most)


def dma(host: Host, address: int, data: memoryview, *, write: bool) -> None:
    """Copy what a device reads or writes from physical address `address` on. Errors: Device.dma_read."""
    done = 0
    while done < len(data):
        (area, start_byte), length = _reach(host, address + done, write)
        assert area.pages is not None
        if area.pages.revoked:
            raise IoctlError(ENOENT, f"{area} was of a dma-buf that was revoked: nothing is there")
        part = data[done : done + length]
        area.pages.dma(start_byte, part, write=write)
        done += len(part)


def _reach(host: Host, address: int, write: bool) -> tuple[Shower, int]:
    refusal = IoctlError(ENOENT, f"no page table without an IOMMU shows the physical address {address:#x}")
    for shower, length in host.physical.at(address):
        if shower.area.prot & (PROT_WRITE if write else PROT_READ):
            return shower, length
        refusal = IoctlError(EPERM, f"{shower.area} was mapped without IOMMU_IOAS_MAP_{'WRITEABLE' if write else 'READABLE'}")
    raise refusal
