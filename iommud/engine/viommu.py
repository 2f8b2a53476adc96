"""vIOMMUs: the part of a physical IOMMU that a guest was given, on top of a nest parent. Ref: v7.3 viommu.c"""

from collections.abc import Hashable
from errno import EOPNOTSUPP

from ..errors import IoctlError
from .domain import NestedDomain
from .hwpt import HwptPaging
from .objects import Object
from .user_data import UserData


class ViommuDriver:
    """What a vIOMMU asks of its driver; drivers derive from it and write what they have."""

    def nested_domain(self, flags: int, data: UserData) -> NestedDomain:
        """A new page table below which the vIOMMU's parent lies. `flags`: domain.PASID. Errors as device.Driver.domain."""
        raise IoctlError(EOPNOTSUPP, "the vIOMMU has no nested page tables")

    def destroy(self) -> None:
        """It goes. Must not fail."""


class Viommu(Object):
    """`hwpt` is its parent. Users: the page tables nested in it."""

    kind = "vIOMMU"
    __slots__ = ("driver", "hwpt", "iommu")

    def __init__(self, hwpt: HwptPaging, iommu: Hashable) -> None:
        super().__init__()
        self.hwpt = hwpt
        self.iommu = iommu
        self.driver: ViommuDriver | None = None
        hwpt.users.append(self)

    def destroy(self) -> None:
        if self.driver is not None:
            self.driver.destroy()
        self.hwpt.users.remove(self)
