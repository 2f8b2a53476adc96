"""What a device's file needs of whoever serves it."""

from typing import Any, Protocol

from ..engine.device.context import Context
from ..ops.request import Descriptors, Origins
from ..pci.triggers import Descriptors as EventFds
from .device import VfioDevice


class Outside(Protocol):
    """`origins`, `descriptors`: as for every ioctl."""

    origins: Origins
    descriptors: Descriptors

    def eventfds(self, caller: Any) -> EventFds:
        """The caller's descriptors, as eventfds."""

    def maps(self, device: VfioDevice, caller: Any) -> bool:
        """Whether the caller can map BARs of the device. If it cannot, a person is told why."""

    async def context(self, caller: Any, number: int) -> Context:
        """What the caller's descriptor of /dev/iommu stands for.

        IoctlError: EBADF: it has none of that number; EBADFD: it is another file.
        """

    async def quiet(self, device: VfioDevice) -> None:
        """Wait until every close of a device of the group has been carried out."""
