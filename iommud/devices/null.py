"""The device to read first: it copies memory by DMA, through the page table that its client gave it. docs/devices.md explains it."""

from ..engine.context import Context
from ..engine.device import Driver, Region, bind
from ..engine.domain import AnyDomain, Domain
from ..engine.user_data import UserData


class NullDevice(Driver):
    """Bound while it lives. The middle four methods are what the engine asks of a driver; what else a Driver has, it goes without."""

    name = "null"

    def __init__(self, context: Context) -> None:
        self.group = self  # alone: no other device must share its page table
        self.device = bind(context, self)
        context.hold()  # until we are done with it, even if the client has closed its file

    def domain(self, flags: int, data: UserData | None) -> Domain:
        return Domain(self, page_sizes=4096 | 2 << 20, aperture_last=(1 << 39) - 1)

    def attach(self, domain: AnyDomain) -> None:
        """Any page table will do."""

    def detach(self) -> None:
        """Nothing is under way when this is called: `copy` does not wait."""

    def reserved_regions(self) -> list[Region]:
        return [Region(0xFEE0_0000, 0xFEEF_FFFF)]  # where a PC's interrupts are written to

    def copy(self, source: int, destination: int, length: int) -> None:
        """Copy `length` bytes from one IOVA to another. Errors, which are DMA faults: Device.dma_read."""
        self.device.dma_read(source, buffer := memoryview(bytearray(length)))
        self.device.dma_write(destination, buffer)

    def remove(self) -> None:
        self.device.detach()
        self.device.unbind()
        self.device.context.release()
