"""A function that is bound to vfio-pci: opened, driven and closed by one client at a time.

What a device file does with the function is here and in what is made at each open: `config`,
`irqs`, `regions`, `ioeventfds`. Clients' requests and descriptors are the device file's.

Ref: v7.3 drivers/vfio/pci/vfio_pci_core.c
"""

from collections.abc import Callable
from errno import EINVAL
from typing import Final

from ..errors import IoctlError
from . import registers as r
from .config import VirtualConfig
from .host import Host
from .interrupts import Interrupts
from .ioeventfds import IoEventFds
from .regions import Regions
from .vfio_names import VFIO_PCI_MSI_IRQ_INDEX


class Opened:
    """From open to close: the device as the client sees it."""

    def __init__(self, host: Host, *, mappable: bool, msi_limit: int) -> None:
        self.memory_changed: Callable[[bool], None] | None = (
            None  # told whether BARs of memory answer now: mappings go when not
        )
        self._host: Final = host
        self.irqs: Final = Interrupts(host, lambda: self.config.interrupt_pin, msi_limit)
        self.config: Final = VirtualConfig(host, self)
        self.regions: Final = Regions(host.function, self.config, mappable=mappable)
        self.ioeventfds: Final = IoEventFds(host.function, self.config)

    def intx_disable(self, disabled: bool) -> None:
        self.irqs.intx_disable(disabled)

    def memory_may_change(self) -> None:
        if self.memory_changed is not None:
            self.memory_changed(self.config.memory_enabled)

    def msi(self) -> tuple[bool, int]:
        return self.irqs.in_use == VFIO_PCI_MSI_IRQ_INDEX, self.irqs.msi_limit


class VfioPci:
    """From the driver's bind to its unbind. `mappable`: BARs may be mapped."""

    def __init__(self, host: Host, *, mappable: bool = True) -> None:
        self.host: Final = host
        self.function: Final = host.function
        self.opened: Opened | None = None
        self.reset_works = False  # found out at open
        self._mappable: Final = mappable
        self._msi_limit = 0
        self._saved: dict[tuple[int, int], int] = {}

    def open(self, *, mappable: bool = True) -> Opened:
        """Enable the function, reset it if it can be, and show it as it is then. Ref: v7.3
        vfio_pci_core.c vfio_pci_core_enable
        """
        assert self.opened is None
        host = self.host
        host.clear_master()
        host.enable()
        try:
            host.try_reset()
            self.reset_works = True
        except IoctlError:
            self.reset_works = False
        self._saved = host.config_saved()
        host.intx(True)
        self.opened = Opened(host, mappable=self._mappable and mappable, msi_limit=self._msi_limit)
        return self.opened

    def close(self) -> None:
        """Turn interrupts and DMA off, reset the function if it can be, and restore its registers.
        Ref: v7.3 vfio_pci_core.c vfio_pci_core_disable
        """
        assert self.opened is not None
        host, opened, self.opened = self.host, self.opened, None
        host.set_power_state(r.PCI_D0)
        host.clear_master()
        opened.irqs.disable()
        opened.ioeventfds.close()
        self._msi_limit = opened.irqs.msi_limit
        if self.reset_works:
            self.function.power_on()
        host.restore(self._saved)
        host.clear_master()

    def reset(self) -> None:
        """VFIO_DEVICE_RESET. EINVAL: it cannot be reset. Ref: v7.3 vfio_pci_core.c
        vfio_pci_ioctl_reset
        """
        assert self.opened is not None
        if not self.reset_works:
            raise IoctlError(EINVAL, f"{self.function.name} has no reset: neither FLR, nor AF, nor by its power state")
        self.host.set_power_state(r.PCI_D0)
        self.host.try_reset()
        self.opened.memory_may_change()
