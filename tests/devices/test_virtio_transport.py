"""A virtio device's registers, as a modern PCI function: capabilities, features, status, queues,
interrupts, resets.
"""

import pytest

from iommud.models.virtio.blk import VirtioBlk
from iommud.pci import registers as r
from iommud.pci import vfio_names as v
from tests.pci.kit import Rig

from .virtio import (
    COMMON,
    DATA,
    DEVICE,
    EVENT_IDX,
    EVERY,
    FLUSH,
    INDIRECT,
    ISR,
    NOTIFY,
    PACKED,
    PLATFORM,
    RESET,
    STATUS,
    VERSION_1,
    WCE,
    Driver,
    SlowDisk,
)

IN, OUT, GET_ID = 0, 1, 8
NO_VECTOR = 0xFFFF


@pytest.fixture
def driver() -> Driver:
    return Driver(FLUSH | RESET)


def capabilities(rig: Rig) -> list[tuple[int, int]]:
    """Each one's ID and place."""
    found, at = [], rig.config_read(r.PCI_CAPABILITY_LIST, 1)
    while at:
        found.append((rig.config_read(at, 1), at))
        at = rig.config_read(at + 1, 1)
    return found


def test_what_it_is() -> None:
    rig = Rig(VirtioBlk, size=512, queues=64)
    assert rig.config_read(0, 4) == 0x10421AF4
    assert rig.config_read(8, 4) == 0x01000001
    assert rig.config_read(0x2C, 4) == 0x11001AF4
    assert rig.config_read(r.PCI_INTERRUPT_PIN, 1) == 1
    assert rig.vfio.reset_works
    assert rig.load(0, 0x12, 2) == rig.load(0, DEVICE + 34, 2) == 64
    assert rig.function.messages.vectors == 65


def test_where_its_registers_are() -> None:
    rig = Rig(VirtioBlk, size=512, queues=3)
    places = {}
    for number, at in capabilities(rig):
        if number == r.PCI_CAP_ID_VNDR:
            length, kind, bar = (rig.config_read(at + n, 1) for n in (2, 3, 4))
            places[kind] = bar, rig.config_read(at + 8, 4), rig.config_read(at + 12, 4)
            assert length == (20 if kind in (2, 5) else 16)
            if kind == 2:
                assert rig.config_read(at + 16, 4) == 4
    assert places == {
        1: (0, COMMON, 60),
        2: (0, NOTIFY, 12),
        3: (0, ISR, 1),
        4: (0, DEVICE, 60),
        5: (0, 0, 0),
    }


def test_features_are_negotiated(driver: Driver) -> None:
    offered = driver.offered()
    assert offered & (VERSION_1 | PLATFORM | PACKED | INDIRECT | EVENT_IDX | DATA | RESET) == offered & ~(
        (1 << 28) - 1
    ) & ~(1 << 35)
    driver.set(0x00, 4, 2)
    assert driver.get(0x04, 4) == 0
    for features, good in (
        (offered, True),
        (VERSION_1, True),
        (offered & ~VERSION_1, False),
        (VERSION_1 | 1 << 3, False),
        (VERSION_1 | 1 << 63, False),
    ):
        driver.features = features
        driver.negotiate()
        assert driver.status == (11 if good else 3), "the driver reads back what the device has accepted"
    driver.features = VERSION_1 | FLUSH
    driver.negotiate()
    driver.set(0x08, 4, 0)
    driver.set(0x0C, 4, 0)
    assert driver.get(0x0C, 4) == FLUSH, "that is settled"
    driver.set(0x08, 4, 2)
    driver.set(0x0C, 4, 1)
    assert driver.get(0x0C, 4) == 0


def test_the_status_only_grows_until_it_is_zero(driver: Driver) -> None:
    driver.set(STATUS, 1, 1)
    assert driver.status == 15
    driver.set(STATUS, 1, 0x80 | 0x40 | 0x30)
    assert driver.status == 0x8F, "a driver gives up; it cannot say that the device did"
    driver.set(STATUS, 1, 0)
    assert driver.status == 0


def test_nothing_is_done_before_driver_ok() -> None:
    driver = Driver(start=False)
    driver.start()
    driver.negotiate()
    driver.enable(0)
    driver.notify()
    assert driver.status == 11
    driver.set(STATUS, 1, 0)
    for status in (1, 3, 7):
        driver.set(STATUS, 1, status)
    driver.enable(0)
    driver.notify()
    assert (driver.status, driver.said) == (7, []), "nor without FEATURES_OK"


def test_accesses_of_any_width(driver: Driver) -> None:
    driver.set(STATUS, 1, 0)
    assert driver.get(0x12, 2) == 4
    assert driver.get(0x10, 4) == 4 << 16 | NO_VECTOR
    assert driver.get(0x18, 8) == 256 | NO_VECTOR << 16
    driver.rig.function.store(0, 0x20, 8, 0x0123456789ABCDE0)
    assert [driver.get(at, 4) for at in (0x20, 0x24)] == [0x89ABCDE0, 0x01234567]
    driver.set(0x24, 2, 0xFFFF)
    assert driver.get(0x20, 8) == 0x0123FFFF_89ABCDE0 - 0x0123000000000000 + 0x0123000000000000
    driver.rig.function.store(0, 0x23, 1, 0x11)
    assert driver.rig.function.load(0, 0x21, 4) == 0xFF11ABCD
    driver.rig.function.store(0, 0x14, 4, 0x0002_00_03)  # the status, and which queue
    assert (driver.status, driver.get(0x15, 1), driver.get(0x16, 2)) == (3, 0, 2)
    assert driver.get(0x1E, 2) == 2
    driver.set(0x3C, 4, 0xFFFFFFFF)
    assert driver.get(0x3C, 4) == driver.rig.function.load(0, 0xFFF, 8) == 0
    driver.set(DEVICE, 8, 0)
    assert driver.get(DEVICE, 8) == 2048


def test_queues(driver: Driver) -> None:
    driver.negotiate()
    driver.set(0x16, 2, 1)
    for size, taken in ((128, 128), (0, 128), (512, 128), (100, 128), (1, 1), (256, 256)):
        driver.set(0x18, 2, size)
        assert driver.get(0x18, 2) == taken
    driver.set(0x20, 8, 0x1000)
    driver.set(0x28, 8, 0x2000)
    driver.set(0x30, 8, 0x3000)
    driver.set(0x1C, 2, 2)
    assert driver.get(0x1C, 2) == 0
    driver.set(0x1C, 2, 1)
    assert driver.get(0x1C, 2) == 1
    for offset, size in ((0x18, 2), (0x1C, 2), (0x20, 8), (0x28, 8), (0x30, 8), (0x1E, 2)):
        before = driver.get(offset, size)
        driver.set(offset, size, 0)
        assert driver.get(offset, size) == before, "it is enabled"
    driver.set(0x16, 2, 4)
    assert [driver.get(at, 2) for at in (0x18, 0x1C, 0x1E)] == [0, 0, 0], "there is no queue 4"
    driver.set(0x18, 2, 16)
    driver.set(0x1C, 2, 1)
    assert [driver.get(at, 2) for at in (0x18, 0x1C)] == [0, 0]
    driver.set(0x16, 2, 1)
    assert driver.get(0x1C, 2) == 1
    driver.set(STATUS, 1, 0)
    driver.set(0x16, 2, 1)
    assert [driver.get(at, 2) for at in (0x18, 0x1A, 0x1C)] == [256, NO_VECTOR, 0]
    assert driver.get(0x20, 8) == 0


def test_a_packed_ring_may_have_any_size() -> None:
    driver = Driver(PACKED)
    driver.negotiate()
    for size, taken in ((100, 100), (257, 100), (0, 100), (3, 3)):
        driver.set(0x18, 2, size)
        assert driver.get(0x18, 2) == taken


def test_vectors(driver: Driver) -> None:
    for register in (0x10, 0x1A):
        for vector, taken in ((4, 4), (5, NO_VECTOR), (0, 0), (NO_VECTOR, NO_VECTOR)):
            driver.set(register, 2, vector)
            assert driver.get(register, 2) == taken


def test_each_queue_has_its_interrupt() -> None:
    driver = Driver(uses=4)
    for queue in range(4):
        assert driver.ask(IN, room=512, queue=queue).status == 0
        assert [driver.interrupts(each) for each in range(4)] == [int(each == queue) for each in range(4)]
    assert driver.get(ISR, 1) == 0, "with MSI-X, nobody asks it"
    driver.set(0x16, 2, 2)
    driver.set(0x1A, 2, NO_VECTOR)
    assert driver.ask(IN, room=512, queue=2).status == 0
    driver.set(0x1A, 2, 1)
    assert driver.ask(IN, room=512, queue=2).status == 0
    assert [driver.interrupts(each) for each in range(4)] == [1, 0, 0, 0]


def test_without_msix_there_is_intx() -> None:
    driver = Driver(msix=False)
    rig = driver.rig
    rig.eventfds(v.VFIO_PCI_INTX_IRQ_INDEX, 0, 10)
    driver.ask(IN, room=512)
    assert raised(rig)
    assert rig.table[10].take() == 1
    assert driver.get(ISR, 1) == 1
    assert not raised(rig)
    assert driver.get(ISR, 1) == 0
    driver.ask(IN, room=512)
    assert raised(rig)
    driver.set(STATUS, 1, 0)
    assert not raised(rig)
    assert driver.get(ISR, 1) == 0


def raised(rig: Rig) -> bool:
    """INTx, by itself and as the status register has it."""
    assert rig.function.intx_pending == bool(rig.config_read(r.PCI_STATUS, 2) & r.PCI_STATUS_INTERRUPT)
    return rig.function.intx_pending


def kind_of(rig: Rig, number: int, at: int) -> int:
    """Of a vendor's capability; of another 0."""
    return rig.config_read(at + 3, 1) if number == r.PCI_CAP_ID_VNDR else 0


def test_all_registers_can_be_reached_by_configuration_cycles(driver: Driver) -> None:
    rig = driver.rig
    (window,) = (at for number, at in capabilities(rig) if kind_of(rig, number, at) == 5)

    def aim(offset: int, length: int, bar: int = 0) -> None:
        rig.config_write(window + 4, 1, bar)
        rig.config_write(window + 8, 4, offset)
        rig.config_write(window + 12, 4, length)

    aim(STATUS, 1)
    assert rig.config_read(window + 16, 1) == 15
    aim(DEVICE, 4)
    assert rig.config_read(window + 16, 4) == 2048
    assert rig.config_read(window + 18, 2) == 0
    aim(0x16, 2)
    rig.config_write(window + 16, 2, 3)
    assert driver.get(0x16, 2) == 3
    aim(STATUS, 1)
    rig.config_write(window + 16, 4, 0)
    assert driver.status == 0
    driver.start()
    number = driver.send(IN, room=512)
    aim(NOTIFY, 2)
    rig.config_write(window + 16, 2, 0)
    assert driver.collect()[number].status == 0
    aim(0x4000, 4)
    assert rig.config_read(window + 16, 4) == 0xFEE00000, "MSI-X's table too"
    for offset, length, bar in (
        (0, 4, 1),
        (0x8000, 4, 0),
        (0xFFFFFFFC, 4, 0),
        (1, 4, 0),
        (0, 3, 0),
        (0, 0, 0),
        (0, 8, 0),
    ):
        aim(offset, length, bar)
        rig.config_write(window + 16, 4, 0x12345678)
        assert rig.config_read(window + 16, 4) == 0x12345678, "there is nothing"
    assert driver.status == 15
    rig.vfio.reset()
    assert rig.config_read(window + 16, 4) == 0
    assert rig.config_read(window + 8, 4) == 0


def test_flr_forgets_everything(driver: Driver) -> None:
    driver.set(0x10, 2, 3)
    driver.rig.vfio.reset()
    assert (driver.status, driver.get(0x10, 2), driver.get(0x1C, 2), driver.get(0x20, 8)) == (0, NO_VECTOR, 0, 0)
    driver.set(0x08, 4, 1)
    assert driver.get(0x0C, 4) == 0


def test_one_queue_is_reset() -> None:
    driver = Driver(FLUSH | RESET, uses=2, slow=True)
    disk = driver.disk
    assert isinstance(disk, SlowDisk)
    driver.send(OUT, 0, b"\x11" * 512)
    place, _, _ = driver.pending[0][driver.send(IN, 2, room=512)]
    other = driver.send(OUT, 1, b"\x22" * 512, queue=1)
    driver.notify(0)
    driver.notify(1)
    driver.rig.clock.step()
    driver.rig.clock.step()
    driver.memory.write(place, b"\x77" * 512)
    driver.set(0x16, 2, 0)
    driver.set(0x3A, 2, 1)
    assert [driver.get(at, 2) for at in (0x3A, 0x1C)] == [1, 0], "its request is in a thread still"
    driver.set(0x1C, 2, 1)
    assert driver.get(0x1C, 2) == 0
    driver.rig.clock.pass_()
    assert [driver.get(at, 2) for at in (0x3A, 0x1C)] == [0, 0]
    assert driver.collect() == {}
    assert driver.memory.read(place, 512) == b"\x77" * 512
    assert driver.collect(1)[other].status == 0
    assert (driver.interrupts(0), driver.interrupts(1)) == (0, 1)
    kind = type(driver.rings[0])
    driver.rings[0] = kind(driver.memory, driver.depth, False)
    driver.pending[0] = {}
    driver.enable(0)
    assert driver.ask(IN, 0, room=512).data == b"\x11" * 512
    driver.set(0x3A, 2, 2)
    assert driver.get(0x1C, 2) == 1


def test_a_queue_is_reset_only_if_that_was_agreed_on() -> None:
    driver = Driver(FLUSH)
    driver.set(0x3A, 2, 1)
    assert [driver.get(at, 2) for at in (0x3A, 0x1C)] == [0, 1]
    assert driver.ask(IN, 0, room=512).status == 0


@pytest.mark.parametrize("features", [0, DATA])
def test_only_notifications_of_queues_are_heard(features: int) -> None:
    driver = Driver(features)
    number = driver.send(GET_ID, room=20)
    for offset in (NOTIFY + 2, NOTIFY + 4, NOTIFY + 16, NOTIFY + 0xFFE, 0x0FFE, 0x2FFE, 0x6000):
        driver.set(offset, 2, 0)
    assert driver.collect() == {}
    driver.notify()
    assert driver.collect()[number].status == 0


def test_writeback_is_the_only_register_of_its_own_that_is_written() -> None:
    driver = Driver(EVERY | WCE)
    before = [driver.get(DEVICE + at, 1) for at in range(64)]
    for at in range(0, 64, 4):
        driver.set(DEVICE + at, 4, 0)
    assert [driver.get(DEVICE + at, 1) for at in range(64)] == [*before[:32], 0, *before[33:]]
    driver.set(DEVICE + 32, 1, 0xFF)
    assert driver.get(DEVICE + 32, 1) == 1
