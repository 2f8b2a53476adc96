"""Mappings of a VFIO device's BARs: each load and store of a client's is carried out on the device.

No page of a BAR is ever given to the kernel, so each access is a page fault, which the tracer makes
a load or a store of (cuse_glue/mmio/tracer.py). What can be mapped at all is asked before, of
`Regions.map`, where somebody watches mmap(2); where nobody does, the rest is SIGBUS.
"""

from collections.abc import Callable
from errno import EINVAL, EIO
from typing import Final

from cuse_glue.mmio.tracer import Tracer
from cuse_glue.request.caller import Caller
from cuse_glue.request.mapped import Show, Toucher
from cuse_glue.request.open_file import OpenFile

from ..doors import Door
from ..errors import IoctlError
from ..pci.vfio_names import VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_OFFSET_MASK, VFIO_PCI_OFFSET_SHIFT
from ..vfio.device import Bound
from .vfio_file import VfioFile
from .vfio_registers import touched

_WIDEST: Final = 8  # bytes of one access on the bus


class Mappings:
    """Those of all devices' files."""

    def __init__(self, why: Callable[[str], None] | None) -> None:
        """`why` gets a sentence for each access that was not carried out."""
        self._tracer: Final = Tracer(why)
        self._is_possible = False

    def close(self) -> None:
        """Nobody maps anything any more."""
        self._tracer.close()

    def why_not(self, caller: Caller) -> str | None:
        """Why the caller cannot map BARs, for people; None: it can."""
        if not self._is_possible:
            return "this kernel maps no such file (Linux 6.6 does)"
        try:
            return self._tracer.why_not(caller.tid)
        except OSError as error:
            return f"the program cannot be looked at ({error.strerror})"

    def of(self, door: Door) -> "DoorMappings":
        """What can be mapped by the files of one door."""
        return DoorMappings(self, self._tracer, door)

    def begin(self) -> None:
        """The kernel can map the files."""
        self._is_possible = True


class DoorMappings:
    """cuse_glue.request.mapped.Mapped of one door's files. The kernel has a page cache for each
    door.
    """

    def __init__(self, every: Mappings, tracer: Tracer, door: Door) -> None:
        self._every: Final = every
        self._tracer: Final = tracer
        self._door: Final = door

    def begin(self, show: Show) -> None:
        self._every.begin()

    def page_in(self, file: OpenFile, toucher: Toucher, offset: int, size: int) -> bytes:
        """EINVAL: no BAR is there, or we only ask whose the page is."""
        if touched(toucher.tid, file):
            raise OSError(EINVAL, "only a question")
        if not isinstance(file, VfioFile) or file.file.bound is None:
            raise OSError(EINVAL, "no device is bound")
        if offset >> VFIO_PCI_OFFSET_SHIFT > VFIO_PCI_BAR5_REGION_INDEX:
            raise OSError(EINVAL, "no BAR is there")
        return self._tracer.trap(toucher, offset, size, Bus(file.file.bound), self._door)

    def page_out(self, offset: int, data: bytes) -> None:
        self._tracer.page_out(self._door, offset, data)


class Bus:
    """cuse_glue.mmio.device.Device: the BARs of a device, from its bind to its close."""

    def __init__(self, bound: Bound) -> None:
        self._bound: Final = bound

    def load(self, offset: int, size: int) -> int:
        bar, at = offset >> VFIO_PCI_OFFSET_SHIFT, offset & VFIO_PCI_OFFSET_MASK
        value = 0
        try:
            for done in range(0, size, _WIDEST):
                value |= self._bound.load(bar, at + done, min(size, _WIDEST)) << 8 * done
        except IoctlError as refusal:
            raise OSError(EIO, refusal.why) from None
        return value

    def store(self, offset: int, size: int, value: int) -> None:
        bar, at = offset >> VFIO_PCI_OFFSET_SHIFT, offset & VFIO_PCI_OFFSET_MASK
        try:
            for done in range(0, size, _WIDEST):
                part = value >> 8 * done & (1 << 8 * min(size, _WIDEST)) - 1
                self._bound.store(bar, at + done, min(size, _WIDEST), part)
        except IoctlError as refusal:
            raise OSError(EIO, refusal.why) from None

    def peek(self, offset: int, size: int) -> bytes | None:
        return self._bound.peek(offset >> VFIO_PCI_OFFSET_SHIFT, offset & VFIO_PCI_OFFSET_MASK, size)
