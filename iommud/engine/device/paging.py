"""Making a page table that shows an IOAS. Ref: v7.3 hw_pagetable.c iommufd_hwpt_paging_alloc"""

from collections.abc import Generator
from errno import EOPNOTSUPP
from typing import Final

from ...errors import IoctlError
from ..mapping.domain import DIRTY_TRACKING, FAULT_ID_VALID, NEST_PARENT, PASID
from ..mapping.ioas import Ioas
from ..mapping.objects import ObjectTable
from ..mapping.user_data import UserData
from .group import Member
from .hwpt import HwptPaging

_KNOWN: Final = NEST_PARENT | DIRTY_TRACKING | FAULT_ID_VALID | PASID


def alloc_paging(
    objects: ObjectTable,
    ioas: Ioas,
    device: Member,
    flags: int = 0,
    data: UserData | None = None,
    *,
    attach_to: int | None = None,
) -> Generator[None, None, HwptPaging]:
    """A new page table that suits `device`, filled from `ioas`, which nobody else may change
    meanwhile. It is not published: publish it, or `abort_and_destroy`. `attach_to`: a PASID at
    which the device is attached before the page table is filled.

    EOPNOTSUPP: unknown or contradictory flags, or dirty tracking for a device that has none.
    Others: what the driver says, Group.attach, IoPagetable.add_domain. Then nothing has changed.
    Ref: v7.3 hw_pagetable.c iommufd_hwpt_paging_alloc
    """
    if flags & ~_KNOWN:
        raise IoctlError(EOPNOTSUPP, f"unknown flags {flags & ~_KNOWN:#x}")
    if flags & DIRTY_TRACKING and not device.port.dirty_tracking:
        raise IoctlError(EOPNOTSUPP, f"{device} cannot track what its DMA writes")
    if flags & FAULT_ID_VALID and flags & NEST_PARENT:
        raise IoctlError(EOPNOTSUPP, "a parent of nested page tables has no faults of its own")
    hwpt = HwptPaging(ioas, device.iommu, flags)
    try:
        objects.reserve(hwpt)
    except IoctlError:
        ioas.users.remove(hwpt)
        raise
    attached = False
    try:
        hwpt.domain = device.iommu.domain(flags & ~FAULT_ID_VALID, data)
        hwpt.enforce_coherency = device.iommu.enforces_coherency
        if attach_to is not None:
            device.group.attach(device, hwpt, attach_to)
            attached = True
        yield from ioas.iopt.add_domain(hwpt.domain)
    except BaseException:
        if attached:
            assert attach_to is not None
            device.group.detach(device, attach_to)
        objects.abort_and_destroy(hwpt)
        raise
    ioas.hwpts.append(hwpt)
    hwpt.linked = True
    return hwpt
