"""Ioctls by their names, for people."""

from typing import Final

from .header import ioctls

_OF_DEVICES: Final = "VFIO_DEVICE_"  # whose numbers mean other things on a container
_NAMES: Final = {number: name for name, number in ioctls().items() if not name.startswith(_OF_DEVICES)}
_DEVICE_NAMES: Final = {number: name for name, number in ioctls().items() if name.startswith(_OF_DEVICES)}


def name_of(cmd: int) -> str:
    """`IOMMU_IOAS_MAP` for 0x3b85. For a number that no header has: the number."""
    return _NAMES.get(cmd, f"ioctl {cmd:#x}")


def device_name_of(cmd: int) -> str:
    """As `name_of`, on a VFIO device's file: `VFIO_DEVICE_GET_INFO` for 0x3b6b."""
    return _DEVICE_NAMES.get(cmd, f"ioctl {cmd:#x}")
