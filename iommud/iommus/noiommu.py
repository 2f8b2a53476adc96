"""No IOMMU at all, as VFIO has it in its unsafe mode (noiommu): clients ask for physical addresses,
and the device works on those.

engine/device/noiommu.py tells what clients can do with such a device, and what its DMA reaches. The
port is neither asked nor told what the device is attached to, because that changes nothing for the
device's DMA.
"""

from errno import EOPNOTSUPP

from ..engine.device.iommu import Iommu, Port
from ..engine.device.model import Model, Region
from ..engine.device.noiommu import noiommu_domain
from ..engine.mapping.domain import AnyDomain, Domain
from ..engine.mapping.user_data import UserData
from ..errors import IoctlError


class NoPort(Port):
    """It has no PASIDs and reserves nothing, whatever the device says: that takes an IOMMU."""

    def __init__(self, model: Model) -> None:
        super().__init__(model, max_pasids=0)

    def attach(self, domain: AnyDomain) -> None:
        raise AssertionError(f"{self.model.name} is not told")

    def detach(self) -> None:
        raise AssertionError(f"{self.model.name} is not told")

    def reserved_regions(self) -> list[Region]:
        return []


class NoIommu(Iommu):
    kind = "none"
    walks = False

    def __init__(self, *, dirty_tracking: bool = False) -> None:
        """It cannot track writes, whatever is asked for."""

    def port(self, model: Model) -> Port:
        return NoPort(model)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        return noiommu_domain(flags, data)

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        raise IoctlError(EOPNOTSUPP, "there is no IOMMU that could be told of")
