"""The IOMMU to read first: page tables that any of its devices can use, and nothing more.

Its addresses have 39 bits. Nothing can be mapped where a PC's interrupts are written to.
"""

from typing import Final

from ..engine.device.iommu import Iommu, Port
from ..engine.device.model import Model, Region
from ..engine.mapping.domain import Domain
from ..engine.mapping.user_data import UserData

INTERRUPTS: Final = Region(0xFEE0_0000, 0xFEEF_FFFF)


class PlainPort(Port):
    def reserved_regions(self) -> list[Region]:
        return [INTERRUPTS, *super().reserved_regions()]


class PlainIommu(Iommu):
    kind = "plain"

    def port(self, model: Model) -> Port:
        return PlainPort(model)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        return Domain(page_sizes=4096 | 2 << 20, aperture_last=(1 << 39) - 1)
