"""vIOMMUs: the part of a physical IOMMU that a guest was given, on top of a nest parent. Ref: v7.3 viommu.c"""

from collections.abc import Generator, Hashable
from errno import EINVAL, EOPNOTSUPP
from typing import TYPE_CHECKING

from ..errors import IoctlError
from .domain import NestedDomain
from .hwpt import HwptPaging
from .objects import Object
from .user_data import UserArray, UserData

if TYPE_CHECKING:
    from .context import Context
    from .device import Device, Driver
    from .hw_queue import HwQueue
    from .vdevice import Vdevice
    from .veventq import Veventq


class ViommuDriver:
    """What a vIOMMU asks of its driver; drivers derive from it and write what they have."""

    shown: tuple[int, int] | None = None  # what clients may map for it: offset in the file, and length (bytes)
    hw_queue_types: frozenset[int] = frozenset()  # the kinds of queues in guest memory that its hardware can work on

    def nested_domain(self, flags: int, data: UserData) -> NestedDomain:
        """A new page table below which the vIOMMU's parent lies. `flags`: domain.PASID. Errors as device.Driver.domain."""
        raise IoctlError(EOPNOTSUPP, "the vIOMMU has no nested page tables")

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """Drop what was cached of its devices. As domain.NestedDomain.invalidate."""
        raise IoctlError(EOPNOTSUPP, "the vIOMMU has no cache to invalidate")

    def add_hw_queue(self, queue: "HwQueue") -> None:
        """The hardware works on `queue`, whose pages are held, from now on. Only with `hw_queue_types`. Errors: the driver's own."""
        raise IoctlError(EOPNOTSUPP, "the vIOMMU has no hardware queues")

    def remove_hw_queue(self, queue: "HwQueue") -> None:
        """It no longer does; only after `add_hw_queue`. Must not fail."""

    def destroy(self) -> None:
        """It goes. Must not fail."""


class Viommu(Object):
    """`hwpt` is its parent. `iommu`, `unit`: of which IOMMU it is a part (device.Driver). Users: the page tables nested in it, its
    vDEVICEs, event queues and hardware queues."""

    kind = "vIOMMU"
    __slots__ = ("context", "driver", "hwpt", "iommu", "unit", "vdevices", "veventqs")

    def __init__(self, context: "Context", hwpt: HwptPaging, iommu: Hashable, unit: Hashable = None) -> None:
        super().__init__()
        self.context = context
        self.hwpt = hwpt
        self.iommu = iommu
        self.unit = unit
        self.driver: ViommuDriver | None = None
        self.vdevices: dict[int, Vdevice] = {}  # by the guest's number
        self.veventqs: dict[int, Veventq] = {}  # by the type of their events
        hwpt.users.append(self)

    def check_device(self, device: "Device") -> None:
        """EINVAL: the device is not behind the vIOMMU's own IOMMU."""
        if (device.driver.iommu, device.driver.unit) != (self.iommu, self.unit):
            raise IoctlError(EINVAL, f"{device} is not behind the IOMMU of {self}")

    def device_of(self, virt_id: int) -> "Device | None":
        """The device that the guest knows by this number. Ref: v7.3 driver.c iommufd_viommu_find_dev"""
        found = self.vdevices.get(virt_id)
        return found.device if found is not None else None

    def virt_id_of(self, driver: "Driver") -> int | None:
        """The guest's number of this driver's device; None: the guest does not have it. Ref: v7.3 driver.c iommufd_viommu_get_vdev_id"""
        for virt_id, vdevice in self.vdevices.items():
            if vdevice.device.driver is driver:
                return virt_id
        return None

    def report_event(self, event_type: int, data: bytes) -> None:
        """Tell whoever reads events of this type. EOPNOTSUPP: nobody does. Ref: v7.3 driver.c iommufd_viommu_report_event"""
        queue = self.veventqs.get(event_type)
        if queue is None:
            raise IoctlError(EOPNOTSUPP, f"{self} has no queue for events of type {event_type:#x}")
        queue.report(data)

    def destroy(self) -> None:
        if self.driver is not None:
            self.driver.destroy()
        self.hwpt.users.remove(self)
