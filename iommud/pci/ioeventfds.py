"""Eventfds of the client's that store something into a BAR when they are signalled:
VFIO_DEVICE_IOEVENTFD.

Ref: v7.3 drivers/vfio/pci/vfio_pci_rdwr.c vfio_pci_ioeventfd; vfio_pci_core.c
vfio_pci_ioctl_ioeventfd
"""

from errno import EEXIST, EINVAL, ENODEV, ENOSPC
from typing import Final

from ..errors import IoctlError
from .config import VirtualConfig
from .function import PciFunction
from .triggers import Descriptors, Ear
from .vfio_names import VFIO_PCI_BAR5_REGION_INDEX, VFIO_PCI_OFFSET_MASK, VFIO_PCI_OFFSET_SHIFT

MOST: Final = 1000  # Linux's VFIO_PCI_IOEVENTFD_MAX
_SIZES: Final = (1, 2, 4, 8)


class IoEventFds:
    """From open to close."""

    def __init__(self, function: PciFunction, config: VirtualConfig) -> None:
        self._function: Final = function
        self._config: Final = config
        self._ears: dict[tuple[int, int, int, int], Ear] = {}

    def set(self, position: int, data: int, flags: int, fd: int, descriptors: Descriptors) -> None:
        """Store `data` at `position` of the device's file whenever eventfd `fd` is signalled; -1:
        not any more.

        `flags` is the size, 1, 2, 4 or 8. EINVAL: another size, or descriptor; not within a BAR;
        MSI-X's table. EEXIST: that store has an eventfd. ENODEV: `fd` is -1, and that store has
        none. ENOSPC: 1000 are there. EBADF, EINVAL: the descriptor.
        """
        if flags not in _SIZES or fd < -1:
            raise IoctlError(EINVAL, f"flags {flags:#x} must be one size of 1, 2, 4 and 8, and {fd} a descriptor or -1")
        bar, offset = position >> VFIO_PCI_OFFSET_SHIFT, position & VFIO_PCI_OFFSET_MASK
        if bar > VFIO_PCI_BAR5_REGION_INDEX or offset + flags > self._function.layout.size(bar):
            raise IoctlError(EINVAL, f"{offset:#x}+{flags} of region {bar} is not within a BAR")
        table = self._function.messages.table
        if bar == table[0] and offset < table[1].stop and offset + flags > table[1].start:
            raise IoctlError(EINVAL, "MSI-X's table is the host's")
        key = bar, offset, flags, data
        if key in self._ears:
            if fd != -1:
                raise IoctlError(EEXIST, f"that store to {offset:#x} of BAR {bar} has an eventfd")
            self._ears.pop(key).close()
            return
        if fd < 0:
            raise IoctlError(ENODEV, f"that store to {offset:#x} of BAR {bar} has no eventfd")
        if len(self._ears) >= MOST:
            raise IoctlError(ENOSPC, f"{MOST} eventfds store already")
        self._ears[key] = descriptors.listen(fd, lambda: self._store(*key))

    def close(self) -> None:
        """The device is closed."""
        for ear in self._ears.values():
            ear.close()
        self._ears.clear()

    def _store(self, bar: int, offset: int, size: int, value: int) -> None:
        if self._function.layout.resources[bar].bar.io or self._config.memory_enabled:
            self._function.write_bar(bar, offset, size, value)
