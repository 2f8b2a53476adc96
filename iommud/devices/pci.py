"""A PCI device of `--mock` that stands behind an emulated hardware IOMMU: what such devices have in common, whoever made the IOMMU.

With MOCK_FLAGS_DEVICE_PASID it has PASIDs of 20 bits, and may ask for translations (ATS) and for pages (PRI). Without, it has none of it.
With MOCK_FLAGS_DEVICE_NO_DIRTY its IOMMU does not track what DMA writes.
"""

import itertools
from collections.abc import Iterator
from errno import EINVAL
from typing import ClassVar, Final

from ..engine.device import Driver, Region
from ..errors import IoctlError
from .kinds import NO_DIRTY, PASIDS

MAX_PASIDS: Final = 1 << 20  # PCI has no wider ones
INTERRUPTS: Final = Region(0xFEE0_0000, 0xFEEF_FFFF)  # where a PC's interrupts are written to


class PciDriver(Driver):
    """One device, alone in its group. `flags`: MOCK_FLAGS_DEVICE_*; EINVAL: an unknown one."""

    _numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, flags: int) -> None:
        if flags & ~(NO_DIRTY | PASIDS):
            raise IoctlError(EINVAL, f"the test ioctl knows no device flags {flags & ~(NO_DIRTY | PASIDS):#x}")
        self.name = self.group = f"{self.iommu}{next(self._numbers)}"
        self.ats = self.pri = bool(flags & PASIDS)
        self.max_pasids = MAX_PASIDS if flags & PASIDS else 0
        self.dirty_tracking = not flags & NO_DIRTY

    def detach(self) -> None:
        """Nothing is under way: its DMA is done when it is asked for."""

    def detach_pasid(self, pasid: int) -> None:
        """As `detach`."""
