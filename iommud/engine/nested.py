"""Nested page tables: a guest's own translation, below which lies a parent that shows an IOAS.

Ref: v7.3 hw_pagetable.c iommufd_hwpt_nested_alloc
"""

from errno import EINVAL, ENOENT, EOPNOTSUPP
from typing import TYPE_CHECKING

from ..errors import IoctlError
from .domain import FAULT_ID_VALID, PASID, NestedDomain
from .hwpt import Hwpt, HwptPaging
from .user_data import UserData

if TYPE_CHECKING:
    from .context import Context
    from .device import Device


class HwptNested(Hwpt):
    """It has no mapping, and no IOAS, of its own: it uses its parent."""

    domain: NestedDomain
    __slots__ = ("parent",)

    def __init__(self, parent: HwptPaging, flags: int) -> None:
        super().__init__(parent.iommu, flags)
        self.parent = parent
        parent.users.append(self)

    @property
    def paging(self) -> HwptPaging:
        return self.parent

    def dma(self, iova: int, data: memoryview, *, write: bool) -> None:
        raise IoctlError(ENOENT, f"{self} is nested: only its driver could tell what it shows at {iova:#x}")

    def destroy(self) -> None:
        super().destroy()
        self.parent.users.remove(self)


def alloc_nested(context: "Context", parent: HwptPaging, device: "Device", flags: int, data: UserData) -> HwptNested:
    """A new nested page table; not published (publish it, or `abort_and_destroy`).

    EOPNOTSUPP: unknown flags, no data, or a device whose IOMMU does not nest. EINVAL: a parent that is automatic, not meant to be one, or
    another kind of IOMMU's. Others: what the driver says. Then nothing has changed.
    """
    if flags & ~(FAULT_ID_VALID | PASID):
        raise IoctlError(EOPNOTSUPP, f"flags {flags:#x} have no meaning for a nested page table")
    if not data.length:
        raise IoctlError(EOPNOTSUPP, "a nested page table needs data that describes it")
    if not device.driver.nesting:
        raise IoctlError(EOPNOTSUPP, f"{device} has no nested page tables")
    if parent.auto or not parent.nest_parent:
        raise IoctlError(EINVAL, f"{parent} was not allocated with IOMMU_HWPT_ALLOC_NEST_PARENT")
    if device.driver.iommu != parent.iommu:
        raise IoctlError(EINVAL, f"{parent} is of another kind of IOMMU than {device}")
    hwpt = HwptNested(parent, flags)
    try:
        context.objects.reserve(hwpt)
    except IoctlError:
        parent.users.remove(hwpt)
        raise
    try:
        hwpt.domain = device.driver.nested_domain(parent.domain, flags & ~FAULT_ID_VALID, data)
    except BaseException:
        context.objects.abort_and_destroy(hwpt)
        raise
    return hwpt
