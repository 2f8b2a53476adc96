"""QEMU's educational device. tests/clients/vfio/edu.c asks a real one the same."""

import pytest

from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.models.edu import Edu
from iommud.pci import registers as r
from iommud.pci import vfio_names as v
from tests.engine.fakes import P, map_
from tests.pci.kit import Rig

ID, LIVENESS, FACTORIAL, STATUS, WHY, RAISE, ACKNOWLEDGE = 0x00, 0x04, 0x08, 0x20, 0x24, 0x60, 0x64
SOURCE, DESTINATION, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98


@pytest.fixture
def rig() -> Rig:
    return Rig(Edu)


def test_what_it_is(rig: Rig) -> None:
    assert rig.config_read(0, 4) == 0x11E81234
    assert rig.config_read(8, 4) == 0x00FF0010
    assert rig.config_read(0x2C, 4) == 0x11001AF4
    assert rig.config_read(0x34, 1) == 0x40
    assert rig.config_read(0x40, 4) == 0x00800005  # MSI, one vector, 64 bits, no next
    assert rig.config_read(r.PCI_COMMAND, 4) == 0x00100103  # as QEMU's edu is left by firmware
    assert rig.config_read(r.PCI_INTERRUPT_LINE, 2) == 0x010A
    assert rig.load(0, ID, 4) == 0x010000ED
    assert not rig.vfio.reset_works


def test_liveness_is_the_inverse(rig: Rig) -> None:
    rig.store(0, LIVENESS, 4, 0x0F0F1234)
    assert rig.load(0, LIVENESS, 4) == 0xF0F0EDCB


@pytest.mark.parametrize(
    ("number", "product"), [(0, 1), (1, 1), (5, 120), (13, 1932053504), (33, 0x80000000), (34, 0), (2**32 - 1, 0)]
)
def test_factorial(rig: Rig, number: int, product: int) -> None:
    rig.store(0, FACTORIAL, 4, number)
    assert rig.load(0, STATUS, 4) == 1
    rig.store(0, FACTORIAL, 4, 3)  # it is busy: dropped
    rig.clock.pass_()
    assert (rig.load(0, STATUS, 4), rig.load(0, FACTORIAL, 4)) == (0, product)


def test_status_has_one_bit_that_can_be_written(rig: Rig) -> None:
    rig.store(0, STATUS, 4, 0xFFFFFFFF)
    assert rig.load(0, STATUS, 4) == 0x80
    rig.store(0, STATUS, 4, 0x7F)
    assert rig.load(0, STATUS, 4) == 0


@pytest.mark.parametrize(
    ("offset", "size", "value"),
    [
        (0, 1, 0),
        (0, 2, 0),
        (0, 8, 2**64 - 1),
        (2, 4, 0),
        (4, 4, 0),
        (0x10, 4, 2**32 - 1),
        (0x88, 2, 0),
        (0xA0, 8, 2**64 - 1),
    ],
)
def test_accesses_of_other_sizes_and_to_nothing(rig: Rig, offset: int, size: int, value: int) -> None:
    assert rig.opened.regions.load(0, offset, size) == value
    rig.opened.regions.store(0, offset, size, 0)
    assert rig.load(0, ID, 4) == 0x010000ED


def test_long_registers_take_four_bytes_and_eight(rig: Rig) -> None:
    rig.store(0, SOURCE, 8, 0x1122334455667788)
    assert rig.load(0, SOURCE, 8) == 0x1122334455667788
    assert rig.load(0, SOURCE, 4) == 0x55667788
    rig.store(0, SOURCE, 4, 0xAABBCCDD)
    assert rig.load(0, SOURCE, 8) == 0xAABBCCDD  # all of the register is written


def test_intx_is_a_level_until_it_is_acknowledged(rig: Rig) -> None:
    rig.eventfds(v.VFIO_PCI_INTX_IRQ_INDEX, 0, 10)
    rig.store(0, RAISE, 4, 0x6)
    assert rig.table[10].take() == 1
    assert rig.load(0, WHY, 4) == 6
    rig.store(0, ACKNOWLEDGE, 4, 0x2)
    unmask = v.VFIO_IRQ_SET_DATA_NONE | v.VFIO_IRQ_SET_ACTION_UNMASK
    rig.set_irqs(unmask, 0, 0, 1)
    assert rig.table[10].take() == 1  # 4 is still there
    rig.store(0, ACKNOWLEDGE, 4, 0x4)
    rig.set_irqs(unmask, 0, 0, 1)
    assert rig.table[10].take() == 0
    rig.store(0, RAISE, 4, 0)
    assert rig.table[10].take() == 0


def test_msi_needs_a_bus_master(rig: Rig) -> None:
    rig.eventfds(v.VFIO_PCI_MSI_IRQ_INDEX, 0, 10)
    rig.store(0, RAISE, 4, 1)
    assert rig.table[10].take() == 0
    rig.master()
    rig.store(0, RAISE, 4, 1)
    rig.store(0, RAISE, 4, 1)
    assert rig.table[10].take() == 2


def test_a_factorial_can_interrupt(rig: Rig) -> None:
    rig.master()
    rig.eventfds(v.VFIO_PCI_MSI_IRQ_INDEX, 0, 10)
    rig.store(0, STATUS, 4, 0x80)
    rig.store(0, FACTORIAL, 4, 4)
    rig.clock.pass_()
    assert (rig.table[10].take(), rig.load(0, WHY, 4), rig.load(0, FACTORIAL, 4)) == (1, 1, 24)


def transfer(rig: Rig, source: int, destination: int, count: int, command: int) -> None:
    for register, value in ((SOURCE, source), (DESTINATION, destination), (COUNT, count), (COMMAND, command)):
        rig.store(0, register, 8, value)


def test_dma_there_and_back(rig: Rig) -> None:
    ioas, origin = rig.attach()
    map_(ioas, origin, 0, 2 * P, 0x10_0000)
    origin.fill(0, b"0123456789")
    rig.master()
    rig.eventfds(v.VFIO_PCI_MSI_IRQ_INDEX, 0, 10)
    transfer(rig, 0x10_0000, 0x40010, 10, 1)
    assert rig.load(0, COMMAND, 4) == 1
    rig.store(0, COUNT, 4, 1)  # it is at work: dropped
    rig.clock.pass_(0.1)
    assert (rig.load(0, COMMAND, 4), rig.load(0, COUNT, 4), rig.table[10].take()) == (0, 10, 0)
    transfer(rig, 0x40012, 0x10_0800, 8, 7)
    rig.clock.pass_(0.1)
    assert origin.read(0x800, 9) == b"23456789\0"
    assert (rig.load(0, COMMAND, 4), rig.load(0, WHY, 4), rig.table[10].take()) == (6, 0x100, 1)


def test_it_has_28_bits_of_address(rig: Rig) -> None:
    ioas, origin = rig.attach()
    map_(ioas, origin, 0, P, 0x10_0000, prot=PROT_READ | PROT_WRITE)
    rig.master()
    origin.fill(0, b"low")
    transfer(rig, 0xF000_0010_0000, 0x40000, 3, 1)
    rig.clock.pass_(0.1)
    transfer(rig, 0x40000, 0xF000_0010_0100, 3, 3)
    rig.clock.pass_(0.1)
    assert origin.read(0x100, 3) == b"low"


def test_no_dma_without_a_bus_master_or_beyond_the_buffer(rig: Rig) -> None:
    ioas, origin = rig.attach()
    map_(ioas, origin, 0, 2 * P, 0x10_0000)
    said: list[str] = []
    rig.function.why = said.append
    transfer(rig, 0x40000, 0x10_0000, 4, 3)
    rig.clock.pass_(0.1)
    assert (rig.load(0, COMMAND, 4), origin.read(0, 4)) == (2, bytes(4))
    assert said == [
        "edu at 0000:e0:00.0: DMA write to 0x100000, 4 bytes: bus mastering is off in its command register",
    ]
    rig.master()
    origin.fill(0, b"kept")
    for source, count in ((0x3FFFF, 1), (0x40FFF, 2), (0x40000, 4097), (0x40000, 2**64 - 1)):
        transfer(rig, source, 0x10_0000, count, 3)
        rig.clock.pass_(0.1)
        assert origin.read(0, 4) == b"kept"


def test_what_a_fault_leaves(rig: Rig) -> None:
    ioas, origin = rig.attach()
    map_(ioas, origin, 0, P, 0x10_0000)
    map_(ioas, origin, P, P, 0x20_0000, prot=PROT_READ)
    rig.master()
    origin.fill(0, b"x" * P)

    def buffer() -> bytes:
        transfer(rig, 0x40000, 0x10_0000, 16, 3)
        rig.clock.pass_(0.1)
        return bytes(origin.read(0, 16))

    transfer(rig, 0x10_0000, 0x40000, 16, 1)
    rig.clock.pass_(0.1)
    transfer(rig, 0x10_0FF8, 0x40000, 12, 1)  # its last 8 bytes, and 4 of nothing
    rig.clock.pass_(0.1)
    assert buffer() == b"x" * 8 + bytes(4) + b"x" * 4
    transfer(rig, 0x30_0000, 0x40000, 2, 1)
    rig.clock.pass_(0.1)
    assert buffer() == bytes(2) + b"x" * 6 + bytes(4) + b"x" * 4
    transfer(rig, 0x40000, 0x20_0000, 16, 7)  # memory that may not be written: the end is told all the same
    rig.clock.pass_(0.1)
    assert (origin.read(P, 16), rig.load(0, COMMAND, 8), rig.load(0, WHY, 4)) == (bytes(16), 6, 0x100)
