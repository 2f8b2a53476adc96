"""An open file of a VFIO group, and what opens it.

Under `iommud serve` it moves as a device's own file does (vfio_file.py), when its client gives it a
container. That a group is open, and that a device of it is bound by its own file, is counted in the
table that all workers share.
"""

import errno
from collections.abc import Callable
from typing import Final

from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile

from ..errors import IoctlError
from ..ops.noiommu import check_may_open
from ..uapi.names import name_of
from ..vfio.device import DeviceFile, VfioDevice
from ..vfio.group import VfioGroup
from ..vfio.group_ioctls import dispatch
from .moving import Moving
from .no_data import NoData
from .opening import Daemon, FileOpener
from .vfio_clients import Clients
from .vfio_devices import Devices
from .vfio_file import Gone, VfioFile


class GroupOpener(FileOpener):
    """What a session serves as /dev/vfio/7."""

    def __init__(self, daemon: Daemon, devices: Devices, number: int, clients: Clients) -> None:
        super().__init__(daemon)
        self._devices: Final = devices
        self._number: Final = number
        self._clients: Final = clients

    def make(self, caller: Caller) -> OpenFile:
        """ENODEV: vfio-pci has no device of this group. EPERM: a device without an IOMMU takes
        CAP_SYS_RAWIO. EBUSY: VfioGroup.open. Ref: v7.3 group.c vfio_group_fops_open
        """
        group = self._devices.group(self._number)
        if group is None:
            raise IoctlError(errno.ENODEV, f"vfio-pci has no device of group {self._number}")
        if not group.isolated:
            check_may_open(caller, f"the device of {group}")
        self._clients.quiet_group(self._number)
        group.open()
        return self._file(group)

    def take(self, closed: Callable[[], None]) -> OpenFile:
        """An open file that another worker had so far. `closed`: as of VfioOpener.take."""
        group = self._devices.group(self._number)
        if group is None:
            return Gone(closed)
        group.take()
        return self._opened(self._file(group))

    def _file(self, group: VfioGroup) -> "GroupFile":
        return GroupFile(self._daemon, self._devices, group, self._clients)


class GroupFile(NoData):
    """The one open of a group. It is iommud.vfio.group_ioctls.Descriptors."""

    def __init__(self, daemon: Daemon, devices: Devices, group: VfioGroup, clients: Clients) -> None:
        self._daemon: Final = daemon
        self._devices: Final = devices
        self._clients: Final = clients
        self.group: Final = group
        self.moving: Final = Moving(daemon, self, lambda: not group.has_container)

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return await self.moving.ioctl(
            caller, cmd, arg, name_of, lambda: dispatch(self.group, caller, self._clients, self, cmd, arg)
        )

    def release(self) -> None:
        self.group.close()
        self._daemon.closed()
        self._clients.group_closed(self.group.number)

    def leave(self) -> None:
        """The file is here no longer: another worker has it."""
        self.group.leave()
        self._daemon.closed()

    # --- descriptors of its devices ---

    def opening(self, device: VfioDevice) -> None:
        self._devices.opening(device)
        self._daemon.opened()

    def closed(self, device: VfioDevice) -> None:
        self._devices.close(device)
        self._daemon.closed()

    async def give(self, caller: Caller, file: DeviceFile) -> int:
        number = self.group.number
        given = VfioFile(self._daemon, self._devices, file, self._clients, lambda: self._clients.group_closed(number))
        return await self._daemon.give(caller, given)
