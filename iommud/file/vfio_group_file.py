"""An open file of a VFIO group, and what opens it."""

import errno
from typing import Final

from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile

from ..errors import IoctlError
from ..ops.noiommu import check_may_open
from ..uapi.names import name_of
from ..vfio.device import DeviceFile, VfioDevice
from ..vfio.group import VfioGroup
from ..vfio.group_ioctls import dispatch
from ..vfio.outside import Outside
from .no_data import NoData
from .vfio_devices import Devices
from .vfio_file import Daemon, VfioFile


class GroupOpener:
    """What a session serves as /dev/vfio/7."""

    def __init__(self, daemon: Daemon, devices: Devices, number: int, outside: Outside) -> None:
        self._daemon: Final = daemon
        self._devices: Final = devices
        self._number: Final = number
        self._outside: Final = outside

    def open(self, caller: Caller, flags: int) -> OpenFile:
        """ENODEV: vfio-pci has no device of this group. EPERM: a device without an IOMMU takes
        CAP_SYS_RAWIO. EBUSY: VfioGroup.open. Ref: v7.3 group.c vfio_group_fops_open
        """
        given = self._daemon.given(caller)
        if given is not None:
            return given
        try:
            group = self._devices.groups.find(self._number)
            if group is None:
                raise IoctlError(errno.ENODEV, f"vfio-pci has no device of group {self._number}")
            if not group.isolated:
                check_may_open(caller, f"the device of {group}")
            group.open()
        except IoctlError as refusal:
            raise self._daemon.refused(caller, "open", refusal) from None
        self._daemon.opened()
        return GroupFile(self._daemon, self._devices, group, self._outside)


class GroupFile(NoData):
    """The one open of a group. It is iommud.vfio.group_ioctls.Descriptors."""

    def __init__(self, daemon: Daemon, devices: Devices, group: VfioGroup, outside: Outside) -> None:
        self._daemon: Final = daemon
        self._devices: Final = devices
        self._outside: Final = outside
        self.group: Final = group

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        work = dispatch(self.group, caller, self._outside, self, cmd, arg)
        return await self._daemon.conclude(caller, cmd, name_of, work)

    def release(self) -> None:
        self.group.close()
        self._daemon.closed()

    # --- descriptors of its devices ---

    def opening(self, device: VfioDevice) -> None:
        device.files += 1
        self._daemon.opened()

    def closed(self, device: VfioDevice) -> None:
        self._devices.close(device)
        self._daemon.closed()

    async def give(self, caller: Caller, file: DeviceFile) -> int:
        return await self._daemon.give(caller, VfioFile(self._daemon, self._devices, file, self._outside))
