"""Hardware page tables: a driver's domain with an ID, filled from an IOAS.

An automatic one is made when a device is attached to an IOAS and no other page table will do. It is
shared by the devices that it suits, and goes with its last user. One that a client allocated stays
until it is destroyed by its ID. paging.py makes them; nested.py has nested ones.

Ref: v7.3 hw_pagetable.c
"""

from collections.abc import Hashable
from errno import ENOENT, EPERM
from typing import Protocol

from ...errors import IoctlError
from ..mapping.direct import Direct
from ..mapping.domain import NEST_PARENT, PASID, AnyDomain, Domain
from ..mapping.io_pagetable import PROT_READ, PROT_WRITE
from ..mapping.ioas import Ioas
from ..mapping.objects import Object
from .fault import FaultQueue

NO_PASID = 0  # a device's DMA without a PASID


class MadeBy(Protocol):
    """What makes page tables: an Iommu."""

    @property
    def kind(self) -> Hashable: ...


class Hwpt(Object):
    """What devices are attached to. Users: those devices, once for each attachment.

    `iommu`: what made it. `auto`: it goes with its last user. `pasid_compat`: it may be attached to
    a PASID, and stand beside PASIDs. `fault`: where the faults of its devices go.
    """

    kind = "HWPT"
    __slots__ = ("auto", "domain", "fault", "iommu", "pasid_compat")

    def __init__(self, iommu: MadeBy, flags: int) -> None:
        super().__init__()
        self.domain: AnyDomain
        self.iommu = iommu
        self.auto = False
        self.fault: FaultQueue | None = None
        self.pasid_compat = bool(flags & PASID)

    @property
    def paging(self) -> "HwptPaging":
        """The page table that shows an IOAS: itself, or its parent. Ref: v7.3 iommufd_private.h
        find_hwpt_paging
        """
        raise NotImplementedError

    def dma(self, iova: int, data: memoryview, *, write: bool) -> None:
        """Copy what a device reads or writes. Errors: Device.dma_read."""
        raise NotImplementedError

    @property
    def direct(self) -> Direct | None:
        """By which DMA may go, both ways, instead of `dma`. None: by `dma` alone."""
        return None

    def set_fault(self, fault: FaultQueue) -> None:
        """The faults of its devices go to this queue; before it is published."""
        self.fault = fault
        self.domain.faults = True
        fault.users.append(self)

    def destroy(self) -> None:
        if self.fault is not None:
            self.fault.users.remove(self)


class HwptPaging(Hwpt):
    """A page table that shows an IOAS. `nest_parent`: others may nest in it; they are its users
    too.
    """

    domain: Domain
    __slots__ = ("enforce_coherency", "ioas", "linked", "nest_parent")

    def __init__(self, ioas: Ioas, iommu: MadeBy, flags: int) -> None:
        super().__init__(iommu, flags)
        self.ioas = ioas
        self.nest_parent = bool(flags & NEST_PARENT)
        self.enforce_coherency = False
        self.linked = False
        ioas.users.append(self)

    @property
    def paging(self) -> "HwptPaging":
        return self

    def dma(self, iova: int, data: memoryview, *, write: bool) -> None:
        iopt = self.ioas.iopt
        if not len(data):
            return
        if self._dma_directly(iova, data, write):
            return
        for area, start, end in iopt.contiguous(iova, iova + len(data) - 1):
            if not area.prot & (PROT_WRITE if write else PROT_READ):
                raise IoctlError(
                    EPERM, f"{area} was mapped without IOMMU_IOAS_MAP_{'WRITEABLE' if write else 'READABLE'}"
                )
            assert area.pages is not None
            if area.pages.revoked:
                raise IoctlError(ENOENT, f"{area} was of a dma-buf that was revoked: nothing is shown there")
            if write and self.domain.dirty is not None:
                self.domain.dirty.wrote(area, start, end, large_pages=iopt.large_pages)
            area.pages.dma(area.start_byte + start - area.iova, data[start - iova : end - iova + 1], write=write)

    @property
    def direct(self) -> Direct | None:
        dirty = self.domain.dirty
        return None if dirty is not None and dirty.enabled else self.ioas.iopt.direct

    def _dma_directly(self, iova: int, data: memoryview, write: bool) -> bool:
        """False: it is to be done, or done anew, another way."""
        direct = self.direct
        found = direct and direct.find(iova, len(data), PROT_WRITE if write else PROT_READ)
        if not found:
            return False
        move = found.memory.write if write else found.memory.read
        return move(iova + found.delta, data) == len(data)

    def destroy(self) -> None:
        if self.linked:
            self.ioas.hwpts.remove(self)
            self.ioas.iopt.remove_domain(self.domain)
        super().destroy()
        self.ioas.users.remove(self)
