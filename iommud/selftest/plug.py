"""What MOCK_DOMAIN makes: a device, and the IOMMU that it stands behind, by the flags of the test
ioctl (MOCK_FLAGS_DEVICE_*).

The kernel's mock devices stand behind one IOMMU, the mock's. Each device says itself whether its
DMA can be tracked. Behind any other kind of IOMMU stands a PCI device. With MOCK_FLAGS_DEVICE_PASID
the PCI device has PASIDs of 20 bits, and may ask for translations (ATS) and for pages (PRI);
without the flag it has none of these. With MOCK_FLAGS_DEVICE_NO_DIRTY the PCI device stands behind
another IOMMU of the same kind, which does not track what DMA writes.
"""

import itertools
from collections.abc import Iterator
from errno import EINVAL
from typing import ClassVar, Final, NamedTuple

from ..engine.device.iommu import Iommu
from ..engine.device.model import Model
from ..errors import IoctlError
from ..iommus.kinds import new_iommu
from . import kinds
from .mock import MockDevice, MockIommu

NO_DIRTY: Final = 1 << 0  # MOCK_FLAGS_DEVICE_NO_DIRTY
PASIDS: Final = 1 << 2  # MOCK_FLAGS_DEVICE_PASID
PCI_PASIDS: Final = 1 << 20  # PCI has no wider ones


class PciDevice(Model):
    """Alone in its group."""

    _numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, kind: str, *, pasids: bool) -> None:
        self.name = self.group = f"{kind}{next(self._numbers)}"
        self.ats = self.pri = self.pasid_exec = self.pasid_priv = pasids
        self.max_pasids = PCI_PASIDS if pasids else 0


class Plugged(NamedTuple):
    """A device that exists, bound or not."""

    model: Model
    iommu: Iommu

    def unplug(self) -> None:
        """The device goes. It was unbound, and will not be bound again."""
        if isinstance(self.model, MockDevice):
            self.model.free()


class Socket:
    """Where devices are plugged in. All stand behind IOMMUs of one kind (kinds.NAMES)."""

    def __init__(self, kind: str = kinds.DEFAULT) -> None:
        self._kind: Final = kind
        self._iommus: dict[bool, Iommu] = {}  # by whether it tracks what DMA writes

    def plug(self, flags: int) -> Plugged:
        """A new device. EINVAL: an unknown flag."""
        if flags & ~(NO_DIRTY | PASIDS):
            raise IoctlError(EINVAL, f"the test ioctl knows no device flags {flags & ~(NO_DIRTY | PASIDS):#x}")
        tracked, pasids = not flags & NO_DIRTY, bool(flags & PASIDS)
        if self._kind == kinds.DEFAULT:
            return Plugged(MockDevice(tracked=tracked, pasids=pasids), self._iommus.setdefault(True, MockIommu()))
        if tracked not in self._iommus:
            self._iommus[tracked] = new_iommu(self._kind, dirty_tracking=tracked)
        return Plugged(PciDevice(self._kind, pasids=pasids), self._iommus[tracked])
