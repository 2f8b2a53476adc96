"""Whose the DMA of a group is, as far as it is the kernel's.

A group's DMA has one owner at most: a client's context, or the kernel. It is the kernel's while a
native driver has any device of the group, because that driver's DMA goes where the kernel says. So
no context can have a device of such a group: the group is not *viable*. The other way round, no
native driver gets a device of a group whose DMA is a context's. vfio-pci itself does no DMA: to
have its devices changes nothing. A device without an IOMMU has no group, and its DMA no owner.

Ref: v7.3 drivers/iommu/iommu.c iommu_device_use_default_domain, drivers/pci/pci-driver.c
pci_dma_configure
"""

from collections import Counter
from collections.abc import Callable, Hashable
from errno import EBUSY
from typing import Final

from ..errors import IoctlError
from .plugged import Plugged


class KernelDma:
    """Counts how many devices of each group native drivers have."""

    def __init__(
        self,
        claim: Callable[[Hashable], bool] = lambda group: True,
        release: Callable[[Hashable], None] = lambda group: None,
    ) -> None:
        """`claim`: have the DMA of a group from now on, until `release`. False: a context has
        it.
        """
        self._claim: Final = claim
        self._release: Final = release
        self._devices: Final[Counter[Hashable]] = Counter()

    def use(self, plugged: Plugged) -> None:
        """A native driver is to have the device. EBUSY: a context has the DMA of its group."""
        if not plugged.isolated:
            return
        group = plugged.function.group
        if not self._devices[group] and not self._claim(group):
            raise IoctlError(EBUSY, f"the DMA of {group} belongs to a context, so no other driver gets {plugged.name}")
        self._devices[group] += 1

    def leave(self, plugged: Plugged) -> None:
        """The driver has it no longer."""
        if not plugged.isolated:
            return
        group = plugged.function.group
        self._devices[group] -= 1
        if not self._devices[group]:
            del self._devices[group]
            self._release(group)
