"""Nested page tables: a guest's own translation, on top of a parent that shows an IOAS.

Ref: v7.3 hw_pagetable.c iommufd_hwpt_nested_alloc
"""

from collections.abc import Callable
from errno import EINVAL, ENOENT, EOPNOTSUPP

from ...errors import IoctlError
from ..mapping.domain import FAULT_ID_VALID, PASID, NestedDomain
from ..mapping.objects import ObjectTable
from ..mapping.user_data import UserData
from .device import Device
from .hwpt import Hwpt, HwptPaging
from .viommu import Viommu


class HwptNested(Hwpt):
    """It has no mapping and no IOAS of its own. It uses its parent, or a vIOMMU that uses the
    parent.
    """

    domain: NestedDomain
    __slots__ = ("_below", "parent")

    def __init__(self, below: HwptPaging | Viommu, flags: int) -> None:
        super().__init__(below.iommu, flags)
        self.parent = below.hwpt if isinstance(below, Viommu) else below
        self._below = below
        below.users.append(self)

    @property
    def paging(self) -> HwptPaging:
        return self.parent

    def dma(self, iova: int, data: memoryview, *, write: bool) -> None:
        raise IoctlError(ENOENT, f"{self} is nested: only its driver could tell what it shows at {iova:#x}")

    def destroy(self) -> None:
        super().destroy()
        self._below.users.remove(self)


def alloc_nested(objects: ObjectTable, parent: HwptPaging, device: Device, flags: int, data: UserData) -> HwptNested:
    """A new nested page table. It is not published: publish it, or `abort_and_destroy`.

    EOPNOTSUPP: unknown flags, no data, or a device whose IOMMU does not nest. EINVAL: a parent that
    is automatic, not a nest parent, or made by another kind of IOMMU. Others: what the driver says.
    Then nothing has changed.
    """
    _check(flags, data)
    if not device.iommu.nesting:
        raise IoctlError(EOPNOTSUPP, f"{device} has no nested page tables")
    if parent.auto or not parent.nest_parent:
        raise IoctlError(EINVAL, f"{parent} was not allocated with IOMMU_HWPT_ALLOC_NEST_PARENT")
    if device.iommu.kind != parent.iommu.kind:
        raise IoctlError(EINVAL, f"{parent} is of another kind of IOMMU than {device}")
    return _alloc(objects, parent, flags, lambda known: device.iommu.nested_domain(parent.domain, known, data))


def alloc_viommu_nested(objects: ObjectTable, viommu: Viommu, device: Device, flags: int, data: UserData) -> HwptNested:
    """As `alloc_nested`, on top of a vIOMMU. EINVAL: the device is not behind the vIOMMU's own
    IOMMU.

    Ref: v7.3 hw_pagetable.c iommufd_viommu_alloc_hwpt_nested
    """
    viommu.check_device(device)
    _check(flags, data)
    return _alloc(objects, viommu, flags, lambda known: viommu.driver.nested_domain(known, data))


def _check(flags: int, data: UserData) -> None:
    if flags & ~(FAULT_ID_VALID | PASID):
        raise IoctlError(EOPNOTSUPP, f"flags {flags:#x} have no meaning for a nested page table")
    if not data.length:
        raise IoctlError(EOPNOTSUPP, "a nested page table needs data that describes it")


def _alloc(
    objects: ObjectTable, below: HwptPaging | Viommu, flags: int, make: Callable[[int], NestedDomain]
) -> HwptNested:
    hwpt = HwptNested(below, flags)
    try:
        objects.reserve(hwpt)
    except IoctlError:
        below.users.remove(hwpt)
        raise
    try:
        hwpt.domain = make(flags & ~FAULT_ID_VALID)
    except BaseException:
        objects.abort_and_destroy(hwpt)
        raise
    return hwpt
