"""The registers that capabilities are, byte by byte, and where they stand."""

import pytest

from iommud.pci import registers as r
from iommud.pci.capabilities import (
    AdvancedFeatures,
    Capability,
    Express,
    Msi,
    Msix,
    Pm,
    Raw,
    Vendor,
    Vpd,
    errors,
    place,
)
from iommud.pci.function import Slot
from iommud.pci.space import ConfigSpace

from .kit import Modern, Plain


@pytest.mark.parametrize(
    ("capability", "data", "write"),
    [
        (Pm(), "0000 0300 0800 0000", "0000 0000 0300 0000"),
        (Pm(d1=True, d2=True, pme=0b10101, keeps_state=False), "0000 03ae 0000 0000", "0000 0000 0301 0000"),
        (Msi(wide=False), "0000 0000 00000000 0000", "0000 7100 fcffffff ffff"),
        (Msi(vectors=32), "0000 8a00 00000000 00000000 0000", "0000 7100 fcffffff ffffffff ffff"),
        (
            Msi(vectors=2, maskable=True),
            "0000 8201 00000000 00000000 0000 0000 00000000 00000000",
            "0000 7100 fcffffff ffffffff ffff 0000 03000000 00000000",
        ),
        (Msix(2048, (5, 0x1000), (2, 0x88)), "0000 ff07 05100000 8a000000", "0000 00c0 00000000 00000000"),
        (AdvancedFeatures(), "0000 06 03 00 00", "0000 00 00 00 00"),
        (AdvancedFeatures(flr=False), "0000 06 01 00 00", "0000 00 00 00 00"),
        (Vpd(), "0000 0000 00000000", "0000 ffff ffffffff"),
        (Vendor(b"abc", b"\0\1"), "0000 06 616263", "0000 00 000100"),
        (Raw(0x10, b"\x01\x02", b"\xff"), "0000 0102", "0000 ff00"),
        (
            Express(),
            "0000 0200 00800010 1028 0000 11000000 0000 1100" + "00" * 16 + "10000000 0000 0000" + "00" * 8,
            "0000 0000 00000000 ff7d 0000 00000000 fb00 0000" + "00" * 16 + "00000000 1f00 0000" + "00" * 8,
        ),
        (
            Express(integrated=True, flr=False),
            "0000 9200 00800000 1028 0000" + "00" * 24 + "10000000 0000 0000",
            "0000 0000 00000000 ff7d 0000" + "00" * 24 + "00000000 1f00 0000",
        ),
    ],
)
def test_registers(capability: Capability, data: str, write: str) -> None:
    made = capability.fields()
    assert bytes(made.data) == bytes.fromhex(data)
    assert bytes(made.write) == bytes.fromhex(write)


def test_advanced_error_reporting() -> None:
    made = errors().fields()
    assert bytes(made.data) == bytes.fromhex(
        "00000000 00000000 00000000 30204600 00000000 00200000 a0000000" + "00" * 16
    )
    assert bytes(made.write) == bytes.fromhex(
        "00000000 00000000 30f0ff01 30f0ff01 00000000 c1f10000 40010000" + "00" * 16
    )
    assert bytes(made.clear) == bytes.fromhex("00000000 30f0ff01 00000000 00000000 c1f10000" + "00" * 24)


def test_what_is_cleared_by_writing_ones() -> None:
    assert bytes(Pm(pme=1).fields().clear) == bytes.fromhex("0000 0000 0080 0000")
    assert bytes(Express().fields().clear)[8:12] == bytes.fromhex("0000 0f00")


def test_where_they_stand() -> None:
    assert {f"{key:x}": at for key, at in Plain(Slot()).where.items()} == {
        "1": 0x40,
        "5": 0x48,
        "9": 0x60,
        "13": 0x68,
        "3": 0x70,
    }
    assert {f"{key:x}": at for key, at in Modern(Slot()).where.items()} == {
        "1": 0x40,
        "5": 0x48,
        "11": 0x54,
        "10": 0x60,
        "10001": 0x100,
        "10003": 0x12C,
    }


def test_a_place_can_be_chosen() -> None:
    space = ConfigSpace(256)
    assert place(space, (Pm(at=0xC8), Msi(at=0x80), AdvancedFeatures()), ()) == {1: 0xC8, 5: 0x80, 0x13: 0xD0}
    assert [space.read(at, 2) for at in (0x34, 0xC8, 0x80, 0xD0)] == [0xC8, 0x8001, 0xD005, 0x0013]
    assert space.read(r.PCI_STATUS, 2) == r.PCI_STATUS_CAP_LIST


def test_of_two_with_one_id_the_first_is_found() -> None:
    assert place(ConfigSpace(256), (Vendor(b"1"), Vendor(b"2")), ()) == {9: 0x40}


def test_no_capabilities_no_list() -> None:
    space = ConfigSpace(256)
    assert place(space, (), ()) == {}
    assert (space.read(0x34, 1), space.read(6, 2)) == (0, 0)
