"""The kinds of IOMMU that the devices of `--mock` can stand behind: `--iommu NAME`.

One line each: a name, and what makes a device of the kind from the flags that the test ioctl gives (MOCK_FLAGS_DEVICE_*; EINVAL: one that
is unknown). Modules are loaded when the first device of their kind is made, so the command line can ask for the names.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from ..engine.device import Driver

NO_DIRTY: Final = 1 << 0  # MOCK_FLAGS_DEVICE_NO_DIRTY: its IOMMU cannot track what DMA writes
PASIDS: Final = 1 << 2  # MOCK_FLAGS_DEVICE_PASID: it has PASIDs


def _mock(flags: int) -> "Driver":
    from .mock import MockDriver

    return MockDriver(flags)


def _vtd(flags: int) -> "Driver":
    from .vtd import VtdDriver

    return VtdDriver(flags)


def _smmuv3(flags: int) -> "Driver":
    from .smmuv3 import Smmuv3Driver

    return Smmuv3Driver(flags)


def _amd(flags: int) -> "Driver":
    from .amd import AmdDriver

    return AmdDriver(flags)


def _none(flags: int) -> "Driver":
    from .noiommu import NoIommuDevice

    return NoIommuDevice(flags)


DEFAULT: Final = "mock"
KINDS: Final[Mapping[str, Callable[[int], "Driver"]]] = {
    "mock": _mock,
    "vtd": _vtd,
    "smmuv3": _smmuv3,
    "amd": _amd,
    "none": _none,
}
