"""A driver of the bus, as far as the driver core sees it: its name, and which devices it takes.

A driver takes devices that its table names, and devices whose ID it was told by new_id. But if a
device is to have one driver only (driver_override), that one takes it, whatever the IDs are, and no
other does. vfio-pci's table names nothing.

Ref: v7.3 drivers/pci/pci-driver.c pci_match_device, new_id_store, remove_id_store
"""

from errno import EEXIST, EINVAL, ENODEV
from typing import Final

from ..errors import IoctlError
from .function import Identity
from .ids import DynamicId

VFIO_PCI: Final = "vfio-pci"
NO_DRIVER: Final = "none"  # what a device is given to when it is to have none


class Driver:
    """vfio-pci, or a stand-in for a driver of the kernel's own: that one enables a device and then
    leaves it alone.
    """

    def __init__(self, name: str) -> None:
        self.name: Final = name
        self._table: Final[list[DynamicId]] = []
        self._told: Final[list[DynamicId]] = []

    @property
    def module(self) -> str:
        """What the kernel calls the module that it comes in."""
        return self.name.replace("-", "_")

    def matches(self, identity: Identity, override: str | None) -> bool:
        """Whether it would take such a device."""
        if override is not None:
            return override == self.name
        return any(known.matches(identity) for known in (*self._told, *self._table))

    def made_for(self, identity: Identity) -> None:
        """Its table names such devices from now on."""
        self._table.append(DynamicId(identity.vendor, identity.device))

    def know(self, identity: Identity) -> None:
        """It was told of such devices before anybody could ask."""
        wanted = DynamicId(identity.vendor, identity.device)
        if wanted not in self._told:
            self._told.append(wanted)

    def new_id(self, text: str) -> None:
        """EINVAL: DynamicId.parse, or a number for the driver itself other than 0, which is all
        that its table has. EEXIST: it takes such devices already, and `text` has no such number.
        """
        wanted = DynamicId.parse(text)
        told = wanted.driver_data is None
        if told and any(known.covers(wanted) for known in self._table):
            raise IoctlError(EEXIST, f"{self.name} takes {text.strip()!r} by its own table")
        if wanted.driver_data:
            raise IoctlError(EINVAL, f"{self.name} knows no number {wanted.driver_data:#x}")
        if told and any(known.covers(wanted) for known in self._told):
            raise IoctlError(EEXIST, f"{self.name} was told {text.strip()!r} already")
        self._told.append(wanted)

    def remove_id(self, text: str) -> None:
        """Forget an ID. EINVAL: DynamicId.parse. ENODEV: the driver was not told this ID."""
        unwanted = DynamicId.parse(text)
        for known in self._told:
            if unwanted.names(known):
                self._told.remove(known)
                return
        raise IoctlError(ENODEV, f"{self.name} was not told {text.strip()!r}")
