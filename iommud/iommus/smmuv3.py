"""Arm's SMMUv3, emulated: two stages of page tables, a guest's stream table entries and commands,
dirty tracking, PASIDs (its SSIDs).

All that clients can see of it is there. A page table without flags is a first stage. So is one that
tracks writes, and one for PASIDs. A page table that others are to nest in is a second stage, and
can do nothing else. A guest nests through a vIOMMU only (smmuv3_viommu.py).

Two SMMUs do not accept each other's page tables.

Ref: v7.3 arm/arm-smmu-v3/arm-smmu-v3.c, arm-smmu-v3-iommufd.c
"""

import struct
from errno import EBUSY, EINVAL, ENOENT, EOPNOTSUPP
from typing import Final

from ..engine.device.iommu import Iommu, Port
from ..engine.device.model import Model, Region
from ..engine.device.viommu import Viommu, ViommuDriver
from ..engine.mapping.dirty import Dirty
from ..engine.mapping.domain import DIRTY_TRACKING, NEST_PARENT, PASID, AnyDomain, Domain
from ..engine.mapping.user_data import UserData
from ..errors import IoctlError
from .smmuv3_viommu import VEVENTQ_SMMUV3, VIOMMU_SMMUV3, Smmuv3Nested, Smmuv3Viommu

HW_INFO_DEFAULT: Final = 0
HW_INFO_SMMUV3: Final = 2

# The identification registers, as a guest reads them.
IDR0: Final = (
    0b11  # S2P, S1P: both stages
    | 2 << 2  # TTF: AArch64's format
    | 1 << 4  # COHACC: coherent walks
    | 2 << 6  # HTTU: accessed and dirty flags are kept
    | 1 << 10  # ATS
    | 1 << 12  # ASID16
    | 1 << 13  # MSI
    | 1 << 16  # PRI
    | 1 << 18  # VMID16
    | 1 << 19  # CD2L
    | 1 << 24  # STALL_MODEL: none
    | 1 << 27  # ST_LEVEL: 2 levels
)
IDR0_DIRTY: Final = 3 << 6  # the bits of HTTU
# bits of a stream's ID, of an SSID; lengths of the queues
IDR1: Final = 16 | 20 << 6 | 16 << 11 | 19 << 16 | 19 << 21
# FWB, so that a guest cannot make DMA incoherent; RIL: invalidation of ranges
IDR3: Final = 1 << 8 | 1 << 10
IDR5: Final = 5 | 1 << 4  # 48 bits of physical address; 4 KiB
IIDR: Final = 0
AIDR: Final = 2  # SMMUv3.2

PAGE_SIZES: Final = 4 << 10 | 2 << 20 | 1 << 30
LAST: Final = (1 << 48) - 1  # of both stages
MAX_PASIDS: Final = 1 << 20
MSI_WINDOW: Final = Region(0x800_0000, 0x80F_FFFF, sw_msi=True)

_HW_INFO: Final = struct.Struct("<10I")  # flags; reserved; six registers; two more
_EVENT: Final = struct.Struct("<4Q")
_EVENT_SID: Final = 0xFFFF_FFFF << 32
BAD_STE: Final = _EVENT.pack(4, 0, 0, 0)  # C_BAD_STE


class Smmuv3Domain(Domain):
    """`stage`: 1 or 2. `smmu`: the SMMU that made it."""

    __slots__ = ("smmu", "stage")

    def __init__(self, smmu: "Smmuv3", stage: int, *, dirty: Dirty | None = None) -> None:
        super().__init__(PAGE_SIZES, aperture_last=LAST, dirty=dirty)
        self.stage: Final = stage
        self.smmu: Final = smmu


class Smmuv3Port(Port):
    """One device, with one stream."""

    def __init__(self, model: Model, smmu: "Smmuv3") -> None:
        super().__init__(model, dirty_tracking=smmu.dirty_tracking, max_pasids=MAX_PASIDS)
        self.pasid_exec = model.pasid_exec
        self.pasid_priv = model.pasid_priv
        self._smmu: Final = smmu
        self._current: AnyDomain | None = None
        self._ssids: set[int] = set()
        self._guest: tuple[Viommu, int] | None = (
            None  # vIOMMU, and the guest's number, while a guest's page table is attached
        )

    def attach(self, domain: AnyDomain) -> None:
        """EINVAL: the page table belongs to another SMMU. EBUSY: PASIDs are attached, and it is no
        first stage. ENOENT: it is a guest's page table that translates, and the guest has no number
        for this device. Without a number the guest could neither name the device in its commands
        nor be told of its events.

        Ref: v7.3 arm-smmu-v3.c arm_smmu_attach_dev, arm-smmu-v3-iommufd.c
        arm_smmu_attach_dev_nested, arm_smmu_attach_prepare_vmaster
        """
        if isinstance(domain, Smmuv3Nested):
            self._check_smmu(domain.viommu.iommu)
            if self._ssids:
                raise IoctlError(EBUSY, f"{self.model.name} has PASIDs attached: a guest's page table is not for them")
            virt_id = domain.viommu.virt_id_of(self)
            if virt_id is None and domain.translates:
                raise IoctlError(
                    ENOENT, f"{self.model.name} has no vDEVICE in {domain.viommu}, which the page table is nested in"
                )
            self._guest = None if virt_id is None else (domain.viommu, virt_id)
        else:
            assert isinstance(domain, Smmuv3Domain)
            self._check_smmu(domain.smmu)
            if domain.stage == 2 and self._ssids:
                raise IoctlError(EBUSY, f"{self.model.name} has PASIDs attached: a second stage is not for them")
            self._guest = None
        self._current = domain

    def detach(self) -> None:
        self._current = self._guest = None

    def attach_pasid(self, pasid: int, domain: AnyDomain, old: AnyDomain | None) -> None:
        """EINVAL: the page table belongs to another SMMU, or is a second stage; or the device
        itself is attached to what is no first stage.

        Ref: v7.3 arm-smmu-v3.c arm_smmu_s1_set_dev_pasid, arm_smmu_set_pasid
        """
        assert isinstance(domain, Smmuv3Domain)
        self._check_smmu(domain.smmu)
        if domain.stage != 1:
            raise IoctlError(EINVAL, "a second stage cannot be attached to a PASID")
        if self._current is not None and not (isinstance(self._current, Smmuv3Domain) and self._current.stage == 1):
            raise IoctlError(
                EINVAL, f"{self.model.name} itself is attached to a page table that leaves no room for PASIDs"
            )
        self._ssids.add(pasid)

    def detach_pasid(self, pasid: int) -> None:
        self._ssids.discard(pasid)

    def reserved_regions(self) -> list[Region]:
        return [MSI_WINDOW, *super().reserved_regions()]

    def report_event(self, record: bytes) -> None:
        """Pass on an event record of this device (32 bytes); the guest's number of the device
        becomes its stream.

        ENOENT: no guest's page table is attached. EOPNOTSUPP: nobody reads events. Ref: v7.3
        arm-smmu-v3-iommufd.c arm_vmaster_report_event
        """
        if self._guest is None:
            raise IoctlError(
                ENOENT, f"{self.model.name} is attached to no page table of a guest that knows it by a number"
            )
        viommu, virt_id = self._guest
        first, *others = _EVENT.unpack(record)
        stream = virt_id << 32 & _EVENT_SID
        viommu.report_event(VEVENTQ_SMMUV3, _EVENT.pack(first & ~_EVENT_SID | stream, *others))

    def _check_smmu(self, smmu: object) -> None:
        if smmu is not self._smmu:
            raise IoctlError(EINVAL, f"{self.model.name} is behind {self._smmu}, the page table is of {smmu}")


class Smmuv3(Iommu):
    """With `dirty_tracking` its hardware has all of HTTU."""

    kind = "smmuv3"
    viommu_types = frozenset({VIOMMU_SMMUV3})

    def __init__(self, *, dirty_tracking: bool = True) -> None:
        self.dirty_tracking: Final = dirty_tracking

    def __str__(self) -> str:
        return f"the SMMU with{'' if self.dirty_tracking else 'out'} HTTU"

    def port(self, model: Model) -> Port:
        return Smmuv3Port(model, self)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        # Ref: v7.3 arm-smmu-v3.c arm_smmu_domain_alloc_paging_flags
        if flags & ~(DIRTY_TRACKING | PASID | NEST_PARENT):
            raise IoctlError(EOPNOTSUPP, f"the SMMU's page tables know no flags {flags:#x}")
        if data is not None:
            raise IoctlError(
                EOPNOTSUPP, f"the SMMU takes no data for a page table that shows an IOAS (type {data.type:#x})"
            )
        if flags == NEST_PARENT:
            return Smmuv3Domain(self, 2)
        if flags & NEST_PARENT:
            raise IoctlError(EOPNOTSUPP, f"a second stage has neither dirty tracking nor PASIDs (flags {flags:#x})")
        return Smmuv3Domain(self, 1, dirty=Dirty(PAGE_SIZES) if flags & DIRTY_TRACKING else None)

    def new_viommu(self, viommu: Viommu, viommu_type: int, data: UserData | None) -> ViommuDriver:
        """EINVAL: the parent belongs to another SMMU. `data` is not looked at. Ref: v7.3
        arm-smmu-v3-iommufd.c arm_vsmmu_init
        """
        parent = viommu.hwpt.domain
        assert isinstance(parent, Smmuv3Domain)
        if parent.smmu is not self:
            raise IoctlError(EINVAL, f"the vIOMMU is to be of {self}, its parent is of {parent.smmu}")
        return Smmuv3Viommu(viommu)

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        if data_type not in (HW_INFO_DEFAULT, HW_INFO_SMMUV3):
            raise IoctlError(EOPNOTSUPP, f"the SMMU has nothing to tell of type {data_type:#x}")
        idr0 = IDR0 if self.dirty_tracking else IDR0 & ~IDR0_DIRTY | 1 << 6
        return HW_INFO_SMMUV3, _HW_INFO.pack(0, 0, idr0, IDR1, 0, IDR3, 0, IDR5, IIDR, AIDR)
