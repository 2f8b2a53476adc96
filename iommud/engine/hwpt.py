"""Hardware page tables: a driver's domain with an ID, filled from an IOAS.

An automatic one comes into being when a device is attached to an IOAS and no other will do, is shared by the devices it suits, and goes
with its last user. One that a client allocated stays until it is destroyed by its ID. Nested ones are in nested.py.

Ref: v7.3 hw_pagetable.c
"""

from collections.abc import Generator, Hashable
from errno import ENOENT, EOPNOTSUPP, EPERM
from typing import TYPE_CHECKING

from ..errors import IoctlError
from .domain import DIRTY_TRACKING, FAULT_ID_VALID, NEST_PARENT, PASID, AnyDomain, Domain
from .fault import Fault
from .io_pagetable import PROT_READ, PROT_WRITE
from .ioas import Ioas
from .objects import Object
from .user_data import UserData

if TYPE_CHECKING:
    from .context import Context
    from .device import Device

NO_PASID = 0  # a device's DMA without a PASID
_KNOWN = NEST_PARENT | DIRTY_TRACKING | FAULT_ID_VALID | PASID


class Hwpt(Object):
    """What devices are attached to. Users: those, once for each attachment.

    `iommu`: the kind of IOMMU that it is a page table of. `auto`: it goes with its last user. `pasid_compat`: it may be attached to a
    PASID, and stand beside PASIDs. `fault`: where the faults of its devices go.
    """

    kind = "HWPT"
    __slots__ = ("auto", "domain", "fault", "iommu", "pasid_compat")

    def __init__(self, iommu: Hashable, flags: int) -> None:
        super().__init__()
        self.domain: AnyDomain
        self.iommu = iommu
        self.auto = False
        self.fault: Fault | None = None
        self.pasid_compat = bool(flags & PASID)

    @property
    def paging(self) -> "HwptPaging":
        """The page table that shows an IOAS: itself, or its parent. Ref: v7.3 iommufd_private.h find_hwpt_paging"""
        raise NotImplementedError

    def dma(self, iova: int, data: memoryview, *, write: bool) -> None:
        """Copy what a device reads or writes. Errors: Device.dma_read."""
        raise NotImplementedError

    def set_fault(self, fault: Fault) -> None:
        """The faults of its devices go to this queue; before it is published."""
        self.fault = fault
        self.domain.faults = True
        fault.users.append(self)

    def destroy(self) -> None:
        if self.fault is not None:
            self.fault.users.remove(self)


class HwptPaging(Hwpt):
    """A page table that shows an IOAS. `nest_parent`: others may nest in it, and are its users too."""

    domain: Domain
    __slots__ = ("enforce_coherency", "ioas", "linked", "nest_parent")

    def __init__(self, ioas: Ioas, iommu: Hashable, flags: int) -> None:
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
        for area, start, end in iopt.contiguous(iova, iova + len(data) - 1):
            if not area.prot & (PROT_WRITE if write else PROT_READ):
                raise IoctlError(EPERM, f"{area} was mapped without IOMMU_IOAS_MAP_{'WRITEABLE' if write else 'READABLE'}")
            assert area.pages is not None
            if area.pages.revoked:
                raise IoctlError(ENOENT, f"{area} was of a dma-buf that was revoked: nothing is shown there")
            if write and self.domain.dirty is not None:
                self.domain.dirty.wrote(area, start, end, large_pages=iopt.large_pages)
            area.pages.dma(area.start_byte + start - area.iova, data[start - iova : end - iova + 1], write=write)

    def destroy(self) -> None:
        if self.linked:
            self.ioas.hwpts.remove(self)
            self.ioas.iopt.remove_domain(self.domain)
        super().destroy()
        self.ioas.users.remove(self)


def alloc_paging(
    context: "Context",
    ioas: Ioas,
    device: "Device",
    flags: int = 0,
    data: UserData | None = None,
    *,
    attach_to: int | None = None,
) -> Generator[None, None, HwptPaging]:
    """A new page table that suits `device`, filled from `ioas`, which nobody else may change meanwhile. It is not published: publish it,
    or `abort_and_destroy`. `attach_to`: the PASID to attach the device to before it is filled.

    EOPNOTSUPP: unknown or contradictory flags, or dirty tracking of a device that has none. Others: what the driver says, Group.attach,
    IoPagetable.add_domain. Then nothing has changed. Ref: v7.3 hw_pagetable.c iommufd_hwpt_paging_alloc
    """
    if flags & ~_KNOWN:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {flags & ~_KNOWN:#x}")
    if flags & DIRTY_TRACKING and not device.driver.dirty_tracking:
        raise IoctlError(EOPNOTSUPP, f"{device} cannot track what its DMA writes")
    if flags & FAULT_ID_VALID and flags & NEST_PARENT:
        raise IoctlError(EOPNOTSUPP, "a parent of nested page tables has no faults of its own")
    hwpt = HwptPaging(ioas, device.driver.iommu, flags)
    try:
        context.objects.reserve(hwpt)
    except IoctlError:
        ioas.users.remove(hwpt)
        raise
    attached = False
    try:
        hwpt.domain = device.driver.domain(flags & ~FAULT_ID_VALID, data)
        hwpt.enforce_coherency = device.driver.enforces_coherency
        if attach_to is not None:
            device.group.attach(device, hwpt, attach_to)
            attached = True
        yield from ioas.iopt.add_domain(hwpt.domain)
    except BaseException:
        if attached:
            assert attach_to is not None
            device.group.detach(device, attach_to)
        context.objects.abort_and_destroy(hwpt)
        raise
    ioas.hwpts.append(hwpt)
    hwpt.linked = True
    return hwpt
