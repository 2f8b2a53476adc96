"""Intel VT-d in scalable mode, emulated: two stages of page tables, nesting, dirty tracking,
PASIDs.

All that clients can see of it is there: which page tables it makes, how far they reach, what they
refuse, which devices they suit, and the two registers by which a guest learns of it. Nothing walks
a guest's own tables. So an invalidation has nothing to drop, and only its checks are left.

A page table without flags, or with PASID only, is a first stage (47 bits: the upper half of 48
belongs to the sign). One that tracks writes, or that others nest in, is a second stage (48 bits).

Ref: v7.3 intel/iommu.c, intel/nested.c, intel/pasid.c
"""

import struct
from collections.abc import Generator
from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import Final

from ..engine.device.iommu import Iommu, Port
from ..engine.device.model import Model, Region
from ..engine.mapping.dirty import Dirty
from ..engine.mapping.domain import DIRTY_TRACKING, NEST_PARENT, PASID, AnyDomain, Domain, NestedDomain
from ..engine.mapping.user_data import UserArray, UserData
from ..engine.memory.span import U64_MAX
from ..errors import IoctlError
from .plain import INTERRUPTS

HW_INFO_DEFAULT: Final = 0
HW_INFO_VTD: Final = 1
DATA_VTD_S1: Final = 1
INVALIDATE_VTD_S1: Final = 0

# The capability register: 64 K domains, 48 bits by 4 levels, pages of 2 MiB and 1 GiB in both
# stages, no caching mode.
CAP: Final = (
    6  # ND: 2^16 domains
    | 1 << 2 + 8  # SAGAW: 4 levels
    | 48 - 1 << 16  # MGAW, less 1
    | 0b11 << 34  # SLLPS: 2 MiB, 1 GiB
    | 1 << 39  # PSI: invalidation of single pages
    | 18 << 48  # MAMV: of so many at once, as a power of two
    | 1 << 54  # DWD, DRD: writes and reads are drained
    | 1 << 55
    | 1 << 56  # FL1GP: 1 GiB in the first stage
)
ECAP_SC: Final = 1 << 7
ECAP_NEST: Final = 1 << 26
ECAP_SRS: Final = 1 << 31
ECAP_EAFS: Final = 1 << 34
ECAP_SLADS: Final = 1 << 45
# The extended one: scalable mode with nesting, dirty tracking and 20 bits of PASID; supervisor
# requests, but no extended access flag.
ECAP: Final = (
    # C, QI, DT, IR, EIM: coherent walks, queued invalidation, device TLBs, interrupt remapping
    0b11111
    | 1 << 6  # PT: pass-through
    | ECAP_SC  # snoop control: DMA can be made to see the CPU's caches
    | 15 << 20  # MHMV
    | ECAP_NEST
    | 1 << 29  # PRS: page requests
    | ECAP_SRS
    | 19 << 35  # PSS: bits of a PASID, less 1
    | 1 << 40  # PASID
    | 1 << 42  # PDS
    | 1 << 43  # SMTS: scalable mode
    | ECAP_SLADS
    | 1 << 46  # SLTS: second stage
    | 1 << 47  # FLTS: first stage
    | 1 << 48  # SMPWC: coherent walks in scalable mode
)

PAGE_SIZES: Final = 4 << 10 | 2 << 20 | 1 << 30
FIRST_STAGE_LAST: Final = (1 << 47) - 1
SECOND_STAGE_LAST: Final = (1 << 48) - 1
MAX_PASIDS: Final = 1 << 20
_FOUR_LEVELS: Final = 48  # bits of a guest's address; 57 would need FL5LP in CAP

_NO_READ_ONLY: Final = (
    1 << 0
    # IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17: a nest parent shows nothing read-only; told of every
    # VT-d
)
_S1_SRE: Final = 1 << 0
_S1_EAFE: Final = 1 << 1
_INVALIDATE_LEAF: Final = 1 << 0

_HW_INFO: Final = struct.Struct("<IIQQ")  # flags; reserved; the two registers
_S1: Final = struct.Struct("<QQII")  # flags; where the table is; bits of an address; reserved
_ENTRY: Final = struct.Struct("<QQII")  # address; how many pages; flags; reserved


class VtdNested(NestedDomain):
    """A guest's first stage on top of the second stage `parent`. Whether a device can use it is
    checked when one is attached.

    EOPNOTSUPP: unknown flags or type of data. Others: UserData.struct. Ref: v7.3 nested.c
    intel_iommu_domain_alloc_nested
    """

    def __init__(self, parent: Domain, flags: int, data: UserData) -> None:
        super().__init__()
        if flags & ~PASID:
            raise IoctlError(EOPNOTSUPP, f"VT-d's nested page tables know no flags {flags:#x}")
        if data.type != DATA_VTD_S1:
            raise IoctlError(EOPNOTSUPP, f"VT-d nests no page table of type {data.type:#x}")
        self.parent: Final = parent
        self.flags, self.table, self.width, _ = _S1.unpack(data.struct(DATA_VTD_S1, _S1.size, _S1.size))

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """EOPNOTSUPP: an entry has unknown flags, or its reserved field is not 0. EINVAL: its
        address is not page aligned, or is not 0 although all pages are meant. The entries before it
        are done. Ref: v7.3 nested.c intel_nested_cache_invalidate_user
        """
        array.expect(INVALIDATE_VTD_S1)
        for chunk in array.chunks(INVALIDATE_VTD_S1, _ENTRY.size, _ENTRY.size):
            for address, pages, flags, reserved in _ENTRY.iter_unpack(chunk):
                if flags & ~_INVALIDATE_LEAF or reserved:
                    raise IoctlError(EOPNOTSUPP, f"entry {array.done} has the flags {flags:#x}, reserved {reserved:#x}")
                if address % 4096 or (pages == U64_MAX and address):
                    raise IoctlError(EINVAL, f"entry {array.done} is of {pages:#x} pages at {address:#x}")
                array.done += 1
            yield


class VtdPort(Port):
    def __init__(self, model: Model, iommu: "VtdIommu") -> None:
        super().__init__(model, dirty_tracking=iommu.dirty_tracking, max_pasids=MAX_PASIDS)
        self.pasid_exec = model.pasid_exec
        self.pasid_priv = model.pasid_priv
        self._ecap: Final = iommu.ecap

    def attach(self, domain: AnyDomain) -> None:
        """EINVAL: the page table tracks writes, and this IOMMU cannot; or it is a guest's, made for
        other hardware. ENODEV: the page table's faults go to a queue, and this device cannot ask
        for pages.

        Ref: v7.3 iommu.c intel_iommu_attach_device, nested.c intel_nested_attach_dev, pasid.c
        intel_pasid_setup_nested
        """
        paging = domain.parent if isinstance(domain, VtdNested) else domain
        if paging.dirty is not None and not self.dirty_tracking:
            raise IoctlError(
                EINVAL, f"the IOMMU of {self.model.name} does not track what DMA writes, the page table does"
            )
        if domain.faults and not self.model.pri:
            raise IoctlError(ENODEV, f"{self.model.name} cannot ask for pages, the page table has a queue for that")
        if not isinstance(domain, VtdNested):
            return
        if domain.width != _FOUR_LEVELS:
            raise IoctlError(
                EINVAL, f"the guest's page table has addresses of {domain.width} bits, wanted: {_FOUR_LEVELS}"
            )
        if domain.flags & _S1_SRE and not self._ecap & ECAP_SRS:
            raise IoctlError(EINVAL, f"the IOMMU of {self.model.name} knows no supervisor requests")
        if domain.flags & _S1_EAFE and not self._ecap & ECAP_EAFS:
            raise IoctlError(EINVAL, f"the IOMMU of {self.model.name} knows no extended access flag")

    def attach_pasid(self, pasid: int, domain: AnyDomain, old: AnyDomain | None) -> None:
        self.attach(domain)

    def reserved_regions(self) -> list[Region]:
        return [INTERRUPTS, *super().reserved_regions()]


class VtdIommu(Iommu):
    """With `dirty_tracking` its hardware has SLADS."""

    kind = "vtd"
    nesting = True
    enforces_coherency = bool(ECAP & ECAP_SC)

    def __init__(self, *, dirty_tracking: bool = True) -> None:
        self.dirty_tracking: Final = dirty_tracking
        self.ecap: Final = ECAP if dirty_tracking else ECAP & ~ECAP_SLADS

    def port(self, model: Model) -> Port:
        return VtdPort(model, self)

    def domain(self, flags: int, data: UserData | None) -> Domain:
        # Ref: v7.3 iommu.c intel_iommu_domain_alloc_paging_flags
        if data is not None:
            raise IoctlError(
                EOPNOTSUPP, f"VT-d takes no data for a page table that shows an IOAS (type {data.type:#x})"
            )
        if not flags & ~PASID:
            return Domain(PAGE_SIZES, aperture_last=FIRST_STAGE_LAST)
        if flags & ~(NEST_PARENT | DIRTY_TRACKING | PASID):
            raise IoctlError(EOPNOTSUPP, f"VT-d's page tables know no flags {flags:#x}")
        dirty = Dirty(PAGE_SIZES) if flags & DIRTY_TRACKING else None
        writeable_only = bool(flags & NEST_PARENT)
        return Domain(PAGE_SIZES, aperture_last=SECOND_STAGE_LAST, dirty=dirty, writeable_only=writeable_only)

    def nested_domain(self, parent: Domain, flags: int, data: UserData) -> NestedDomain:
        return VtdNested(parent, flags, data)

    def hw_info(self, data_type: int) -> tuple[int, bytes]:
        if data_type not in (HW_INFO_DEFAULT, HW_INFO_VTD):
            raise IoctlError(EOPNOTSUPP, f"VT-d has nothing to tell of type {data_type:#x}")
        return HW_INFO_VTD, _HW_INFO.pack(_NO_READ_ONLY, 0, CAP, self.ecap)
