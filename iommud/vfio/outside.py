"""What a device's file needs of whoever serves it."""

from typing import Any, NamedTuple, Protocol

from ..engine.device.context import Context
from ..ops.request import Descriptors, Origins
from ..pci.regions import Regions
from ..pci.triggers import Descriptors as EventFds
from .device import Bound, VfioDevice
from .type1.container import Container


class Registers(NamedTuple):
    """`start`..`end` (addresses of a process; exclusive) is a mapping of a BAR from `offset` on.
    `readable`, `writable`: what the process can do there.
    """

    start: int
    end: int
    bound: Bound
    bar: int
    offset: int
    readable: bool
    writable: bool

    @property
    def regions(self) -> Regions:
        return self.bound.opened.regions

    def answers(self) -> bool:
        """Whether a load there would be carried out. Ref: v7.3 vfio_pci_core.c
        vfio_pci_vmf_insert_pfn
        """
        return not self.bound.low_power and self.bound.opened.config.memory_enabled


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

    async def container(self, caller: Any, number: int) -> Container | Context:
        """As `context`, but type1's container too."""

    async def registers(self, caller: Any, start: int, length: int) -> list[Registers]:
        """The mappings of BARs that the caller has in these bytes of its memory, upwards."""

    async def quiet(self, group: int | None) -> None:
        """Wait until every close of this group's file, and of a device of it, has been carried
        out.
        """
