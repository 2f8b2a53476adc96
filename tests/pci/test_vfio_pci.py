"""A function from open to close, and eventfds that store."""

from errno import EBADF, EEXIST, EINVAL, ENODEV, ENOSPC
from functools import partial

import pytest

from iommud.models.edu import Edu
from iommud.pci import registers as r
from iommud.pci.rom import image_size
from tests.engine.fakes import errno_of

from .kit import Modern, Plain, Rig, rom


def test_an_open_begins_with_a_reset_and_without_dma() -> None:
    rig = Rig(Plain)
    assert isinstance(rig.function, Plain)
    assert rig.function.resets == 1
    rig.store(0, 0, 4, 1)
    rig.master()
    rig.config_write(0x44, 2, 3)
    rig.vfio.close()
    assert (rig.function.resets, rig.function.command) == (3, 0x0103)  # waking up was one, too
    rig.opened = rig.vfio.open()
    assert (rig.load(0, 0, 4), rig.config_read(4, 2), rig.config_read(0x44, 2)) == (0, 0x0103, 0)


def test_what_cannot_be_reset_is_as_the_last_one_left_it() -> None:
    rig = Rig(Edu)
    rig.store(0, 4, 4, 0x1234)
    rig.config_write(0xF0, 4, 0xABCD)
    rig.config_write(0x10, 4, 0xFFFFFFFF)
    assert errno_of(rig.vfio.reset) == EINVAL
    rig.vfio.close()
    rig.opened = rig.vfio.open()
    assert (rig.load(0, 4, 4), rig.config_read(0xF0, 4)) == (0xFFFFEDCB, 0xABCD)
    assert rig.config_read(0x10, 4) == rig.function.layout.resources[0].start  # the copy of its registers is a new one


def test_what_a_client_wrote_to_the_header_goes_with_it() -> None:
    rig = Rig(Edu)
    rig.config_write(4, 2, 0x0005)
    rig.config_write(0x0C, 1, 0x20)
    rig.config_write(0x3C, 1, 0x99)
    rig.vfio.close()
    rig.opened = rig.vfio.open()
    assert [rig.config_read(at, 1) for at in (0x04, 0x0C, 0x3C)] == [3, 0, 10]


def test_a_reset_wakes_it_up_and_keeps_its_configuration() -> None:
    rig = Rig(Modern)
    assert isinstance(rig.function, Plain)
    told: list[bool] = []
    rig.opened.memory_changed = told.append
    rig.master()
    rig.eventfds(2, 0, 10, 11)
    rig.config_write(0x44, 2, 3)
    rig.vfio.reset()
    assert rig.config_read(0x44, 2) & 3 == 0
    assert told[-2:] == [False, True]
    for vector in (0, 1, 2):
        rig.function.interrupt(vector)
    assert [rig.table[fd].take() for fd in (10, 11)] == [1, 1]
    assert rig.config_read(4, 2) & r.PCI_COMMAND_MASTER


def test_msi_goes_on_after_a_reset() -> None:
    rig = Rig(Plain)
    rig.master()
    rig.eventfds(1, 0, 10, 11)
    rig.vfio.reset()
    rig.function.interrupt(1)
    assert (rig.table[10].take(), rig.table[11].take()) == (0, 1)


def test_intx_goes_on_after_a_reset() -> None:
    rig = Rig(Plain)
    rig.eventfds(0, 0, 10)
    rig.function.intx(True)
    assert rig.table[10].take() == 1
    rig.vfio.reset()
    rig.set_irqs(1 | 16, 0, 0, 1)  # unmask
    assert rig.table[10].take() == 0
    rig.function.intx(True)
    assert rig.table[10].take() == 1


def test_the_most_msi_vectors_are_remembered_from_one_client_to_the_next() -> None:
    rig = Rig(Plain)
    rig.eventfds(1, 0, 10, 11)
    rig.vfio.close()
    rig.opened = rig.vfio.open()
    rig.config_write(0x4A, 2, 0x70)
    assert rig.config_read(0x4A, 2) & 0x70 == 0x10


def test_an_eventfd_that_stores() -> None:
    rig = Rig(Modern)
    stores, table = rig.opened.ioeventfds, rig.table
    stores.set(0x10, 0x1122334455667788, 8, 10, table)
    stores.set(0x10, 0x99, 4, 10, table)
    assert errno_of(lambda: stores.set(0x10, 0x99, 4, 11, table)) == EEXIST
    assert errno_of(lambda: stores.set(0x10, 0x98, 4, -1, table)) == ENODEV
    table[10].signal()
    assert rig.load(0, 0x10, 8) == 0x11223344_00000099
    rig.config_write(4, 2, 0)
    table[10].signal()
    rig.config_write(4, 2, 2)
    rig.store(0, 0x10, 8, 0)
    stores.set(0x10, 0x99, 4, -1, table)
    table[10].signal()
    assert rig.load(0, 0x10, 8) == 0x1122334455667788
    rig.vfio.close()
    assert table.users() == 0


@pytest.mark.parametrize(
    ("position", "flags", "fd", "error"),
    [
        (0, 3, 10, EINVAL),
        (0, 0, 10, EINVAL),
        (0, 16, 10, EINVAL),
        (0, 4, -2, EINVAL),
        (1 << 40, 4, 10, EINVAL),
        (6 << 40, 4, 10, EINVAL),
        (7 << 40, 4, 10, EINVAL),
        (0x3FFD, 4, 10, EINVAL),
        (0x1FFC, 8, 10, EINVAL),  # the table begins at 0x2000
        (0x204C, 4, 10, EINVAL),
        (0x2050, 4, 48, EBADF),
        (0, 1, 99, EINVAL),
    ],
)
def test_eventfds_that_cannot_store(position: int, flags: int, fd: int, error: int) -> None:
    rig = Rig(Modern)
    assert errno_of(lambda: rig.opened.ioeventfds.set(position, 0, flags, fd, rig.table)) == error
    assert rig.table.users() == 0


def test_descriptor_0_can_store() -> None:
    rig = Rig(Plain)
    rig.opened.ioeventfds.set(0, 7, 1, 0, rig.table)
    rig.table[0].signal()
    assert rig.load(0, 0, 1) == 7


def test_there_are_so_many() -> None:
    rig = Rig(Plain)
    for data in range(1000):
        rig.opened.ioeventfds.set(0, data, 4, 10, rig.table)
    assert errno_of(partial(rig.opened.ioeventfds.set, 0, 1000, 4, 10, rig.table)) == ENOSPC
    rig.opened.ioeventfds.set(0, 7, 4, -1, rig.table)
    rig.opened.ioeventfds.set(0, 1000, 4, 10, rig.table)


def with_bytes(image: bytes, **at: bytes) -> bytes:
    made = bytearray(image)
    for name, data in at.items():
        offset = int(name[1:], 16)
        made[offset : offset + len(data)] = data
    return bytes(made)


@pytest.mark.parametrize(
    ("image", "size"),
    [
        (b"", 0),
        (bytes(512), 0),
        (b"\x55", 0),
        (rom(1024), 1024),
        (rom(1024) + bytes(4096), 1024),
        (with_bytes(rom(1024), x55=b"\0") + rom(512), 1536),  # the first is not the last
        (with_bytes(rom(1024), x55=b"\0") + bytes(1024), 1024),
        (with_bytes(rom(512), x50=b"\xff\xff"), 2048),  # no longer than its window
        (with_bytes(rom(512), x50=b"\0\0"), 0),
        (with_bytes(rom(512), x40=b"PCIX"), 0),
        (with_bytes(rom(512), x4a=b"\x17\0"), 0),
        (with_bytes(rom(512), x18=b"\x41\0"), 0),
        (with_bytes(rom(512), x18=b"\xf0\x07"), 0),
    ],
)
def test_how_long_a_rom_is(image: bytes, size: int) -> None:
    assert image_size(image) == size
