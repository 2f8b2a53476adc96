"""Regions: their sizes and flags, and how reads and writes are cut. tests/clients/vfio/regions.c
asks a real vfio-pci.
"""

from errno import EFAULT, EINVAL, EIO, ENOMEM
from functools import partial
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iommud.pci.bars import Bar
from iommud.pci.function import Identity
from iommud.pci.regions import RegionInfo, Regions
from tests.engine.fakes import errno_of

from .kit import Modern, Plain, Rig, rom

BAR0, BAR1, BAR2, BAR3, BAR4, BAR5, ROM, CONFIG, VGA = range(9)
READ, READ_WRITE, MAPPABLE = 1, 3, 7


class WithRom(Plain):
    rom = rom(1024)


class Screen(Plain):
    identity = Identity(0x1234, 0x1111, 0x030000)


@pytest.fixture
def rig() -> Rig:
    return Rig(Plain)


@pytest.fixture
def modern() -> Rig:
    return Rig(Modern)


def accesses(rig: Rig) -> list[tuple[str, int, int, int]]:
    """What the model was asked since it was looked at."""
    assert isinstance(rig.function, Plain)
    found, rig.function.accesses = rig.function.accesses, []
    return found


def at(region: int, offset: int) -> int:
    return region << 40 | offset


def test_what_there_is(rig: Rig) -> None:
    sizes = {BAR0: 256, BAR1: 1 << 16, BAR4: 1 << 33}
    for index in range(6):
        info = rig.opened.regions.info(index)
        if index == BAR2:
            assert info == RegionInfo(READ_WRITE, 32, at(BAR2, 0))  # ports cannot be mapped
        elif index in sizes:
            assert info == RegionInfo(MAPPABLE, sizes[index], at(index, 0))
        else:
            assert info == RegionInfo(0, 0, at(index, 0))
    assert rig.opened.regions.info(ROM) == RegionInfo(0, 0, at(ROM, 0))
    assert rig.opened.regions.info(CONFIG) == RegionInfo(READ_WRITE, 256, at(CONFIG, 0))
    for index in (VGA, 9, 1 << 23):
        assert errno_of(partial(rig.opened.regions.info, index)) == EINVAL


def test_the_bar_with_the_msix_table_says_that_it_can_be_mapped_whole(modern: Rig) -> None:
    assert modern.opened.regions.info(BAR0) == RegionInfo(MAPPABLE, 1 << 14, 0, msix_mappable=True)
    assert modern.opened.regions.info(CONFIG).size == 4096


def test_nothing_can_be_mapped_when_that_is_so_said(modern: Rig) -> None:
    regions = Regions(modern.function, modern.opened.config, mappable=False)
    assert regions.info(BAR0) == RegionInfo(READ_WRITE, 1 << 14, 0)
    assert errno_of(lambda: regions.map(0, 4096, shared=True)) == EINVAL


@pytest.mark.parametrize(
    ("offset", "length", "sizes"),
    [
        (0, 1, [1]),
        (0, 8, [8]),
        (4, 8, [4, 4]),
        (0, 16, [8, 8]),
        (1, 8, [1, 2, 4, 1]),
        (2, 3, [2, 1]),
        (6, 12, [2, 8, 2]),
        (0, 7, [4, 2, 1]),
        (249, 100, [1, 2, 4]),  # to the end of the BAR
        (255, 1, [1]),
    ],
)
def test_an_access_is_cut_and_aligned(rig: Rig, offset: int, length: int, sizes: list[int]) -> None:
    data = rig.opened.regions.read(at(BAR0, offset), length)
    found = accesses(rig)
    assert [size for _, _, _, size in found] == sizes
    assert [where for _, _, where, _ in found] == [offset + sum(sizes[:i]) for i in range(len(sizes))]
    assert len(data) == sum(sizes)
    taken = rig.opened.regions.write(at(BAR0, offset), bytes(range(length)))
    assert taken == sum(sizes)
    assert [(way, size) for way, _, _, size in accesses(rig)] == [("store", size) for size in sizes]
    assert rig.opened.regions.read(at(BAR0, offset), length) == bytes(range(taken))


@pytest.mark.parametrize("region", [BAR3, BAR5, VGA, 9, 100])
def test_regions_that_there_are_not(rig: Rig, region: int) -> None:
    assert errno_of(lambda: rig.opened.regions.read(at(region, 0), 4)) == EINVAL
    assert errno_of(lambda: rig.opened.regions.write(at(region, 0), bytes(4))) == EINVAL


def test_beyond_the_end(rig: Rig) -> None:
    for offset in (256, 1 << 39):
        assert errno_of(partial(rig.opened.regions.read, at(BAR0, offset), 4)) == EINVAL
        assert errno_of(partial(rig.opened.regions.write, at(BAR0, offset), b"1")) == EINVAL
    assert errno_of(lambda: rig.opened.regions.read(at(CONFIG, 256), 1)) == EFAULT
    assert errno_of(lambda: rig.opened.regions.write(at(CONFIG, 255), b"12")) == EFAULT


def test_nothing_anywhere_is_nothing(rig: Rig) -> None:
    for region in (BAR0, BAR3, ROM, CONFIG, 9):
        assert rig.opened.regions.read(at(region, 1 << 39), 0) == b""
        assert rig.opened.regions.write(at(region, 1 << 39), b"") == 0


def test_memory_that_is_disabled(rig: Rig) -> None:
    def errors() -> list[Any]:
        regions = rig.opened.regions
        calls = (
            lambda: regions.read(at(BAR1, 0), 4),
            lambda: regions.read(at(BAR1, 1), 9),
            lambda: regions.write(at(BAR1, 0), bytes(4)),
            lambda: regions.load(BAR1, 0, 4),
            lambda: regions.store(BAR1, 0, 4, 0),
        )
        return [errno_of(call) for call in calls]

    rig.config_write(4, 2, 1)
    assert errors() == [EIO] * 5
    assert accesses(rig) == []
    assert rig.opened.regions.read(at(BAR2, 0), 4) == bytes(4)  # ports are not memory
    rig.config_write(4, 2, 2)
    assert rig.opened.regions.read(at(BAR1, 0), 4) == bytes(4)
    rig.config_write(0x44, 2, 3)
    assert errors() == [EIO] * 5


def test_ports(rig: Rig) -> None:
    assert rig.opened.regions.write(at(BAR2, 30), b"abcd") == 2
    assert rig.opened.regions.read(at(BAR2, 24), 100) == bytes(6) + b"ab"


def test_the_msix_table_is_the_hosts(modern: Rig) -> None:
    regions = modern.opened.regions
    assert regions.write(at(BAR0, 0x1FF8), b"x" * 8 + b"y" * 0x50 + b"z" * 8) == 0x60
    assert accesses(modern) == [("store", 0, 0x1FF8, 8), ("store", 0, 0x2050, 8)]
    assert regions.read(at(BAR0, 0x1FF8), 0x60) == b"x" * 8 + b"\xff" * 0x50 + b"z" * 8
    assert regions.read(at(BAR0, 0x2003), 2) == b"\xff\xff"
    assert regions.read(at(BAR0, 0x1FFE), 4) == b"xx\xff\xff"
    assert regions.read(at(BAR0, 0x3000), 8) == bytes(8)  # the pending bits can be read
    modern.config_write(4, 2, 0)
    assert regions.read(at(BAR0, 0x2000), 16) == b"\xff" * 16  # where nothing is reached, nothing can fail


def test_the_rom(rig: Rig) -> None:
    rig = Rig(WithRom)
    regions = rig.opened.regions
    assert regions.info(ROM) == RegionInfo(READ, 2048, at(ROM, 0))
    assert regions.read(at(ROM, 0), 4096) == rom(1024) + b"\xff" * 1024
    assert regions.read(at(ROM, 1022), 4) == rom(1024)[1022:] + b"\xff\xff"
    assert errno_of(lambda: regions.write(at(ROM, 0), b"1")) == EINVAL
    assert errno_of(lambda: regions.read(at(ROM, 2048), 1)) == EINVAL
    rig.config_write(4, 2, 0)
    assert errno_of(lambda: regions.read(at(ROM, 0), 4)) == EIO
    assert regions.read(at(ROM, 1024), 4) == b"\xff" * 4


def test_a_rom_without_an_image() -> None:
    class Empty(Plain):
        rom = bytes(4096)

    regions = Rig(Empty).opened.regions
    assert regions.info(ROM) == RegionInfo(0, 0, at(ROM, 0))
    assert errno_of(lambda: regions.read(at(ROM, 0), 4)) == ENOMEM


def test_vga() -> None:
    rig = Rig(Screen)
    regions = rig.opened.regions
    assert regions.info(VGA) == RegionInfo(READ_WRITE, 0xC0000, at(VGA, 0))
    assert regions.write(at(VGA, 0xBFFFC), bytes(100)) == 4
    assert regions.read(at(VGA, 0x3C0), 100) == bytes(32)
    assert regions.read(at(VGA, 0x3B8), 8) == bytes(4)
    assert {size for _, _, _, size in accesses(rig)} == {4}
    for offset in (0, 0x3AF, 0x3BC, 0x3E0, 0x9FFFF, 0xC0000):
        assert errno_of(partial(regions.read, at(VGA, offset), 4)) == EINVAL
    rig.config_write(4, 2, 0)
    assert regions.read(at(VGA, 0xA0000), 1) == b"\0"  # not a BAR's memory


@pytest.mark.parametrize(
    ("position", "length", "shared", "expect"),
    [
        (at(BAR0, 0), 4096, True, (BAR0, 0)),  # less than a page: the page is its own
        (at(BAR1, 0), 1 << 16, True, (BAR1, 0)),
        (at(BAR1, 0xF000), 4096, True, (BAR1, 0xF000)),
        (at(BAR1, 0), 4096, False, None),
        (at(BAR1, 0xF000), 8192, True, None),
        (at(BAR0, 4096), 4096, True, None),
        (at(BAR2, 0), 4096, True, None),
        (at(BAR3, 0), 4096, True, None),
        (at(ROM, 0), 4096, True, None),
        (at(CONFIG, 0), 4096, True, None),
        (at(9, 0), 4096, True, None),
    ],
)
def test_what_can_be_mapped(rig: Rig, position: int, length: int, shared: bool, expect: tuple[int, int] | None) -> None:
    if expect is None:
        assert errno_of(lambda: rig.opened.regions.map(position, length, shared=shared)) == EINVAL
    else:
        assert rig.opened.regions.map(position, length, shared=shared) == expect


def test_a_mapping_of_a_bar_that_is_smaller_than_its_page(rig: Rig) -> None:
    rig.opened.regions.store(BAR0, 252, 4, 0x11223344)
    assert rig.opened.regions.load(BAR0, 252, 4) == 0x11223344
    rig.opened.regions.store(BAR0, 254, 4, 0)
    rig.opened.regions.store(BAR0, 1024, 4, 0)
    assert (rig.opened.regions.load(BAR0, 254, 4), rig.opened.regions.load(BAR0, 256, 1)) == (0xFFFFFFFF, 0xFF)
    assert [access[0] for access in accesses(rig)] == ["store", "load"]


@given(
    st.sampled_from([Plain, Modern]),
    st.lists(st.tuples(st.booleans(), st.integers(0, 0x3FF0), st.binary(min_size=1, max_size=0x60)), max_size=10),
)
@settings(deadline=None, max_examples=30)
def test_a_bar_is_so_many_bytes(kind: type[Plain], ops: list[tuple[bool, int, bytes]]) -> None:
    """However they are cut, reads and writes of a BAR are those of its bytes, but for the table."""
    rig, bar = Rig(kind), 1 if kind is Plain else 0
    memory, table = bytearray(1 << 14), range(0x2000, 0x2050)
    if kind is Modern:
        memory[0x2000:0x2050] = b"\xff" * 0x50
    for writes, offset, data in ops:
        data = data[: (1 << 14) - offset]
        if kind is Modern and offset + len(data) > 0x3000:
            continue
        if writes:
            assert rig.opened.regions.write(at(bar, offset), data) == len(data)
            for i, byte in enumerate(data, offset):
                if kind is Plain or i not in table:
                    memory[i] = byte
        assert rig.opened.regions.read(at(bar, offset), len(data)) == memory[offset : offset + len(data)]
    assert all(where % size == 0 and size in (1, 2, 4, 8) for _, _, where, size in accesses(rig))


def test_a_bar_larger_than_4_gib(rig: Rig) -> None:
    far = (1 << 33) - 4
    assert rig.opened.regions.write(at(BAR4, far), b"abcdefgh") == 4
    assert rig.opened.regions.read(at(BAR4, far), 8) == b"abcd"
    assert rig.opened.regions.map(at(BAR4, (1 << 33) - 4096), 4096, shared=True) == (BAR4, (1 << 33) - 4096)


def test_one_bar_only() -> None:
    class One(Plain):
        bars = (Bar(5, 16),)

    assert Rig(One).opened.regions.info(BAR5).size == 16
