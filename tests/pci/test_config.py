"""Configuration space as vfio-pci shows it. tests/clients/vfio/config_space.c asks a real one."""

from errno import EFAULT
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommud.pci import registers as r
from iommud.pci.capabilities import Express, Extended, Pm, Raw, Vendor, errors
from tests.engine.fakes import errno_of

from .kit import Modern, Plain, Rig, rom

PM, MSI, VENDOR, AF, VPD = 0x40, 0x48, 0x60, 0x68, 0x70  # where Plain's capabilities are
M_PM, M_MSI, M_MSIX, M_EXP = 0x40, 0x48, 0x54, 0x60  # and Modern's


@pytest.fixture
def rig() -> Rig:
    return Rig(Plain)


@pytest.fixture
def modern() -> Rig:
    return Rig(Modern)


def test_identity_and_first_values(rig: Rig) -> None:
    assert rig.config_read(0, 4) == 0xABCD1234
    assert rig.config_read(4, 4) == 0x0010_0103
    assert rig.config_read(8, 4) == 0x08800007
    assert rig.config_read(0x2C, 4) == 0x9ABC5678
    assert rig.config_read(0x3C, 2) == 0x020A


def test_the_list_of_capabilities(rig: Rig) -> None:
    found, at = [], rig.config_read(r.PCI_CAPABILITY_LIST, 1)
    while at:
        found.append((rig.config_read(at, 1), at))
        at = rig.config_read(at + 1, 1)
    assert found == [(1, PM), (5, MSI), (9, VENDOR), (0x13, AF), (3, VPD)]


@pytest.mark.parametrize(
    ("offset", "size", "sized"),
    [
        (0x10, 4, 0xFFFFFF00),
        (0x14, 4, 0xFFFF0008),
        (0x18, 4, 0xFFFFFFE1),
        (0x1C, 4, 0),
        (0x20, 4, 0x0000000C),
        (0x24, 4, 0xFFFFFFFE),
        (0x30, 4, 0),
    ],
)
def test_bars_are_sized(rig: Rig, offset: int, size: int, sized: int) -> None:
    before = rig.config_read(offset, size)
    rig.config_write(offset, size, 0xFFFFFFFF)
    assert rig.config_read(offset, size) == sized
    rig.config_write(offset, size, before)
    assert rig.config_read(offset, size) == before


def test_a_bar_of_the_client_is_not_the_functions(rig: Rig) -> None:
    own = rig.function.config.read(0x10, 4)
    rig.config_write(0x10, 4, 0x12345678)
    assert rig.config_read(0x10, 4) == 0x12345600
    assert rig.function.config.read(0x10, 4) == own


@pytest.mark.parametrize(("offset", "length"), [(256, 1), (255, 2), (0, 257), (1 << 39, 4)])
def test_beyond_the_end(rig: Rig, offset: int, length: int) -> None:
    assert errno_of(lambda: rig.opened.config.read(offset, length)) == EFAULT
    assert errno_of(lambda: rig.opened.config.write(offset, bytes(length))) == EFAULT


def test_4096_bytes_end_there(modern: Rig) -> None:
    assert modern.opened.config.size == 4096
    assert len(modern.opened.config.read(0, 4096)) == 4096
    assert errno_of(lambda: modern.opened.config.read(4095, 2)) == EFAULT


def test_a_wide_bar_is_two_registers(modern: Rig) -> None:
    modern.config_write(0x10, 8, (1 << 64) - 1)
    assert modern.config_read(0x10, 8) == (1 << 64) - (1 << 14) | 4
    modern.config_write(0x14, 4, 0x123)
    assert modern.config_read(0x10, 8) == 0x123_FFFF_C004


def test_the_rom_has_an_enable_bit() -> None:
    class WithRom(Plain):
        rom = rom(1024)

    rig = Rig(WithRom)
    rig.config_write(0x30, 4, 0xFFFFFFFF)
    assert rig.config_read(0x30, 4) == 0xFFFFF801
    rig.config_write(0x30, 4, 0)
    assert rig.config_read(0x30, 4) == 0


def test_command_is_the_functions_but_for_intx_disable(rig: Rig) -> None:
    rig.config_write(4, 2, 0xFFFF)
    assert rig.config_read(4, 2) == 0x0507
    assert rig.function.command == 0x0507  # which vfio has disabled, too
    rig.config_write(4, 2, 0)
    assert rig.config_read(4, 2) == 0
    assert rig.function.command == 0


def test_intx_disable_of_the_function_is_the_hosts(rig: Rig) -> None:
    rig.host.intx(False)
    assert rig.function.command == 0x0503
    assert rig.config_read(4, 2) == 0x0103


def test_memory_that_is_disabled_is_told_of(rig: Rig) -> None:
    told: list[bool] = []
    rig.opened.memory_changed = told.append
    rig.config_write(4, 1, 0)
    rig.config_write(4, 1, 2)
    rig.config_write(5, 1, 0)  # not the byte with the bit
    assert told == [False, True]


def test_status_keeps_what_went_wrong_until_it_is_cleared_by_the_host(rig: Rig) -> None:
    rig.function.config.change(6, 2, 0xFFFF, 0x2010)
    rig.config_write(6, 2, 0x2000)
    assert rig.config_read(6, 2) == 0x2010
    rig.config_write(4, 4, 0x0103)  # the kernel reads a dword, and writes back what it has read
    assert rig.config_read(6, 2) == 0x0010


def test_pme_is_hidden(rig: Rig) -> None:
    assert rig.function.config.read(PM + 2, 2) == 0xFA03
    assert rig.config_read(PM + 2, 2) == 0x0203
    rig.config_write(PM + 4, 2, 0x0100)
    assert rig.config_read(PM + 4, 2) == 0
    assert rig.function.config.read(PM + 4, 2) == 0


@pytest.mark.parametrize(
    ("states", "at_the_end"),
    [
        ([1], 1),
        ([2], 0),  # it has no D2
        ([3], 3),
        ([3, 1], 3),  # deeper only
        ([1, 3], 3),
        ([3, 0], 0),
        ([1, 0, 1], 1),
    ],
)
def test_power_states(rig: Rig, states: list[int], at_the_end: int) -> None:
    for state in states:
        rig.config_write(PM + 4, 2, state)
    assert rig.config_read(PM + 4, 2) & 3 == at_the_end
    assert rig.opened.config.memory_enabled == (at_the_end < 3)


def test_coming_back_from_d3_resets_a_function_that_does_not_keep_its_state(rig: Rig, modern: Rig) -> None:
    for of, pm, resets in ((rig, PM, 1), (modern, M_PM, 0)):
        assert isinstance(of.function, Plain)
        of.config_write(0x0C, 1, 0x55)
        before = of.function.resets
        of.config_write(pm + 4, 2, 3)
        of.config_write(0x0C, 1, 0x66)  # what is written while it sleeps is lost with it
        of.config_write(pm + 4, 2, 0)
        assert of.function.resets - before == resets
        assert of.config_read(0x0C, 1) == (0x55 if resets else 0x66)


def test_msi_is_a_copy_of_which_the_host_takes_little(rig: Rig) -> None:
    rig.config_write(MSI + 4, 4, 0xFEE01234)
    rig.config_write(MSI + 8, 4, 0x5)
    rig.config_write(MSI + 12, 2, 0x4242)
    assert rig.config_read(MSI + 4, 8) == 0x5_FEE01234
    assert rig.config_read(MSI + 12, 2) == 0x4242
    assert rig.function.config.read(MSI + 4, 10) == 0
    assert rig.config_read(MSI + 2, 2) == 0x0184  # 4 vectors, 64 bits, maskable
    rig.config_write(MSI + 2, 2, 0x0031)  # MSI is enabled by SET_IRQS only, and no vectors were
    assert rig.config_read(MSI + 2, 2) == 0x0100  # the kernel's copy has no bits that cannot be written
    rig.config_write(MSI + 16, 4, 0xFFFFFFFF)  # which to mask is the function's
    assert rig.config_read(MSI + 16, 4) == 0xF
    assert rig.function.config.read(MSI + 16, 4) == 0xF


def test_msix_is_read_only(modern: Rig) -> None:
    assert modern.config_read(M_MSIX, 4) == 0x0004_6011
    assert modern.config_read(M_MSIX + 4, 8) == 0x3000 << 32 | 0x2000
    modern.config_write(M_MSIX + 2, 2, 0xFFFF)
    assert modern.config_read(M_MSIX, 4) == 0x0004_6011


def test_vendor_registers_are_the_functions(rig: Rig) -> None:
    assert rig.opened.config.read(VENDOR, 7) == b"\x09\x68\x07abc\0"
    rig.opened.config.write(VENDOR, b"\0" * 7)
    assert rig.opened.config.read(VENDOR, 7) == b"\x09\x68\x07a\0c\0"


def test_registers_that_are_no_memory(rig: Rig) -> None:
    """The function itself answers, in its own time; all else stays as it is."""
    told: list[tuple[int, ...]] = []
    at = VENDOR + 4

    def load(offset: int, size: int) -> int:
        told.append((offset, size))
        return 0x89ABCDEF & (1 << 8 * size) - 1

    rig.function.config.answer(range(at, at + 2), load, lambda *said: told.append(said))
    assert (rig.config_read(at, 2), rig.config_read(at, 1)) == (0xCDEF, 0xEF)
    rig.config_write(at, 2, 0x1234)
    assert told == [(at, 2), (at, 1), (at, 2, 0x1234)]
    rig.config_write(VENDOR + 3, 1, 0)
    assert rig.config_read(VENDOR, 1) == r.PCI_CAP_ID_VNDR


def test_vital_product_data_is_read_and_written_through_two_registers(rig: Rig) -> None:
    rig.config_write(VPD + 2, 2, 8)
    assert rig.config_read(VPD + 2, 2) == 0x8008  # done
    assert rig.config_read(VPD + 4, 4) == 0x0B0A0908
    rig.config_write(VPD + 4, 4, 0x44332211)
    rig.config_write(VPD + 2, 2, 0x8010)
    assert rig.config_read(VPD + 2, 2) == 0x0010
    assert rig.function.vpd[16:20] == b"\x11\x22\x33\x44"
    rig.config_write(VPD + 2, 1, 0x14)  # the flag's byte was not written
    assert rig.config_read(VPD + 2, 2) == 0x0014
    for address in (0x8011, 0x8040):  # no multiple of 4, and beyond the end: it never becomes ready
        rig.config_write(VPD + 2, 2, address)
        assert rig.config_read(VPD + 2, 2) == address
    rig.config_write(VPD + 2, 2, 0x40)
    assert rig.config_read(VPD + 4, 4) == 0


def test_flr_by_either_capability(rig: Rig, modern: Rig) -> None:
    for of, at, size, value in ((rig, AF + 4, 1, 1), (modern, M_EXP + 8, 2, 0x8000)):
        assert isinstance(of.function, Plain)
        before = of.function.resets
        of.config_write(0x0C, 1, 0x55)
        of.master()
        command = of.config_read(4, 2)
        of.config_write(at, size, value)
        assert of.function.resets == before + 1
        assert of.config_read(at, size) & value == 0
        assert (of.config_read(0x0C, 1), of.config_read(4, 2)) == (0x55, command)


def test_a_function_without_flr_only_forgets_the_bit() -> None:
    class Fixed(Modern):
        capabilities = (Express(flr=False),)

    rig = Rig(Fixed)
    assert isinstance(rig.function, Plain)
    rig.config_write(0x48, 2, 0x8000)
    assert (rig.config_read(0x48, 2), rig.function.resets) == (0, 0)


def test_payload_is_the_clients_own_and_reads_are_not_shorter_than_it(modern: Rig) -> None:
    at = M_EXP + 8
    assert modern.config_read(at, 2) == 0x2810
    modern.config_write(at, 2, 0x50FF)
    assert modern.config_read(at, 2) == 0x50FF
    assert modern.function.config.read(at, 2) == 0x501F  # 128 bytes of payload, reads of 4096
    modern.function.config.change(at, 2, 0xE0, 0x40)
    modern.config_write(at, 2, 0x0000)
    assert modern.config_read(at, 2) == 0
    assert modern.function.config.read(at, 2) == 0x2040  # 512 bytes, as the payload
    modern.config_write(at, 2, 0x0200)  # phantom functions
    assert modern.config_read(at, 2) == 0
    modern.config_write(M_EXP + 0x28, 2, 0xFFFF)
    assert modern.config_read(M_EXP + 0x28, 2) == 0x1F


def test_errors_are_the_functions(modern: Rig) -> None:
    modern.function.config.change(0x104, 4, 0xFFFFFFFF, 0x0010_0000)
    assert modern.config_read(0x104, 4) == 0x0010_0000
    modern.config_write(0x104, 4, 0x0010_0000)
    assert modern.config_read(0x104, 4) == 0
    modern.config_write(0x108, 4, 0xFFFFFFFF)
    assert modern.config_read(0x108, 4) == 0x01FF_F030
    modern.config_write(0x100, 4, 0xFFFFFFFF)
    assert modern.config_read(0x100, 2) == 1


def extended_list(rig: Rig) -> list[tuple[int, int]]:
    found, at = [], 0x100
    while at:
        header = rig.config_read(at, 4)
        found.append((header & 0xFFFF, at))
        at = header >> 20
    return found


def test_extended_capabilities_that_are_hidden() -> None:
    pasid, acs = Extended(r.PCI_EXT_CAP_ID_PASID, bytes(4)), Extended(r.PCI_EXT_CAP_ID_ACS, bytes(4))

    def shown(*extended: Extended) -> list[tuple[int, int]]:
        class Some(Modern):
            pass

        Some.extended = extended
        return extended_list(Rig(Some))

    assert shown(errors(), pasid, acs) == [(1, 0x100), (0xD, 0x134)]
    assert shown(pasid, acs) == [(0, 0x100), (0xD, 0x108)]  # the first stays, as one of no kind
    assert shown(errors(), pasid) == [(1, 0x100)]
    assert shown(pasid) == [(0, 0x100)]


def test_extended_capabilities_need_an_express_one() -> None:
    class Old(Modern):
        capabilities = ()

    rig = Rig(Old)
    assert rig.config_read(0x100, 4) == rig.function.config.read(0x100, 4)  # what nobody has is the function's
    rig.config_write(0x108, 4, 0xFFFFFFFF)
    assert rig.config_read(0x108, 4) == 0x01FF_F030


def test_capabilities_that_are_hidden() -> None:
    class Some(Plain):
        capabilities = (
            Raw(0x0D, bytes(6)),
            Pm(),
            Raw(0, bytes(2)),
            Raw(0x14, bytes(2)),
            Vendor(b"x"),
            Raw(0x7F, bytes(2)),
        )

    rig = Rig(Some)
    assert [rig.config_read(at, 2) for at in (0x34, 0x48, 0x58)] == [0x48, 0x5801, 0x0009]
    assert rig.config_read(6, 2) & r.PCI_STATUS_CAP_LIST
    assert rig.config_read(0x40, 2) == 0x480D  # what is hidden is not gone


def test_a_function_all_of_whose_capabilities_are_hidden_has_none() -> None:
    class Bare(Plain):
        capabilities = (Raw(0x0D, bytes(6)),)

    rig = Rig(Bare)
    assert (rig.config_read(6, 2), rig.config_read(0x34, 1)) == (0, 0)


def test_what_is_between_capabilities_is_the_functions() -> None:
    class Scratch(Plain):
        scratch = True

    plain, scratch = Rig(Plain), Rig(Scratch)
    for of, expect in ((plain, 0), (scratch, 0xAB)):
        of.config_write(0xF0, 1, 0xAB)
        assert of.config_read(0xF0, 1) == expect
        of.config_write(VENDOR + 7, 1, 0xAB)  # the byte after the vendor's seven
        assert of.config_read(VENDOR + 7, 1) == expect


def test_a_virtual_function() -> None:
    class Virtual(Modern):
        virtual = True
        interrupt_pin = 1

    rig = Rig(Virtual)
    assert rig.function.config.read(0, 4) == 0xFFFFFFFF
    assert rig.config_read(0, 4) == 0xABCD1234
    assert rig.config_read(r.PCI_INTERRUPT_PIN, 1) == 0
    assert rig.config_read(4, 2) == 0x0002
    rig.config_write(4, 2, 0)
    assert rig.config_read(4, 2) == 0
    assert rig.opened.config.memory_enabled  # its physical function's business
    rig.config_write(0x10, 8, (1 << 64) - 1)
    assert rig.config_read(0x10, 8) == (1 << 64) - (1 << 14) | 4


ACCESSES = st.tuples(st.booleans(), st.integers(0, 255), st.binary(min_size=1, max_size=12))


@given(ops=st.lists(ACCESSES, max_size=25))
@settings(max_examples=40, deadline=None)
def test_any_access_is_the_accesses_of_its_bytes(ops: list[tuple[bool, int, bytes]]) -> None:
    """Two functions are told the same, one in pieces."""
    whole, pieces = Rig(Plain), Rig(Plain)
    for writes, offset, data in ops:
        data = data[: 256 - offset]
        if writes:
            whole.opened.config.write(offset, data)
            for i, byte in enumerate(data):
                pieces.opened.config.write(offset + i, bytes([byte]))
        else:
            found = whole.opened.config.read(offset, len(data))
            assert found == b"".join(pieces.opened.config.read(offset + i, 1) for i in range(len(data)))
    assert whole.opened.config.read(0, 256) == pieces.opened.config.read(0, 256)


class Bits:
    """Configuration space as a table of which bits can be written: all that there is to it, when
    nothing happens by writing.
    """

    WRITABLE: ClassVar[dict[int, int]] = {
        4: 0x07,
        5: 0x05,
        0x0C: 0xFF,
        0x3C: 0xFF,
        **{MSI + i: 0xFF for i in (4, 5, 6, 7, 8, 9, 10, 11, 12, 13)},
        MSI + 2: 0x8E,
        MSI + 16: 0x0F,
        VENDOR + 4: 0xFF,
    }

    def __init__(self, first: bytes) -> None:
        self.value = bytearray(first)

    def write(self, offset: int, data: bytes) -> None:
        for i, byte in enumerate(data, offset):
            mask = self.WRITABLE.get(i, 0)
            self.value[i] = (self.value[i] & ~mask) | (byte & mask)


QUIET = st.one_of(
    st.integers(0, 0x0F),
    st.integers(0x28, 0x2F),
    st.integers(0x34, PM + 2),
    st.integers(MSI, AF + 3),
    st.integers(0x78, 255),
)
LENGTHS = {PM + 3, AF + 3, 0x2F, 0x0F}


@given(ops=st.lists(st.tuples(QUIET, st.binary(min_size=1, max_size=9)), max_size=25))
@settings(max_examples=40, deadline=None)
def test_what_can_be_written_is_what_is_read(ops: list[tuple[int, bytes]]) -> None:
    rig = Rig(Plain)
    model = Bits(rig.opened.config.read(0, 256))
    for offset, data in ops:
        end = min((limit + 1 for limit in LENGTHS if limit >= offset), default=256)
        data = data[: end - offset]
        rig.opened.config.write(offset, data)
        model.write(offset, data)
        assert rig.opened.config.read(0, 256) == bytes(model.value)


@given(st.integers(0, 4095), st.integers(1, 4096))
@settings(max_examples=40, deadline=None)
def test_every_part_is_aligned_and_within_a_dword(offset: int, length: int) -> None:
    rig = Rig(Modern)
    seen: list[tuple[int, int]] = []
    read = rig.function.config.read

    def spy(at: int, size: int) -> int:
        seen.append((at, size))
        return read(at, size)

    vars(rig.function.config)["read"] = spy
    if offset + length > 4096:
        assert errno_of(lambda: rig.opened.config.read(offset, length)) == EFAULT
        assert seen == []
        return
    assert len(rig.opened.config.read(offset, length)) == length
    assert all(size in (1, 2, 4) and at % size == 0 for at, size in seen)
