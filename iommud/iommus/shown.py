"""What /sys tells of an IOMMU: its name, the files of its own, and the IOVAs that its devices
cannot use.

Ref: v7.3 drivers/iommu/intel/iommu.c intel_iommu_attrs; amd/init.c amd_iommu_attrs;
arm/arm-smmu-v3/arm-smmu-v3.c arm_smmu_device_probe; iommu.c iommu_group_resv_type_string
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from ..engine.device.model import Region


@dataclass(frozen=True, slots=True)
class Shown:
    """`files`: by path in the IOMMU's directory. `reserved`: first and last IOVA, and why."""

    name: str
    files: Mapping[str, str] = field(default_factory=dict)
    reserved: tuple[tuple[int, int, str], ...] = ()


def shown(kind: str) -> Shown:
    """What /sys tells of a kind of `kinds.CLASSES`, whose module is loaded. `none` has only a
    name.
    """
    if kind == "vtd":
        from . import plain, vtd

        registers = {"cap": f"{vtd.CAP:x}", "ecap": f"{vtd.ECAP:x}", "address": "fed90000", "version": "5:0"}
        domains = {"domains_supported": str(1 << 4 + 2 * (vtd.CAP & 7)), "domains_used": "1"}
        files = {f"intel-iommu/{name}": value for name, value in (registers | domains).items()}
        return Shown("dmar0", files, (_range(plain.INTERRUPTS, "msi"),))
    if kind == "amd":
        from . import amd, plain

        files = {"amd-iommu/cap": "40f", "amd-iommu/features": f"{amd.EFR:x}:{amd.EFR2:x}"}
        return Shown("ivhd0", files, (_range(plain.INTERRUPTS, "msi"), _range(amd.HYPERTRANSPORT, "reserved")))
    if kind == "smmuv3":
        from . import smmuv3

        return Shown("smmu3.0x0000000009050000", {}, (_range(smmuv3.MSI_WINDOW, "msi"),))
    return Shown("none")


def _range(region: Region, why: str) -> tuple[int, int, str]:
    return region.start, region.last, why
