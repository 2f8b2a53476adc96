"""vIOMMUs: the part of a physical IOMMU that was given to a guest, on top of a nest parent. Ref:
v7.3 viommu.c
"""

from collections.abc import Generator
from errno import EINVAL, EOPNOTSUPP
from typing import Protocol

from ...errors import IoctlError
from ..mapping.domain import NestedDomain
from ..mapping.objects import Object
from ..mapping.user_data import UserArray, UserData
from ..memory.host import Host
from .hwpt import HwptPaging, MadeBy


class GuestDevice(Protocol):
    """A device that a guest may get: a Device."""

    @property
    def iommu(self) -> object: ...

    @property
    def port(self) -> object: ...


class GuestNumber(Protocol):
    """A device as a guest knows it: a Vdevice."""

    @property
    def device(self) -> GuestDevice: ...


class GuestQueue(Protocol):
    """A queue in a guest's memory, as its hardware knows it: a HwQueue."""

    type: int
    index: int
    iova: int
    length: int
    users: list[object]


class EventSink(Protocol):
    """Where events go: a Veventq."""

    id: int
    kind: str

    def report(self, data: bytes) -> None: ...


class ViommuDriver:
    """What a vIOMMU asks of its driver. Drivers derive from it, and define what they have."""

    # what clients may map for it: offset in the file, and length (bytes)
    shown: tuple[int, int] | None = None
    # the kinds of queues in guest memory that its hardware can work on
    hw_queue_types: frozenset[int] = frozenset()

    def nested_domain(self, flags: int, data: UserData) -> NestedDomain:
        """A new page table on top of the vIOMMU's parent. `flags`: domain.PASID. Errors: as
        iommu.Iommu.domain.
        """
        raise IoctlError(EOPNOTSUPP, "the vIOMMU has no nested page tables")

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """Drop what was cached of its devices. As domain.NestedDomain.invalidate."""
        raise IoctlError(EOPNOTSUPP, "the vIOMMU has no cache to invalidate")

    def add_hw_queue(self, queue: GuestQueue) -> None:
        """From now on the hardware works on `queue`, whose pages are held. Only called if there are
        `hw_queue_types`. Errors: those of the driver.
        """
        raise IoctlError(EOPNOTSUPP, "the vIOMMU has no hardware queues")

    def remove_hw_queue(self, queue: GuestQueue) -> None:
        """The hardware works on it no more. Only called after `add_hw_queue`. Must not fail."""

    def destroy(self) -> None:
        """The vIOMMU goes. Must not fail."""


class Viommu(Object):
    """`context`: whose it is; `hwpt`: its parent; `iommu`: the IOMMU of which it is a part. Users:
    the page tables nested in it, its vDEVICEs, event queues and hardware queues.
    """

    kind = "vIOMMU"
    __slots__ = ("context", "driver", "hwpt", "iommu", "vdevices", "veventqs")

    def __init__(self, context: object, hwpt: HwptPaging, iommu: MadeBy) -> None:
        super().__init__()
        self.context = context
        self.hwpt = hwpt
        self.iommu = iommu
        self.driver = ViommuDriver()  # until it is given its own
        self.vdevices: dict[int, GuestNumber] = {}  # by the guest's number
        self.veventqs: dict[int, EventSink] = {}  # by the type of their events
        hwpt.users.append(self)

    @property
    def host(self) -> Host:
        return self.hwpt.ioas.iopt.host

    def check_device(self, device: GuestDevice) -> None:
        """EINVAL: the device is not behind the vIOMMU's own IOMMU."""
        if device.iommu is not self.iommu:
            raise IoctlError(EINVAL, f"{device} is not behind the IOMMU of {self}")

    def device_of(self, virt_id: int) -> GuestDevice | None:
        """The device that the guest knows by this number. Ref: v7.3 driver.c
        iommufd_viommu_find_dev
        """
        found = self.vdevices.get(virt_id)
        return found.device if found is not None else None

    def virt_id_of(self, port: object) -> int | None:
        """The guest's number of the device at this port. None: the guest does not have the device.
        Ref: v7.3 driver.c iommufd_viommu_get_vdev_id
        """
        for virt_id, vdevice in self.vdevices.items():
            if vdevice.device.port is port:
                return virt_id
        return None

    def report_event(self, event_type: int, data: bytes) -> None:
        """Tell whoever reads events of this type. EOPNOTSUPP: nobody does. Ref: v7.3 driver.c
        iommufd_viommu_report_event
        """
        queue = self.veventqs.get(event_type)
        if queue is None:
            raise IoctlError(EOPNOTSUPP, f"{self} has no queue for events of type {event_type:#x}")
        queue.report(data)
        if self.host.observer is not None:
            self.host.observer.queued(queue, data)

    def destroy(self) -> None:
        self.driver.destroy()
        self.hwpt.users.remove(self)
