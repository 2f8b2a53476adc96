"""AMD-Vi, emulated: as much of it as Linux 7.3 gives to clients.

A page table without flags has AMD's own format (64 bits, every power of two from 4 KiB on as a
page). So has one that tracks writes, and one that others are to nest in. A page table for PASIDs
has the CPU's format (47 bits, so that an address means the same with and without a PASID). The
driver cannot combine PASIDs with the other two, and cannot attach any of its page tables to a
PASID. It knows no nested page tables: not on a parent (it never looks at their data type,
IOMMU_HWPT_DATA_AMD_GUEST), and not on a vIOMMU, of which it makes any type that is asked for.

Ref: v7.3 amd/iommu.c, amd/iommufd.c
"""

import struct
from errno import EINVAL, EOPNOTSUPP
from typing import Final

from ..engine.device.iommu import Iommu, Port
from ..engine.device.model import Model, Region
from ..engine.device.viommu import Viommu, ViommuDriver
from ..engine.mapping.dirty import Dirty
from ..engine.mapping.domain import DIRTY_TRACKING, NEST_PARENT, PASID, AnyDomain, Domain
from ..engine.mapping.user_data import UserData
from ..errors import IoctlError
from .plain import INTERRUPTS

HW_INFO_DEFAULT: Final = 0
HW_INFO_AMD: Final = 4

EFR_HDSUP: Final = 1 << 52
# The extended feature registers: 6 levels, 4 for guests, 16 bits of PASID; the second has what a
# nest parent needs.
EFR: Final = (
    1 << 1  # PPR: page requests
    | 1 << 2  # XT: x2APIC
    | 1 << 3  # NX
    | 1 << 4  # GT: guest translation
    | 1 << 6  # IA: invalidate all
    | 1 << 7  # GA: guest APIC
    | 2 << 10  # HATS: 6 levels
    | 1 << 14  # GLX: 2 levels of the table of PASIDs
    | 15 << 32  # PASMax: bits of a PASID, less 1
    | 1 << 48  # GIOSUP: guest translation without a PASID
    | 1 << 49  # HASUP, HDSUP: accessed and dirty bits in the host's tables
    | EFR_HDSUP
    | 1 << 50  # EPHSUP
)
EFR2: Final = 1 << 3  # GCR3TRPMode
MAX_PASIDS: Final = (1 << 16) - 1

PAGE_SIZES: Final = (1 << 52) - (4 << 10) & ~(512 << 30)  # a 512 GiB page is broken in hardware
CPU_PAGE_SIZES: Final = 4 << 10 | 2 << 20 | 1 << 30
CPU_LAST: Final = (1 << 47) - 1
HYPERTRANSPORT: Final = Region(0xFD_0000_0000, 0xFF_FFFF_FFFF)

_HW_INFO: Final = struct.Struct("<QQ")  # the two registers


class AmdDomain(Domain):
    """No page table of AMD's can be attached to a PASID."""

    __slots__ = ()
    pasids = False


class AmdPort(Port):
    def attach(self, domain: AnyDomain) -> None:
        """EINVAL: the page table tracks writes, and this IOMMU cannot. Ref: v7.3 iommu.c
        amd_iommu_attach_device
        """
        if domain.dirty is not None and not self.dirty_tracking:
            raise IoctlError(
                EINVAL, f"the IOMMU of {self.model.name} does not track what DMA writes, the page table does"
            )

    def reserved_regions(self) -> list[Region]:
        return [INTERRUPTS, HYPERTRANSPORT, *super().reserved_regions()]


class AmdIommu(Iommu):
    """With `dirty_tracking` its hardware has HDSUP."""

    kind = "amd"
    enforces_coherency = True
    viommu_types = range(1, 1 << 32)

    def __init__(self, *, dirty_tracking: bool = True) -> None:
        self.dirty_tracking: Final = dirty_tracking
        self.efr: Final = EFR if dirty_tracking else EFR & ~EFR_HDSUP

    def port(self, model: Model) -> Port:
        return AmdPort(model, dirty_tracking=self.dirty_tracking, max_pasids=MAX_PASIDS)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        # Ref: v7.3 iommu.c amd_iommu_domain_alloc_paging_flags
        if data is not None:
            raise IoctlError(
                EOPNOTSUPP, f"AMD-Vi takes no data for a page table that shows an IOAS (type {data.type:#x})"
            )
        if flags == PASID:
            return AmdDomain(CPU_PAGE_SIZES, aperture_last=CPU_LAST)
        if flags & ~(NEST_PARENT | DIRTY_TRACKING):
            raise IoctlError(EOPNOTSUPP, f"AMD-Vi's page tables do not know, or cannot combine, the flags {flags:#x}")
        return AmdDomain(PAGE_SIZES, dirty=Dirty(PAGE_SIZES) if flags & DIRTY_TRACKING else None)

    def new_viommu(self, viommu: Viommu, viommu_type: int, data: UserData | None) -> ViommuDriver:
        return ViommuDriver()

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        if data_type not in (HW_INFO_DEFAULT, HW_INFO_AMD):
            raise IoctlError(EOPNOTSUPP, f"AMD-Vi has nothing to tell of type {data_type:#x}")
        return HW_INFO_AMD, _HW_INFO.pack(self.efr, EFR2)
