"""How long capabilities are, and what a client may do to them: the tables of vfio_pci_config.c."""

import pytest

from iommud.pci import registers as r
from iommud.pci.capabilities import Express, Extended, Raw
from iommud.pci.permissions import (
    CAPABILITIES,
    EXTENDED,
    EXTENDED_LENGTHS,
    HEADER,
    LENGTHS,
    extended_length_of,
    length_of,
    msi,
)
from iommud.pci.space import ConfigSpace

from .kit import Modern, Plain, Rig


def space(at: int, data: bytes) -> ConfigSpace:
    made = ConfigSpace(4096)
    made.put(at, data)
    return made


@pytest.mark.parametrize(
    ("capability", "data", "length"),
    [
        (r.PCI_CAP_ID_PM, b"", 8),
        (r.PCI_CAP_ID_AGP, b"", 12),
        (r.PCI_CAP_ID_VPD, b"", 8),
        (0x04, b"\xff" * 8, 0),  # SLOTID
        (r.PCI_CAP_ID_MSI, b"\0\0\0\0", 10),
        (r.PCI_CAP_ID_MSI, b"\0\0\x80\0", 14),
        (r.PCI_CAP_ID_MSI, b"\0\0\0\1", 20),
        (r.PCI_CAP_ID_MSI, b"\0\0\x80\1", 24),
        (r.PCI_CAP_ID_PCIX, b"\0\0\0\0", 8),
        (r.PCI_CAP_ID_PCIX, b"\0\0\0\x10", 24),
        (r.PCI_CAP_ID_PCIX, b"\0\0\0\x20", 24),
        (r.PCI_CAP_ID_PCIX, b"\0\0\xff\xcf", 8),
        (r.PCI_CAP_ID_HT, b"\0\0\0\0", 28),
        (r.PCI_CAP_ID_HT, b"\0\0\0\x1f", 28),
        (r.PCI_CAP_ID_HT, b"\0\0\0\x20", 24),
        (r.PCI_CAP_ID_HT, b"\0\0\0\x80", 24),
        (r.PCI_CAP_ID_VNDR, b"\0\0\x1b", 27),
        (r.PCI_CAP_ID_VNDR, b"\0\0\0", 0),
        (0x0A, b"", 0),  # DBG
        (r.PCI_CAP_ID_EXP, b"\0\0\x01\0", 20),
        (r.PCI_CAP_ID_EXP, b"\0\0\x91\0", 12),
        (r.PCI_CAP_ID_EXP, b"\0\0\x02\0", 52),
        (r.PCI_CAP_ID_EXP, b"\0\0\x92\0", 44),
        (r.PCI_CAP_ID_EXP, b"\0\0\x12\0", 52),  # a legacy endpoint
        (r.PCI_CAP_ID_MSIX, b"", 12),
        (r.PCI_CAP_ID_SATA, b"\0\0\0\0\x04", 8),
        (r.PCI_CAP_ID_SATA, b"\0\0\0\0\x0f", 16),
        (r.PCI_CAP_ID_SATA, b"\0\0\0\0\xff", 16),
        (r.PCI_CAP_ID_AF, b"", 6),
        (0x14, b"\xff" * 8, 0),  # EA
        (0x15, b"\xff" * 8, 0),
        (0, b"\xff" * 8, 0),
    ],
)
def test_how_long_a_capability_is(capability: int, data: bytes, length: int) -> None:
    assert length_of(space(0x40, data), capability, 0x40) == length


@pytest.mark.parametrize(
    ("capability", "data", "length"),
    [
        (r.PCI_EXT_CAP_ID_ERR, b"", 0x2C),
        (r.PCI_EXT_CAP_ID_DSN, b"", 12),
        (r.PCI_EXT_CAP_ID_PWR, b"", 16),
        (0x05, b"\xff" * 8, 0),
        (r.PCI_EXT_CAP_ID_ARI, b"", 8),
        (r.PCI_EXT_CAP_ID_ATS, b"", 8),
        (r.PCI_EXT_CAP_ID_SRIOV, b"", 64),
        (r.PCI_EXT_CAP_ID_MCAST, b"", 40),
        (r.PCI_EXT_CAP_ID_PRI, b"", 16),
        (r.PCI_EXT_CAP_ID_LTR, b"", 8),
        (r.PCI_EXT_CAP_ID_PASID, b"\xff" * 8, 0),
        (0x19, b"\xff" * 8, 0),  # SECPCI
        (0x1E, b"\xff" * 8, 0),  # L1SS
        (0x32, b"\xff" * 8, 0),
        (r.PCI_EXT_CAP_ID_VNDR, (0x0182_0001).to_bytes(4, "little"), 0x18),
        (r.PCI_EXT_CAP_ID_DVSEC, (0x03C1_1E98).to_bytes(4, "little"), 0x3C),
        (r.PCI_EXT_CAP_ID_VC, bytes(8), 16 + 12),
        (r.PCI_EXT_CAP_ID_VC, b"\x07\0\0\0" + bytes(4), 16 + 8 * 12),
        (r.PCI_EXT_CAP_ID_VC9, b"\x01\0\0\0\x02\0\0\0", 48 + 16),  # 32 phases
        (r.PCI_EXT_CAP_ID_MFVC, b"\x01\0\0\0\x04\0\0\0", 48 + 32),
        (r.PCI_EXT_CAP_ID_VC, b"\0\0\0\0\x0e\0\0\0", 32 + 64),  # 128, the most that it says
        (r.PCI_EXT_CAP_ID_VC, b"\0\0\0\0\x01\0\0\0", 28),
        (r.PCI_EXT_CAP_ID_ACS, b"\x1f\xff", 8),
        (r.PCI_EXT_CAP_ID_ACS, b"\x20\x01", 8 + 4),
        (r.PCI_EXT_CAP_ID_ACS, b"\x20\x21", 8 + 8),
        (r.PCI_EXT_CAP_ID_ACS, b"\x20\x00", 8 + 32),
        (r.PCI_EXT_CAP_ID_REBAR, b"\0\0\0\0\x20", 12),
        (r.PCI_EXT_CAP_ID_REBAR, b"\0\0\0\0\xdf", 4 + 48),
        (r.PCI_EXT_CAP_ID_DPA, b"\x00", 17),
        (r.PCI_EXT_CAP_ID_DPA, b"\xff", 16 + 32),
        (r.PCI_EXT_CAP_ID_TPH, b"\0\0\x07\0", 12),
        (r.PCI_EXT_CAP_ID_TPH, b"\0\x02\x07\0", 12 + 16),
        (r.PCI_EXT_CAP_ID_TPH, b"\0\x04\x07\0", 12),  # its table is MSI-X's
        (r.PCI_EXT_CAP_ID_TPH, b"\0\x06\x07\0", 12),
        (r.PCI_EXT_CAP_ID_TPH, b"\0\x02\xff\xff", 12 + 4096),
    ],
)
def test_how_long_an_extended_one_is(capability: int, data: bytes, length: int) -> None:
    assert extended_length_of(space(0x104, data), capability, 0x100) == length


def rows(virtual: bytes, writable: bytes) -> dict[int, tuple[int, int]]:
    """(virtual, writable) of each dword in which there is any."""
    found = {}
    for at in range(0, len(virtual), 4):
        bits = tuple(int.from_bytes(mask[at : at + 4], "little") for mask in (virtual, writable))
        if any(bits):
            found[at] = (bits[0], bits[1])
    return found


EVERY = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("permissions", "expect"),
    [
        (
            HEADER,
            {
                0x00: (EVERY, 0),
                0x04: (0x0010_0400, 0xFFFF),
                0x0C: (0, 0xFF00_FFFF),
                **{0x10 + 4 * i: (EVERY, EVERY) for i in range(6)},
                0x30: (EVERY, EVERY),
                0x34: (0xFF, 0),
                0x3C: (0xFFFF, 0xFF),
            },
        ),
        (CAPABILITIES[r.PCI_CAP_ID_PM], {0: (0xF800_FF00, 0), 4: (0x8100, 0xFFFF_7EFC)}),
        (CAPABILITIES[r.PCI_CAP_ID_VPD], {0: (0xFFFF_FF00, 0xFFFF_0000), 4: (EVERY, EVERY)}),
        (CAPABILITIES[r.PCI_CAP_ID_PCIX], {0: (0xFF00, 0xFFFF_0000), 8: (0, EVERY)}),
        (CAPABILITIES[r.PCI_CAP_ID_EXP], {0: (0xFF00, 0), 8: (0xF0E0, 0xFDFF), 0x28: (0, 0xFFDF)}),
        (CAPABILITIES[r.PCI_CAP_ID_AF], {0: (0xFF00, 0), 4: (1, 1)}),
        (
            EXTENDED[r.PCI_EXT_CAP_ID_ERR],
            {
                0: (EVERY, 0),
                **dict.fromkeys((4, 8, 12), (0, 0x03FF_F031)),
                **dict.fromkeys((16, 20), (0, 0xF1C1)),
                24: (0, 0x140),
            },
        ),
        (EXTENDED[r.PCI_EXT_CAP_ID_PWR], {0: (EVERY, 0), 8: (0, 0xFF)}),
        (msi(10, 0), {0: (0x00FF_FF00, 0x00FF_0000), 4: (EVERY, EVERY), 8: (0xFFFF, 0xFFFF)}),
        (
            msi(24, 0x180),
            {
                0: (0x00FF_FF00, 0x00FF_0000),
                4: (EVERY, EVERY),
                8: (EVERY, EVERY),
                12: (0xFFFF, 0xFFFF),
                16: (0, EVERY),
                20: (0, EVERY),
            },
        ),
        (
            msi(20, 0x100),
            {
                0: (0x00FF_FF00, 0x00FF_0000),
                4: (EVERY, EVERY),
                8: (0xFFFF, 0xFFFF),
                12: (0, EVERY),
                16: (0, EVERY),
            },
        ),
    ],
)
def test_which_bits(permissions: object, expect: dict[int, tuple[int, int]]) -> None:
    assert rows(permissions.virtual, permissions.writable) == expect  # type: ignore[attr-defined]


def test_what_has_masks_has_a_length() -> None:
    assert set(CAPABILITIES) <= set(LENGTHS)
    assert set(EXTENDED) <= set(EXTENDED_LENGTHS)


def test_pme_that_is_pending_is_not_shown() -> None:
    rig = Rig(Plain)
    rig.vfio.close()
    rig.function.config.change(0x44, 2, 0x8100, 0x8100)
    rig.opened = rig.vfio.open()
    rig.function.config.change(0x44, 2, 0x8100, 0x8100)
    assert rig.config_read(0x44, 2) == 0


def test_pci_x_has_extended_capabilities_in_its_second_version() -> None:
    class PciX(Modern):
        capabilities = (Raw(r.PCI_CAP_ID_PCIX, b"\0\x20" + bytes(20), write=b"\xff" * 22),)
        extended = (Extended(r.PCI_EXT_CAP_ID_PASID, bytes(4)),)

    rig = Rig(PciX)
    assert rig.config_read(0x100, 4) == 0  # hidden, so it was looked for
    rig.config_write(0x44, 4, EVERY)
    rig.config_write(0x48, 4, EVERY)
    assert (rig.config_read(0x44, 4), rig.config_read(0x48, 4)) == (0, EVERY)


def test_a_vendors_extended_registers_are_the_functions() -> None:
    class Own(Modern):
        capabilities = (Express(),)
        extended = (
            Extended(r.PCI_EXT_CAP_ID_VNDR, (0x0141_0001).to_bytes(4, "little") + bytes(12), b"\0" * 4 + b"\xff" * 12),
        )

    rig = Rig(Own)
    rig.config_write(0x108, 4, 0x11223344)
    rig.config_write(0x100, 4, EVERY)
    assert (rig.config_read(0x108, 4), rig.config_read(0x100, 4)) == (0x11223344, 0x0001_000B)
