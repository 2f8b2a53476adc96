"""A guest's SMMUv3: its stream table entries as nested page tables, and its commands, each judged
as the driver judges it.

Nothing here caches a guest's tables, so a command is judged and has no other effect. A command that
an SMMU with these features would find illegal is refused, because one illegal command would stop
the queue for everybody.

Ref: v7.3 arm/arm-smmu-v3/arm-smmu-v3-iommufd.c
"""

import struct
from collections.abc import Generator
from errno import EIO, ENOMEM, EOPNOTSUPP
from typing import Final

from ..engine.device.viommu import Viommu, ViommuDriver
from ..engine.mapping.domain import NestedDomain
from ..engine.mapping.user_data import UserArray, UserData
from ..errors import IoctlError

VIOMMU_SMMUV3: Final = 1
VEVENTQ_SMMUV3: Final = 1
DATA_SMMUV3: Final = 2
INVALIDATE_SMMUV3: Final = 1


def bits(high: int, low: int) -> int:
    """Bits `low` to `high`, inclusive, as the architecture's manual counts them."""
    return (1 << high + 1) - (1 << low)


def field(value: int, mask: int) -> int:
    return (value & mask) // (mask & -mask)


# A stream table entry: the parts that a guest may set.
STE_VALID: Final = 1 << 0
_STE_CONFIG: Final = bits(3, 1)
_ABORT, _BYPASS, _STAGE_1 = 0, 4, 5
_STE_ATS: Final = bits(29, 28)
_ATS_OFF, _ATS_FULL = 0, 1
# The format and place of the context descriptors, and how many; then how they are read, stalls, and
# ATS.
_STE_0: Final = STE_VALID | _STE_CONFIG | bits(5, 4) | bits(51, 6) | bits(63, 59)
_STE_1: Final = bits(1, 0) | bits(3, 2) | bits(5, 4) | bits(7, 6) | 1 << 27 | _STE_ATS

# Commands, by their opcode.
OPCODE: Final = bits(7, 0)
CFGI_CD: Final = 0x05
CFGI_CD_ALL: Final = 0x06
TLBI_NH_ALL: Final = 0x10
TLBI_NH_ASID: Final = 0x11
TLBI_NH_VA: Final = 0x12
TLBI_NH_VAA: Final = 0x13
TLBI_NSNH_ALL: Final = 0x30
ATC_INV: Final = 0x40

_STREAM: Final = bits(63, 32)
_SSID: Final = bits(31, 12)
_SSV, _GLOBAL = 1 << 11, 1 << 9
_NUM, _SCALE, _SCALE_HIGHEST = bits(16, 12), bits(25, 20), 1 << 25
_VMID, _ASID = bits(47, 32), bits(63, 48)
_LEAF, _TTL, _TG, _ADDRESS = 1 << 0, bits(9, 8), bits(11, 10), bits(63, 12)
_ATC_SIZE: Final = bits(5, 0)
_ATC_SIZE_ALL: Final = 52

# Which bits of its two words a guest may set, by opcode. SCALE beyond 31 would need 52 bits of
# address.
_RANGE_0: Final = _NUM | _SCALE & ~_SCALE_HIGHEST
_ALLOWED: Final = {
    TLBI_NSNH_ALL: (0, 0),
    TLBI_NH_ALL: (_VMID, 0),
    TLBI_NH_ASID: (_VMID | _ASID, 0),
    TLBI_NH_VAA: (_VMID | _RANGE_0, _LEAF | _ADDRESS | _TG | _TTL),
    TLBI_NH_VA: (_VMID | _ASID | _RANGE_0, _LEAF | _ADDRESS | _TG | _TTL),
    ATC_INV: (_STREAM | _SSV | _SSID | _GLOBAL, _ATC_SIZE | _ADDRESS),
    CFGI_CD: (_STREAM | _SSID, _LEAF),
    CFGI_CD_ALL: (_STREAM, 0),
}
_OF_A_STREAM: Final = (ATC_INV, CFGI_CD, CFGI_CD_ALL)

_STE: Final = struct.Struct("<QQ")
_COMMAND: Final = struct.Struct("<QQ")
_MOST_COMMANDS: Final = (
    4 << 20
) // _COMMAND.size  # the driver copies all at once, and the kernel allocates no more for that


class Smmuv3Nested(NestedDomain):
    """A guest's stream table entry on top of the second stage of its vIOMMU.

    EOPNOTSUPP: flags. EIO: an entry that is valid, but that a guest may not make. Others:
    UserData.struct. Ref: v7.3 arm_vsmmu_alloc_domain_nested, arm_smmu_validate_vste
    """

    pasids = False

    def __init__(self, viommu: Viommu, flags: int, data: UserData) -> None:
        super().__init__()
        if flags:
            raise IoctlError(EOPNOTSUPP, f"a guest's page table knows no flags {flags:#x}")
        words = _STE.unpack(data.struct(DATA_SMMUV3, _STE.size, _STE.size))
        self.viommu: Final = viommu
        self.ste: Final = self._checked(*words) if words[0] & STE_VALID else (0, 0)

    @staticmethod
    def _checked(first: int, second: int) -> tuple[int, int]:
        if first & ~_STE_0 or second & ~_STE_1:
            raise IoctlError(
                EIO, f"the entry has bits that are no guest's: {first & ~_STE_0:#x}, {second & ~_STE_1:#x}"
            )
        if field(first, _STE_CONFIG) not in (_ABORT, _BYPASS, _STAGE_1):
            raise IoctlError(EIO, f"Config {field(first, _STE_CONFIG)} is neither abort, bypass nor stage 1")
        if field(second, _STE_ATS) not in (_ATS_OFF, _ATS_FULL):
            raise IoctlError(EIO, f"EATS {field(second, _STE_ATS)} is neither none nor full")
        return first, second

    @property
    def translates(self) -> bool:
        """Whether the guest has tables of its own. If not, the entry aborts DMA, or passes
        addresses through.
        """
        return field(self.ste[0], _STE_CONFIG) == _STAGE_1


class Smmuv3Viommu(ViommuDriver):
    """The guest's SMMU, on the second stage of `viommu`'s parent."""

    def __init__(self, viommu: Viommu) -> None:
        self._viommu = viommu

    def nested_domain(self, flags: int, data: UserData) -> NestedDomain:
        return Smmuv3Nested(self._viommu, flags, data)

    def invalidate(self, array: UserArray) -> Generator[None, None, None]:
        """EIO: an illegal command, or one for a stream that the guest does not have. The commands
        before it are done. ENOMEM: more than 4 MiB of commands. Others: UserArray.entries. Ref:
        v7.3 arm_vsmmu_cache_invalidate
        """
        if array.count > _MOST_COMMANDS:
            array.done = array.count  # none is done, but the driver says so
            raise IoctlError(ENOMEM, f"{array.count} commands are more than {_MOST_COMMANDS}")
        commands = yield from array.entries(INVALIDATE_SMMUV3, _COMMAND.size)
        for first, second in _COMMAND.iter_unpack(commands):
            self._judge(array.done, first, second)
            array.done += 1

    def _judge(self, at: int, first: int, second: int) -> None:
        opcode = first & OPCODE
        allowed = _ALLOWED.get(opcode)
        if allowed is None:
            raise IoctlError(EIO, f"command {at} has the opcode {opcode:#x}, which is no guest's")
        if opcode in (TLBI_NH_VA, TLBI_NH_VAA):
            _check_range(at, first, second)
        if opcode == ATC_INV and second & _ATC_SIZE > _ATC_SIZE_ALL:
            raise IoctlError(EIO, f"command {at} is of 2^{second & _ATC_SIZE} pages")
        wrong = first & ~(OPCODE | allowed[0]), second & ~allowed[1]
        if any(wrong):
            raise IoctlError(EIO, f"command {at} ({opcode:#x}) has reserved bits: {wrong[0]:#x}, {wrong[1]:#x}")
        if opcode in _OF_A_STREAM and self._viommu.device_of(field(first, _STREAM)) is None:
            raise IoctlError(EIO, f"command {at} is of stream {field(first, _STREAM):#x}, which {self._viommu} has not")


def _check_range(at: int, first: int, second: int) -> None:
    """EIO: the architecture reserves these values. Ref: v7.3 arm_vsmmu_validate_range"""
    is_range, ttl, granule = bool(first & (_NUM | _SCALE)), field(second, _TTL), field(second, _TG)
    if not granule:
        if is_range or ttl:
            raise IoctlError(EIO, f"command {at} has a range or TTL without a granule")
    elif granule == 2 and ttl == 1:
        raise IoctlError(EIO, f"command {at} has TTL 1 with a granule of 16 KiB, which takes 52 bits of address")
    elif not is_range and not ttl:
        raise IoctlError(EIO, f"command {at} has a granule, and neither a range nor TTL")
