"""The device to read first: it copies memory by DMA, through the page table that its client gave
it. docs/devices.md explains it.

`Null` is a PCI function, with one BAR in which there is nothing. `NullDevice` is no PCI function:
it stands on the engine alone, and its client sees nothing of it but its ID.
"""

from ..engine.device.context import Context
from ..engine.device.device import bind
from ..engine.device.iommu import Iommu
from ..engine.device.model import Model
from ..pci.bars import Bar
from ..pci.function import Identity, PciFunction


class Null(PciFunction):
    """Loads read as zero, stores are dropped; it has nothing else that a function can have."""

    name = "null"
    identity = Identity(vendor=0x1234, device=0x0000, class_code=0xFF0000)
    bars = (Bar(0, 4096),)

    def copy(self, source: int, destination: int, length: int) -> None:
        """Copy `length` bytes from one IOVA to another. DmaFault: a DMA was refused."""
        self.dma_write(destination, self.dma_read(source, length))


class NullDevice(Model):
    """Bound until `remove`. It has nothing else that a Model can have."""

    name = "null"

    def __init__(self, context: Context, iommu: Iommu) -> None:
        self.group = self  # alone: no other device must share its page table
        self.device = bind(context, self, iommu)
        context.get()  # until we are done with it, even if the client has closed its file

    def copy(self, source: int, destination: int, length: int) -> None:
        """Copy `length` bytes from one IOVA to another. Errors, which are DMA faults:
        Device.dma_read.
        """
        self.device.dma_read(source, buffer := memoryview(bytearray(length)))
        self.device.dma_write(destination, buffer)

    def remove(self) -> None:
        self.device.detach()
        self.device.unbind()
        self.device.context.put()
