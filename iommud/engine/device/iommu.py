"""What a device stands behind: an IOMMU. It makes page tables, and has a port for each of its
devices.

Any device can stand behind any kind. iommud/iommus has the kinds; docs/devices.md shows how to
write one.

Ref: v7.3 include/linux/iommu.h struct iommu_ops, struct iommu_domain_ops
"""

from collections.abc import Container, Hashable
from errno import EOPNOTSUPP
from typing import Protocol

from ...errors import IoctlError
from ..mapping.domain import AnyDomain, Domain, NestedDomain
from ..mapping.user_data import UserData
from .model import Model, Region
from .viommu import Viommu, ViommuDriver


class Port:
    """One device's place behind an IOMMU, for as long as the device is bound. A kind with rules of
    its own derives from this.

    It shows what the device has and the IOMMU can do. `max_pasids`: how many PASIDs, counted from
    0; `pasid_exec`, `pasid_priv`: as in Model; `dirty_tracking`: page tables can record what its
    DMA wrote.
    """

    def __init__(self, model: Model, *, dirty_tracking: bool = False, max_pasids: int | None = None) -> None:
        """`max_pasids`: how many the IOMMU can tell apart. None: any number."""
        self.model = model
        self.dirty_tracking = dirty_tracking
        self.max_pasids = model.max_pasids if max_pasids is None else min(model.max_pasids, max_pasids)
        self.pasid_exec = self.pasid_priv = False

    def attach(self, domain: AnyDomain) -> None:
        """From now on the device's DMA goes through `domain`, which is of this kind of IOMMU.
        EINVAL: incompatible, another one will be tried.

        It must accept its old page table again: if another device of its group refuses a
        replacement, all go back to the old one.
        """

    def detach(self) -> None:
        """From now on the device's DMA is blocked. Must not fail."""

    def attach_pasid(self, pasid: int, domain: AnyDomain, old: AnyDomain | None) -> None:
        """As `attach`, for DMA with this PASID (1 to max_pasids - 1). `old`: what was attached
        there. Only called if there is a `max_pasids`.
        """
        raise IoctlError(EOPNOTSUPP, f"{self.model.name} stands behind an IOMMU without PASIDs")

    def detach_pasid(self, pasid: int) -> None:
        """As `detach`, for DMA with this PASID."""

    def reserved_regions(self) -> list[Region]:
        """Those of the device, and those that the IOMMU keeps from it."""
        return self.model.reserved_regions()


class Iommu(Protocol):
    """One IOMMU. A kind that derives from this need not define what it does not have."""

    kind: Hashable  # page tables of another kind do not suit its devices
    # DMA goes through its page tables; False: there is no IOMMU at all (noiommu.py)
    walks: bool = True
    nesting: bool = False  # it has nested page tables
    viommu_types: Container[int] = frozenset()  # the kinds of vIOMMU that can be a part of it
    # its page tables make all DMA see the CPU's caches, whatever the device asks for
    enforces_coherency: bool = False

    def port(self, model: Model) -> Port:
        """The place of a device that is being bound."""
        return Port(model)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        """A new page table. `flags`: domain.NEST_PARENT, DIRTY_TRACKING, PASID. `data`: what a
        client said about it.

        EOPNOTSUPP: it cannot do that, or does not know that type of data. Others: UserData.struct.
        """

    def nested_domain(self, parent: Domain, flags: int, data: UserData) -> NestedDomain:
        """A new page table on top of `parent`. `flags`: domain.PASID. Errors: as `domain`. Only
        called if the kind has `nesting`.
        """
        raise IoctlError(EOPNOTSUPP, f"an IOMMU of the kind {self.kind} has no nested page tables")

    def new_viommu(self, viommu: Viommu, viommu_type: int, data: UserData | None) -> ViommuDriver:
        """The driver of `viommu`, which is a new one, of one of `viommu_types`. Errors: as
        `domain`.
        """
        raise IoctlError(EOPNOTSUPP, f"an IOMMU of the kind {self.kind} has no vIOMMU")

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        """What guests need to know about it: the type of the data, and the data. `data_type`: what
        a client asked for; 0: anything.

        Type 0: there is nothing to tell. EOPNOTSUPP: it does not have that type.
        """
        return 0, b""
