"""What each worker of `iommud serve` is: one device, for one open file, within its user's share
(cuse_glue/broker).
"""

import os
import threading
from collections.abc import Callable, Collection

from cuse_glue.broker.channel import Assignment
from cuse_glue.broker.counts import Table
from cuse_glue.broker.worker import Broker, Links, work
from cuse_glue.fuse.node import Attributes
from cuse_glue.request import inline
from cuse_glue.request.caller import Caller
from cuse_glue.request.mapped import Mapped
from cuse_glue.request.open_file import Opener, OpenFile

from ..doors import Behind, doors
from ..file.device_file import IommuDevice
from ..file.disk import Disks
from ..file.vfio_devices import groups_of_the_kernel
from ..file.vfio_file import VfioFile, VfioOpener
from ..file.vfio_group_file import GroupFile, GroupOpener
from ..pci.address import Address
from ..settings import Settings
from ..uapi.header import const, ffi
from . import sys_server
from .attributes import attributes
from .daemon import prepare_process
from .machine import taken
from .shares import KERNEL, SharedBus, WorkerShare, limit_process
from .sys_ends import SysfsEnds


class DeviceService:
    """The Service of cuse_glue.broker.worker."""

    def __init__(
        self,
        settings: Settings,
        table: Table,
        broker: Broker,
        others: Collection[Address],
        first_group: int,
        disks: Disks | None,
    ) -> None:
        """`others`, `first_group`, `disks`: as for Devices."""
        limit_process(settings.shares)
        self._doors = doors(settings, first_group)
        self._share = WorkerShare(table, broker.number, settings.shares)
        self._device = IommuDevice(
            settings,
            say=prepare_process(settings),
            share=self._share,
            announce=broker.claim,
            withdraw=broker.unclaim,
            broker=broker,
            closings=self,
            shared=SharedBus(table, broker.number) if settings.sysfs is not None else None,
            others=others,
            first_group=first_group,
            disks=disks,
        )

    def warm_up(self) -> None:
        command = ffi.new("struct iommu_ioas_alloc *", {"size": ffi.sizeof("struct iommu_ioas_alloc")})
        itself = Caller(threading.get_native_id(), os.getuid(), os.getgid(), True)
        file = self._device.open(itself, 0)
        inline.start(file.ioctl(itself, const("IOMMU_IOAS_ALLOC"), int(ffi.cast("uintptr_t", command))))
        file.release()

    def assign(self, what: Assignment) -> None:
        self._share.assign(what.uid)

    def opener(self, door: int) -> Opener:
        return self._device.opener(self._doors[door])

    def attributes(self, door: int) -> Attributes:
        return attributes(self._doors[door], 0, 0)

    def take(self, door: int) -> OpenFile:
        opener = self._device.opener(self._doors[door])
        assert isinstance(opener, VfioOpener | GroupOpener)  # no other file is moved
        return opener.take(lambda: self._share.closed(door))

    def leave(self, file: OpenFile) -> None:
        if isinstance(file, VfioFile | GroupFile):
            file.leave()

    def stay(self, file: OpenFile) -> None:
        if isinstance(file, VfioFile | GroupFile):
            file.moving.is_leaving = False

    def wanted(self, what: int) -> None:
        self._device.devices.wanted(what)

    def mapped(self, door: int) -> Mapped | None:
        return self._device.mapped_by(self._doors[door])

    def pending(self, numbers: Collection[int], group: int | None) -> bool:
        """As vfio_clients.Closings."""
        return any(
            self._share.closing(index)
            for index, door in enumerate(self._doors)
            if (door.behind is Behind.DEVICE and door.index in numbers)
            or (door.behind is Behind.GROUP and door.index == group)
        )

    def carried_out(self, group: int) -> None:
        """As vfio_clients.Closings."""
        for index, door in enumerate(self._doors):
            if door.behind is Behind.GROUP and door.index == group:
                self._share.closed(index)

    def shutdown(self) -> None:
        self._device.shutdown()


def prepare(
    settings: Settings, table: Table, links: Links, sysfs: SysfsEnds | None, first_group: int, disks: Disks | None
) -> Callable[[int, int, Callable[[], None]], None]:
    """Called in the spawner. Returns what a worker runs, given its number, its pipe, and what to
    call when it is ready. `sysfs`: for the process that serves /sys, which is started here; None:
    there is none. `disks`: of the devices.
    """
    others = taken() if settings.devices else []
    kernel = SharedBus(table, KERNEL)
    for group in groups_of_the_kernel(settings, others):
        kernel.claim(group)  # before anybody can ask for a device of it
    if sysfs is not None:
        sys_server.start(settings, table, links.notes, sysfs, others, first_group, disks)

    def make(broker: Broker) -> DeviceService:
        return DeviceService(settings, table, broker, others, first_group, disks)

    return lambda number, pipe, ready: work(number, pipe, ready, links, make)
