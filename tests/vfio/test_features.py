"""DEVICE_FEATURE: low power, and dma-bufs of BARs. Ref: v7.3 vfio_pci_core.c, vfio_pci_dmabuf.c"""

import os
from collections.abc import Callable
from errno import EFAULT, EINVAL, EIO, EMFILE, ENODEV, ENOMEM, EOPNOTSUPP
from struct import pack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.errors import IoctlError
from iommud.ops.dma_buf import GivenDmaBuf
from iommud.pci.address import Address
from iommud.pci.bars import Bar
from iommud.pci.bus import Bus
from iommud.pci.function import DmaFault, Slot
from iommud.uapi.header import const
from iommud.vfio.bar_buffer import accesses
from iommud.vfio.device import DeviceFile
from tests.ops.client import AT
from tests.ops.twins import PAGE
from tests.pci.kit import Modern, Plain

from .kit import COMMAND, CONFIG, Machine

GET, SET = 1 << 16, 1 << 17
ENTRY, ENTRY_WITH_WAKEUP, EXIT, DMA_BUF = 3, 4, 5, 11


class Large(Plain):
    """With a BAR of whole pages."""

    bars = (Bar(0, 4 * PAGE), Bar(2, 32, io=True))


async def dma_buf(
    machine: Machine, file: DeviceFile, *ranges: tuple[int, int], expect: int = 0, index: int = 0, **fields: int
) -> int:
    """A descriptor of these ranges."""
    head = pack(
        "<IIII", index, fields.get("open_flags", os.O_RDWR), fields.get("flags", 0), fields.get("count", len(ranges))
    )
    body = b"".join(pack("<QQ", *each) for each in ranges)
    await machine.ask(file, "FEATURE", flags=GET | DMA_BUF, behind=head + body, expect=expect)
    return machine.client.descriptors.result


@pytest.mark.parametrize(
    ("ranges", "fields", "errno"),
    [
        ([(0, PAGE)], {"index": 1}, ENODEV),
        ([(0, PAGE)], {"index": 6}, ENODEV),
        ([(0, PAGE)], {"index": 0xFFFF_FFFF}, ENODEV),
        ([(0, PAGE)], {"index": 2}, EINVAL),
        ([(0, PAGE)], {"flags": 1}, EINVAL),
        ([(0, PAGE)], {"flags": 1, "index": 9}, EINVAL),
        ([], {}, EINVAL),
        ([(0, 0)], {}, EINVAL),
        ([(1, PAGE)], {}, EINVAL),
        ([(0, PAGE - 1)], {}, EINVAL),
        ([(0, 5 * PAGE)], {}, EINVAL),
        ([(4 * PAGE, PAGE)], {}, EINVAL),
        ([(0, PAGE), (4 * PAGE, PAGE)], {}, EINVAL),
        ([(0, 1 << 62), (0, 1 << 62)], {}, EINVAL),
        ([(0, PAGE)], {"count": 1 << 20}, ENOMEM),
        ([(0, PAGE)], {"count": 1000}, EFAULT),
    ],
)
async def test_what_cannot_be_a_dma_buf(
    machine: Machine, ranges: list[tuple[int, int]], fields: dict[str, int], errno: int
) -> None:
    file = await machine.bound(machine.device(Large))
    await dma_buf(machine, file, *ranges, expect=errno, **fields)
    assert machine.client.descriptors.open == {}


async def test_no_descriptor_is_free(machine: Machine) -> None:
    file = await machine.bound(machine.device(Large))
    machine.client.descriptors.room = 0
    await dma_buf(machine, file, (0, PAGE), expect=EMFILE)


@pytest.mark.parametrize(
    ("asked", "got"),
    [
        (os.O_RDONLY, os.O_RDONLY),
        (os.O_WRONLY | os.O_CLOEXEC, os.O_WRONLY | os.O_CLOEXEC),
        (os.O_RDWR | os.O_APPEND | os.O_NONBLOCK, os.O_RDWR | os.O_NONBLOCK),
        (3, os.O_RDWR),
    ],
)
async def test_how_the_descriptor_is_open(machine: Machine, asked: int, got: int) -> None:
    file = await machine.bound(machine.device(Large))
    number = await dma_buf(machine, file, (0, PAGE), open_flags=asked)
    assert machine.client.descriptors.flags[number] == got


async def two_devices(machine: Machine) -> tuple[DeviceFile, DeviceFile, int]:
    """One whose BAR is mapped at 0 in an IOAS, and one that does DMA there."""
    shown = await machine.bound(machine.device(Large))
    slot = Slot(Address(device=1), scheduler=machine.clock)
    other = await machine.bound(machine.device(Large, slot))
    number = await dma_buf(machine, shown, (PAGE, 2 * PAGE))
    ioas = await machine.client.new_ioas()
    await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=2 * PAGE, iova=0)
    await machine.ask(other, "ATTACH_IOMMUFD_PT", pt_id=ioas)
    other.write(COMMAND, b"\x06\0")
    return shown, other, number


async def test_another_device_reaches_the_registers(machine: Machine) -> None:
    shown, other, _ = await two_devices(machine)
    machine.plugged(other).function.dma_write(0x11, b"0123456789")
    function = machine.plugged(shown).function
    assert isinstance(function, Large)
    assert [each for each in function.accesses if each[0] == "store"] == [
        ("store", 0, PAGE + 0x11, 1),
        ("store", 0, PAGE + 0x12, 2),
        ("store", 0, PAGE + 0x14, 4),
        ("store", 0, PAGE + 0x18, 2),
        ("store", 0, PAGE + 0x1A, 1),
    ]
    assert machine.plugged(other).function.dma_read(0x10, 12) == b"\x000123456789\0"


REVOKING: dict[str, Callable[[Machine, DeviceFile], object]] = {
    "memory is disabled": lambda machine, file: file.write(COMMAND, b"\0\0"),
    "it is in D3hot": lambda machine, file: file.write(CONFIG + machine.plugged(file).function.where[1] + 4, b"\x03\0"),
    "it is closed": lambda machine, file: file.release(),
}


@pytest.mark.parametrize("how", REVOKING)
async def test_what_is_mapped_is_lost(machine: Machine, how: str) -> None:
    shown, other, number = await two_devices(machine)
    REVOKING[how](machine, shown)
    with pytest.raises(DmaFault):
        machine.plugged(other).function.dma_read(0, 4)
    ioas = await machine.client.new_ioas()
    await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=PAGE, expect=ENODEV)
    if how == "memory is disabled":
        shown.write(COMMAND, b"\x02\0")
        with pytest.raises(DmaFault):
            machine.plugged(other).function.dma_read(0, 4)
        await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=PAGE)


async def test_a_reset_and_low_power_take_what_is_mapped(machine: Machine) -> None:
    for what in "reset", "power":
        shown, other, number = await two_devices(machine)
        ioas = await machine.client.new_ioas()
        if what == "reset":
            assert await machine.call(shown, const("VFIO_DEVICE_RESET")) == 0
        else:
            await machine.ask(shown, "FEATURE", flags=SET | ENTRY)
            await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=PAGE, expect=ENODEV)
            await machine.ask(shown, "FEATURE", flags=SET | EXIT)
        with pytest.raises(DmaFault):
            machine.plugged(other).function.dma_read(0, 4)
        await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=PAGE)
        for file in shown, other:
            file.release()
        machine.bus = Bus()


async def test_several_ranges_cannot_be_mapped(machine: Machine) -> None:
    file = await machine.bound(machine.device(Large))
    number = await dma_buf(machine, file, (PAGE, PAGE), (0, PAGE))
    behind = machine.client.descriptors.open[number]
    assert isinstance(behind, GivenDmaBuf)
    assert behind.buffer.size == 2 * PAGE
    ioas = await machine.client.new_ioas()
    await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=PAGE, expect=EOPNOTSUPP)
    await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=3 * PAGE, expect=EINVAL)


async def test_while_memory_is_disabled_it_is_revoked_from_the_start(machine: Machine) -> None:
    file = await machine.bound(machine.device(Large))
    file.write(COMMAND, b"\0\0")
    number = await dma_buf(machine, file, (0, PAGE))
    ioas = await machine.client.new_ioas()
    await machine.client.send("IOAS_MAP_FILE", flags=7, ioas_id=ioas, fd=number, length=PAGE, expect=ENODEV)


@given(st.integers(0, 4096), st.integers(0, 300))
def test_dma_is_cut_into_aligned_accesses(start: int, length: int) -> None:
    """They follow each other, cover all of it, and none could be twice as wide."""
    at = start
    for place, size in accesses(start, length):
        assert place == at
        assert size in (1, 2, 4, 8)
        assert place % size == 0
        assert size == 8 or place % (2 * size) or place + 2 * size > start + length
        at += size
    assert at == start + length


async def test_low_power(machine: Machine) -> None:
    file = await machine.bound(machine.device())
    table = machine.outside.table
    await machine.ask(file, "FEATURE", flags=SET | EXIT)
    await machine.ask(file, "FEATURE", flags=SET | ENTRY_WITH_WAKEUP, behind=pack("<iI", -1, 0), expect=EINVAL)
    await machine.ask(file, "FEATURE", flags=SET | ENTRY_WITH_WAKEUP, behind=pack("<iI", 99, 0), expect=EINVAL)
    await machine.ask(file, "FEATURE", flags=SET | ENTRY_WITH_WAKEUP, behind=bytes(7), expect=EINVAL)
    await machine.ask(file, "FEATURE", flags=SET | ENTRY_WITH_WAKEUP, behind=pack("<iI", 12, 0))
    await machine.ask(file, "FEATURE", flags=SET | ENTRY, expect=EINVAL)
    await machine.ask(file, "FEATURE", flags=SET | ENTRY_WITH_WAKEUP, behind=pack("<iI", 13, 0), expect=EINVAL)
    assert (table[12].users, table[13].users) == (1, 0)
    await machine.ask(file, "FEATURE", flags=SET | EXIT)
    assert (table[12].users, table[12].count) == (0, 0)
    await machine.ask(file, "FEATURE", flags=SET | ENTRY_WITH_WAKEUP, behind=pack("<iI", 12, 0))
    file.release()
    assert table.users() == 0


async def test_mappings_are_refused_in_low_power_and_reads_are_not(machine: Machine) -> None:
    """Whether or not an eventfd is to be told: it takes the exit. Ref: v7.3 vfio_pci_core.c
    vfio_pci_vmf_insert_pfn, vfio_pci_rw
    """
    file = await machine.bound(machine.device(Large))
    bound = file.access()
    file.write(COMMAND, b"\x02\0")
    for entry, behind in (ENTRY, b""), (ENTRY_WITH_WAKEUP, pack("<iI", 12, 0)):
        bound.store(0, 8, 4, 0x1234)
        await machine.ask(file, "FEATURE", flags=SET | entry, behind=behind)
        refused: list[Callable[[], object]] = [lambda: bound.load(0, 8, 4), lambda: bound.store(0, 8, 4, 1)]
        for access in refused:
            with pytest.raises(IoctlError) as refusal:
                access()
            assert refusal.value.errno == EIO
        assert bound.peek(0, 0, PAGE) is None
        assert file.read(8, 4) == b"\x34\x12\0\0"
        assert file.write(8, b"\1\0\0\0") == 4
        with pytest.raises(IoctlError):
            bound.load(0, 8, 4)
        await machine.ask(file, "FEATURE", flags=SET | EXIT)
        assert bound.load(0, 8, 4) == 1
    assert machine.outside.table[12].count == 0


async def test_the_msix_capability_is_told_where_there_is_room(machine: Machine) -> None:
    file = await machine.bound(machine.device(Modern))
    for argsz, offset in (32, 0), (39, 0), (40, 32), (41, 32):
        answer = await machine.ask(file, "GET_REGION_INFO", argsz=argsz, behind=b"\xee" * 8, cap_offset=7)
        behind = machine.client.memory.read(AT + 32, 8)
        assert (answer.flags, answer.cap_offset) == (15, offset)
        assert answer.argsz == (40 if not offset else argsz)
        assert behind == (pack("<HHI", 3, 1, 0) if offset else b"\xee" * 8)
    machine.outside.can_map = False
    file.release()
    again = await machine.bound(file.device)
    assert (await machine.ask(again, "GET_REGION_INFO")).flags == 3
