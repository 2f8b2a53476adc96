"""A device by itself, whatever IOMMU it stands behind. docs/devices.md shows how to write one."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Region:
    """IOVAs that a device cannot use (`last` is inclusive). `sw_msi`: the window in which software
    places interrupt addresses.
    """

    start: int
    last: int
    sw_msi: bool = False


class Model(Protocol):
    """What is asked of a device. One that derives from this need not define what it does not
    have.
    """

    name: str
    group: Hashable  # devices of equal group share a page table; a device that is alone: itself
    # its DMA sees the CPU's caches; one that does not cannot be bound (EINVAL)
    cache_coherent: bool = True
    ats: bool = False  # it may ask for translations ahead of its DMA
    pri: bool = False  # it may ask for pages that are not there
    max_pasids: int = 0  # how many PASIDs it has, counted from 0; 0: none
    pasid_exec: bool = False  # a PCI device whose DMA with a PASID may ask to execute
    pasid_priv: bool = False  # a PCI device whose DMA with a PASID may be privileged

    def reserved_regions(self) -> list[Region]:
        """IOVAs that must never be mapped for it: they are reserved in every IOAS that it is
        attached to.
        """
        return []
