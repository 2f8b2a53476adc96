"""What vfio-pci lets a user do to each bit of configuration space: read it from the function or
from a copy, write it or not.

A bit that is *virtual* is read from, and written to, vfio's own copy; any other bit is the
function's own. A bit that is not *writable* keeps its value. In most capabilities only the pointer
to the next one is virtual, and nothing is writable; the tables below have those that differ.
Capabilities with a length of 0 are taken out of the list.

Ref: v7.3 drivers/vfio/pci/vfio_pci_config.c pci_cap_length, pci_ext_cap_length,
init_pci_cap_*_perm
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from . import registers as r
from .space import ConfigSpace

VARIABLE: Final = 0xFF

# Bytes of each capability; one that is missing is hidden.
LENGTHS: Final[Mapping[int, int]] = {
    r.PCI_CAP_ID_PM: 8,
    r.PCI_CAP_ID_AGP: 12,
    r.PCI_CAP_ID_VPD: 8,
    r.PCI_CAP_ID_MSI: VARIABLE,
    r.PCI_CAP_ID_PCIX: VARIABLE,
    r.PCI_CAP_ID_HT: VARIABLE,
    r.PCI_CAP_ID_VNDR: VARIABLE,
    r.PCI_CAP_ID_EXP: VARIABLE,
    r.PCI_CAP_ID_MSIX: 12,
    r.PCI_CAP_ID_SATA: VARIABLE,
    r.PCI_CAP_ID_AF: 6,
}
EXTENDED_LENGTHS: Final[Mapping[int, int]] = {
    r.PCI_EXT_CAP_ID_ERR: r.PCI_ERR_SIZEOF,
    r.PCI_EXT_CAP_ID_VC: VARIABLE,
    r.PCI_EXT_CAP_ID_DSN: 12,
    r.PCI_EXT_CAP_ID_PWR: 16,
    r.PCI_EXT_CAP_ID_MFVC: VARIABLE,
    r.PCI_EXT_CAP_ID_VC9: VARIABLE,
    r.PCI_EXT_CAP_ID_VNDR: VARIABLE,
    r.PCI_EXT_CAP_ID_ACS: VARIABLE,
    r.PCI_EXT_CAP_ID_ARI: 8,
    r.PCI_EXT_CAP_ID_ATS: 8,
    r.PCI_EXT_CAP_ID_SRIOV: 0x40,
    r.PCI_EXT_CAP_ID_MCAST: 40,
    r.PCI_EXT_CAP_ID_PRI: 16,
    r.PCI_EXT_CAP_ID_REBAR: VARIABLE,
    r.PCI_EXT_CAP_ID_DPA: VARIABLE,
    r.PCI_EXT_CAP_ID_TPH: VARIABLE,
    r.PCI_EXT_CAP_ID_LTR: 8,
    r.PCI_EXT_CAP_ID_DVSEC: VARIABLE,
}


class Way(Enum):
    """How an access goes: by the masks; to the function, except the list's pointers; to the
    function.
    """

    MASKED = auto()
    DIRECT = auto()
    RAW = auto()


@dataclass(frozen=True, slots=True)
class Permissions:
    """Of one capability. `write`: how writes go; None: they are dropped. Masks, when there are any,
    are whole dwords long.
    """

    read: Way = Way.DIRECT
    write: Way | None = None
    virtual: bytes = b""
    writable: bytes = b""


def _masks(length: int, *rows: tuple[int, int, int, int]) -> Permissions:
    """Rows of (offset, size, virtual bits, writable bits)."""
    virtual, writable = bytearray(-(-length // 4) * 4), bytearray(-(-length // 4) * 4)
    for offset, size, virt, write in rows:
        virtual[offset : offset + size] = (virt & (1 << 8 * size) - 1).to_bytes(size, "little")
        writable[offset : offset + size] = (write & (1 << 8 * size) - 1).to_bytes(size, "little")
    return Permissions(Way.MASKED, Way.MASKED, bytes(virtual), bytes(writable))


NONE, ALL = 0, 0xFFFFFFFF
_NEXT = (r.PCI_CAP_LIST_NEXT, 1, ALL, NONE)
_PME = r.PCI_PM_CTRL_PME_ENABLE | r.PCI_PM_CTRL_PME_STATUS
_UNCORRECTABLE = 0x03FF_F031
_CORRECTABLE = 0xF1C1

HEADER: Final = _masks(
    r.PCI_STD_HEADER_SIZEOF,
    (r.PCI_VENDOR_ID, 2, ALL, NONE),
    (r.PCI_DEVICE_ID, 2, ALL, NONE),
    (r.PCI_COMMAND, 2, r.PCI_COMMAND_INTX_DISABLE, ALL),
    (r.PCI_STATUS, 2, r.PCI_STATUS_CAP_LIST, NONE),
    (r.PCI_CACHE_LINE_SIZE, 1, NONE, ALL),
    (r.PCI_LATENCY_TIMER, 1, NONE, ALL),
    (r.PCI_BIST, 1, NONE, ALL),
    *((r.PCI_BASE_ADDRESS_0 + 4 * number, 4, ALL, ALL) for number in range(r.PCI_STD_NUM_BARS)),
    (r.PCI_ROM_ADDRESS, 4, ALL, ALL),
    (r.PCI_CAPABILITY_LIST, 1, ALL, NONE),
    (r.PCI_INTERRUPT_LINE, 1, ALL, ALL),
    (r.PCI_INTERRUPT_PIN, 1, ALL, NONE),
)
CAPABILITIES: Final[Mapping[int, Permissions]] = {
    r.PCI_CAP_ID_PM: _masks(
        8,
        _NEXT,
        (r.PCI_PM_PMC, 2, r.PCI_PM_CAP_PME_MASK, NONE),
        (r.PCI_PM_CTRL, 4, _PME, ~(_PME | r.PCI_PM_CTRL_STATE_MASK)),
    ),
    r.PCI_CAP_ID_VPD: _masks(8, _NEXT, (r.PCI_VPD_ADDR, 2, ALL, ALL), (r.PCI_VPD_DATA, 4, ALL, ALL)),
    r.PCI_CAP_ID_PCIX: _masks(24, _NEXT, (r.PCI_X_CMD, 2, NONE, ALL), (r.PCI_X_ECC_CSR, 4, NONE, ALL)),
    r.PCI_CAP_ID_VNDR: Permissions(Way.DIRECT, Way.RAW),
    r.PCI_CAP_ID_EXP: _masks(
        0x34,
        _NEXT,
        (
            r.PCI_EXP_DEVCTL,
            2,
            r.PCI_EXP_DEVCTL_BCR_FLR | r.PCI_EXP_DEVCTL_PAYLOAD | r.PCI_EXP_DEVCTL_READRQ,
            ~r.PCI_EXP_DEVCTL_PHANTOM,
        ),
        (r.PCI_EXP_DEVCTL2, 2, NONE, ~r.PCI_EXP_DEVCTL2_ARI),
    ),
    r.PCI_CAP_ID_AF: _masks(6, _NEXT, (r.PCI_AF_CTRL, 1, r.PCI_AF_CTRL_FLR, r.PCI_AF_CTRL_FLR)),
}
EXTENDED: Final[Mapping[int, Permissions]] = {
    r.PCI_EXT_CAP_ID_ERR: _masks(
        r.PCI_ERR_SIZEOF,
        (0, 4, ALL, NONE),
        (r.PCI_ERR_UNCOR_STATUS, 4, NONE, _UNCORRECTABLE),
        (r.PCI_ERR_UNCOR_MASK, 4, NONE, _UNCORRECTABLE),
        (r.PCI_ERR_UNCOR_SEVER, 4, NONE, _UNCORRECTABLE),
        (r.PCI_ERR_COR_STATUS, 4, NONE, _CORRECTABLE),
        (r.PCI_ERR_COR_MASK, 4, NONE, _CORRECTABLE),
        (r.PCI_ERR_CAP, 4, NONE, 0x140),
    ),
    r.PCI_EXT_CAP_ID_PWR: _masks(16, (0, 4, ALL, NONE), (r.PCI_PWR_DATA, 1, NONE, ALL)),
    r.PCI_EXT_CAP_ID_VNDR: Permissions(Way.DIRECT, Way.RAW),
    r.PCI_EXT_CAP_ID_DVSEC: Permissions(Way.DIRECT, Way.RAW),
}
READ_ONLY: Final = Permissions()
UNASSIGNED: Final = Permissions(Way.RAW, Way.RAW)  # registers that a device hides between its capabilities


def msi(length: int, flags: int) -> Permissions:
    """Of an MSI capability of that length, whose flags say how wide its addresses are and whether
    vectors can be masked.
    """
    rows = [_NEXT, (r.PCI_MSI_FLAGS, 1, ALL, ALL), (r.PCI_MSI_ADDRESS_LO, 4, ALL, ALL)]
    wide = bool(flags & r.PCI_MSI_FLAGS_64BIT)
    if wide:
        rows.append((r.PCI_MSI_ADDRESS_HI, 4, ALL, ALL))
    rows.append((r.PCI_MSI_DATA_64 if wide else r.PCI_MSI_DATA_32, 2, ALL, ALL))
    if flags & r.PCI_MSI_FLAGS_MASKBIT:
        rows.append((r.PCI_MSI_MASK_64 if wide else r.PCI_MSI_MASK_32, 4, NONE, ALL))
        rows.append((r.PCI_MSI_PENDING_64 if wide else r.PCI_MSI_PENDING_32, 4, NONE, ALL))
    return _masks(length, *rows)


def length_of(space: ConfigSpace, capability: int, at: int) -> int:
    """Bytes of the capability at `at`; 0: it is hidden. Ref: v7.3 vfio_pci_config.c vfio_cap_len"""
    known = LENGTHS.get(capability, 0)
    if known != VARIABLE:
        return known
    if capability == r.PCI_CAP_ID_MSI:
        flags = space.read(at + r.PCI_MSI_FLAGS, 2)
        return 10 + (4 if flags & r.PCI_MSI_FLAGS_64BIT else 0) + (10 if flags & r.PCI_MSI_FLAGS_MASKBIT else 0)
    if capability == r.PCI_CAP_ID_PCIX:
        return 24 if space.read(at + r.PCI_X_CMD, 2) >> 12 & 3 else 8
    if capability == r.PCI_CAP_ID_VNDR:
        return space.read(at + r.PCI_CAP_FLAGS, 1)
    if capability == r.PCI_CAP_ID_HT:
        return 24 if space.read(at + 3, 1) & 0xE0 else 28
    if capability == r.PCI_CAP_ID_SATA:
        return 16 if space.read(at + 4, 1) & 0xF == 0xF else 8
    flags = space.read(at + r.PCI_EXP_FLAGS, 2)
    integrated = (flags & r.PCI_EXP_FLAGS_TYPE) >> 4 == r.PCI_EXP_TYPE_RC_END
    if flags & r.PCI_EXP_FLAGS_VERS == 1:
        return 0x0C if integrated else 0x14
    return 0x2C if integrated else 0x34


def extended_length_of(space: ConfigSpace, capability: int, at: int) -> int:
    """As `length_of`, of an extended capability. Ref: v7.3 vfio_pci_config.c vfio_ext_cap_len"""
    known = EXTENDED_LENGTHS.get(capability, 0)
    if known != VARIABLE:
        return known
    if capability in (r.PCI_EXT_CAP_ID_VNDR, r.PCI_EXT_CAP_ID_DVSEC):
        return space.read(at + 4, 4) >> 20
    if capability in (r.PCI_EXT_CAP_ID_VC, r.PCI_EXT_CAP_ID_VC9, r.PCI_EXT_CAP_ID_MFVC):
        return _virtual_channels(space, at)
    if capability == r.PCI_EXT_CAP_ID_ACS:
        if not space.read(at + 4, 1) & 0x20:
            return 8
        bits = space.read(at + 5, 1)
        return 8 + (-(-bits // 32) * 32 if bits else 256) // 8
    if capability == r.PCI_EXT_CAP_ID_REBAR:
        return 4 + 8 * ((space.read(at + 8, 1) & 0xE0) >> 5)
    if capability == r.PCI_EXT_CAP_ID_DPA:
        return 16 + (space.read(at + 4, 1) & 0x1F) + 1
    header = space.read(at + 4, 4)  # PCI_EXT_CAP_ID_TPH
    return 12 + (2 * (header >> 16 & 0x7FF) + 2 if header & 0x600 == 0x200 else 0)


def _virtual_channels(space: ConfigSpace, at: int) -> int:
    extra, phases = space.read(at + 4, 4) & 7, space.read(at + 8, 4)
    count = 128 if phases & 8 else 64 if phases & 4 else 32 if phases & 2 else 0
    length = 16 + (1 + extra) * 12
    return -(-length // 16) * 16 + count * 4 // 8 if count else length
