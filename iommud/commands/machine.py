"""What the machine has itself, beside which our devices are. This is light."""

import os
from typing import Final

from ..pci.address import Address

SYS: Final = "/sys"


def taken() -> list[Address]:
    """Where it has PCI devices."""
    return [Address.parse(name) for name in _names(f"{SYS}/bus/pci/devices")]


def first_group() -> int:
    """A number from which on no IOMMU group of it has one."""
    return max((int(name) for name in _names(f"{SYS}/kernel/iommu_groups")), default=-1) + 1


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []
