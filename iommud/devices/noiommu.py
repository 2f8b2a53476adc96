"""A device without an IOMMU, as VFIO gives one in its unsafe mode (noiommu): clients ask for physical addresses, and it works on those.

`NoIommuDriver` is what the driver of such a device derives from (docs/devices.md); `NoIommuDevice` is the one that the test ioctl makes.
engine/noiommu.py tells what clients can do with it, and what its DMA reaches.
"""

import itertools
from collections.abc import Iterator
from errno import EINVAL, EOPNOTSUPP
from typing import ClassVar

from ..engine.device import Driver
from ..engine.domain import AnyDomain, Domain
from ..engine.noiommu import noiommu_domain
from ..engine.user_data import UserData
from ..errors import IoctlError
from .kinds import NO_DIRTY, PASIDS


class NoIommuDriver(Driver):
    """It needs a `name`. It is neither asked nor told to what the device is attached, as that changes nothing for its DMA."""

    iommu = None
    group = None

    def domain(self, flags: int, data: UserData | None) -> Domain:
        return noiommu_domain(self, flags, data)

    def attach(self, domain: AnyDomain) -> None:
        raise AssertionError(f"{self.name} is not told")

    def detach(self) -> None:
        raise AssertionError(f"{self.name} is not told")

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        raise IoctlError(EOPNOTSUPP, f"{self.name} has no IOMMU that could be told of")


class NoIommuDevice(NoIommuDriver):
    """`flags`: MOCK_FLAGS_DEVICE_*; EINVAL: an unknown one. The known ones change nothing: what they are about takes an IOMMU."""

    _numbers: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self, flags: int) -> None:
        if flags & ~(NO_DIRTY | PASIDS):
            raise IoctlError(EINVAL, f"the test ioctl knows no device flags {flags & ~(NO_DIRTY | PASIDS):#x}")
        self.name = f"noiommu{next(self._numbers)}"
