"""An open file of a VFIO device, and what opens it.

Under `iommud serve` three processes deal with a device: the worker that has its file, the worker
that has /dev/iommu, and the broker. Nothing of a device has to survive from one client to the next,
because vfio-pci resets the device at its bind and at its close. So each worker has all functions,
as they are after a reset. The worker with the context that a device is bound to has the device: its
registers, its DMA and its interrupts.

    open      a worker of the client's own has the file, which can do nothing yet
    bind      that worker fetches the descriptor of /dev/iommu from the client, finds that it is
              another worker's, and has the file moved there, with the request (cuse_glue/broker);
              the other worker begins the bind from the start, as if it had always had the file
    close     the other worker gives the device back

The table that all workers share (commands/shares.py) sees to it that a device has one client, and a
group one context. It forgets a worker that has died.
"""

import errno
from collections.abc import Callable
from typing import Final

from cuse_glue.request.caller import Caller
from cuse_glue.request.open_file import OpenFile

from ..errors import IoctlError
from ..ops.noiommu import check_may_open
from ..uapi.names import device_name_of
from ..vfio.device import DeviceFile, VfioDevice
from ..vfio.dispatch import dispatch
from ..vfio.outside import Outside
from .moving import Moving
from .no_data import ALWAYS_READY, NoData
from .opening import Daemon, FileOpener
from .vfio_devices import Devices


class VfioOpener(FileOpener):
    """What a session serves as /dev/vfio/devices/vfio0."""

    def __init__(self, daemon: Daemon, devices: Devices, number: int, outside: Outside) -> None:
        super().__init__(daemon)
        self._devices: Final = devices
        self._number: Final = number
        self._outside: Final = outside

    def make(self, caller: Caller) -> OpenFile:
        """ENODEV: vfio-pci has no device of this number. EPERM: a device without an IOMMU takes
        CAP_SYS_RAWIO. Ref: v7.3 device_cdev.c vfio_device_fops_cdev_open
        """
        device = self._devices.open(self._number)
        if device is None:
            raise IoctlError(errno.ENODEV, f"vfio-pci has no device that is number {self._number}")
        try:
            if not device.iommu.walks:
                check_may_open(caller, device)
        except IoctlError:
            self._devices.close(device)
            raise
        return self._file(device)

    def take(self, closed: Callable[[], None]) -> OpenFile:
        """An open file that another worker had so far. `closed`: called when it has been
        released.
        """
        device = self._devices.open(self._number)
        return Gone(closed) if device is None else self._opened(self._file(device, closed))

    def _file(self, device: VfioDevice, closed: Callable[[], None] = lambda: None) -> "VfioFile":
        return VfioFile(self._daemon, self._devices, DeviceFile(device), self._outside, closed)


class VfioFile:
    """One open of a device. `closed`: called at the end of its release."""

    def __init__(
        self,
        daemon: Daemon,
        devices: Devices,
        file: DeviceFile,
        outside: Outside,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        self._daemon: Final = daemon
        self._devices: Final = devices
        self._outside: Final = outside
        self._closed: Final = closed
        self.file: Final = file
        self.moving: Final = Moving(daemon, self, lambda: self.file.bound is None)

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return await self.moving.ioctl(
            caller, cmd, arg, device_name_of, lambda: dispatch(self.file, caller, self._outside, cmd, arg)
        )

    async def read(self, caller: Caller, offset: int, size: int, nonblocking: bool) -> bytes:
        try:
            return self.file.read(offset, size)
        except IoctlError as refusal:
            raise self._daemon.refused(caller, "read", refusal) from None

    async def write(self, caller: Caller, offset: int, data: bytes, nonblocking: bool) -> int:
        try:
            return self.file.write(offset, data)
        except IoctlError as refusal:
            raise self._daemon.refused(caller, "write", refusal) from None

    def poll(self, wake: Callable[[], None] | None) -> int:
        return ALWAYS_READY

    def release(self) -> None:
        self.file.release()
        self.leave()
        self._closed()

    def leave(self) -> None:
        """The file is here no longer: another worker has it, or nobody."""
        self._devices.close(self.file.device)
        self._daemon.closed()


class Gone(NoData):
    """An open file whose device was taken from vfio-pci while the file moved. `closed`: as for
    VfioFile.
    """

    no_data = errno.ENODEV

    def __init__(self, closed: Callable[[], None]) -> None:
        self._closed: Final = closed

    async def ioctl(self, caller: Caller, cmd: int, arg: int) -> int:
        return -errno.ENODEV

    def release(self) -> None:
        self._closed()
