"""Devices without an IOMMU: their DMA goes to physical addresses, whatever they are attached to.

So a client asks for physical addresses, and tells them to the device. A page table of such a device
is a list of what is pinned. Nothing walks it but IOAS_NOIOMMU_GET_PA. Whether it is attached to the
device, or one of another kind is, or none, the device can do the same. The device shares nothing
with others: each is a group of its own, which nobody can own.

A real device would reach all of the host's memory. Here it reaches what a page table of this kind
shows just now, in any context, and in the way that one of them was mapped. Everything else is told
as the client's mistake, where hardware would read or write what is not the client's.

Ref: v7.3 hwpt_noiommu.c, device.c iommufd_device_is_noiommu, io_pagetable.c iopt_get_phys
"""

from errno import EFAULT, EINVAL, ENOENT, EOPNOTSUPP, EPERM
from typing import Final

from ...errors import IoctlError
from ..mapping.domain import Domain
from ..mapping.io_pagetable import IoPagetable
from ..mapping.user_data import UserData
from ..memory.area import PROT_READ, PROT_WRITE
from ..memory.host import Host
from ..memory.origin import PAGE_SIZE
from ..memory.physical import Shower

# Of AMD's format: every power of two from a page on, but for 512 GiB.
PAGE_SIZES: Final = (1 << 52) - (4 << 10) & ~(512 << 30)


class NoIommuDomain(Domain):
    """The list of what is pinned of an IOAS."""

    __slots__ = ()
    pasids = False
    physical = True


def noiommu_domain(flags: int, data: UserData | None) -> Domain:
    """EOPNOTSUPP: any flag, any data. Ref: v7.3 hwpt_noiommu.c noiommu_alloc_paging_flags"""
    if flags or data is not None:
        what = f"flags {flags:#x}" if flags else "data"
        raise IoctlError(EOPNOTSUPP, f"a page table for a device without an IOMMU takes no {what}")
    return NoIommuDomain(PAGE_SIZES)


def get_phys(iopt: IoPagetable, iova: int, most: int) -> tuple[int, int]:
    """The physical address behind `iova`, and how many bytes follow from there on in both, at most
    `most` (which is at least 1).

    EINVAL: a dma-buf that was revoked. ENOENT: nothing is mapped there. EOPNOTSUPP: the page table
    that holds the pages was not made for a device without an IOMMU. EFAULT: they were lost. ENOMEM:
    Physical.runs. Ref: v7.3 io_pagetable.c iopt_get_phys
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
    """Copy what a device reads or writes from physical address `address` on. Errors:
    Device.dma_read.
    """
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
        refusal = IoctlError(
            EPERM, f"{shower.area} was mapped without IOMMU_IOAS_MAP_{'WRITEABLE' if write else 'READABLE'}"
        )
    raise refusal
