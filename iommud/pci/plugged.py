"""A function in its place on the bus, and who has it."""

from typing import Final

from .driver import VFIO_PCI
from .function import PciFunction
from .host import Host
from .vfio_pci import VfioPci


class Plugged:
    """A function in its place. `iommu`: the kind that it stands behind; `group`: its IOMMU group's
    number, None: it has none.
    """

    def __init__(self, function: PciFunction, iommu: str, *, mappable: bool) -> None:
        self.function: Final = function
        self.host: Final = Host(function)
        self.iommu: Final = iommu
        self.mappable: Final = mappable
        self.present = False
        self.group: int | None = None
        self.vfio: VfioPci | None = None  # while vfio-pci has it
        self.native: str | None = None  # the driver that has it, if that is another
        self.number: int | None = None  # the VFIO device's
        self.override: str | None = None
        self.enabled = 0  # how often, by `enable` and by a native driver

    @property
    def name(self) -> str:
        return str(self.function.address)

    @property
    def driver(self) -> str | None:
        """The name of the driver that has it."""
        return VFIO_PCI if self.vfio is not None else self.native

    @property
    def isolated(self) -> bool:
        """It stands behind an IOMMU."""
        return self.iommu != "none"

    @property
    def group_key(self) -> object:
        """What all devices of its group have in common. Without an IOMMU each is alone."""
        return self.function.group if self.isolated else self

    @property
    def vfio_name(self) -> str:
        """Its device file's name: vfio0."""
        return f"{'' if self.isolated else 'noiommu-'}vfio{self.number}"

    @property
    def group_name(self) -> str:
        """Its group's file's name: 7, or noiommu-7."""
        return f"{'' if self.isolated else 'noiommu-'}{self.group}"
