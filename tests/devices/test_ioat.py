"""Intel's I/O DMA engine. The kernel's own driver of it, in its selftests of VFIO, asks it the same
(tests/real_clients).
"""

import struct

import pytest

from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.models import ioat
from iommud.models import ioat_descriptors as d
from iommud.models.ioat import Ioat
from iommud.pci import vfio_names as v
from tests.engine.fakes import P, map_
from tests.pci.kit import Rig

RING, BUFFERS, NOWHERE = 0x10000, 0x100000, 0x900000  # IOVAs
PAGES = 16  # of buffers
MUCH = 150  # descriptors


class Driver:
    """A ring of descriptors in one page, and a page for what the channel writes back behind it."""

    def __init__(self, mapped: bool) -> None:
        self.rig = Rig(Ioat)
        self.ioas, self.origin = self.rig.attach()
        self.origin.mapped = mapped
        map_(self.ioas, self.origin, 0, 2 * P, RING)
        map_(self.ioas, self.origin, 2 * P, PAGES * P, BUFFERS, prot=PROT_READ | PROT_WRITE)
        self.rig.master()
        self.rig.eventfds(v.VFIO_PCI_MSIX_IRQ_INDEX, 0, 10)
        self.rig.store(0, ioat.INTRCTRL, 1, 8)
        self.rig.store(0, ioat.CHANCMP, 8, RING + P)

    def put(self, index: int, source: int, destination: int, size: int, control: int = 0, following: int = 0) -> None:
        """A descriptor, which is followed by the next one unless said otherwise."""
        at = d.SIZE * index
        data = struct.pack("<IIQQQ", size, control, source, destination, following or RING + at + d.SIZE)
        self.origin.fill(at, data.ljust(d.SIZE, b"\0"))

    def begin(self, count: int, control: int = 0, chain: int = RING) -> None:
        self.rig.store(0, ioat.CHAINADDR, 8, chain)
        self.rig.store(0, ioat.CHANCTRL, 2, control)
        self.rig.store(0, ioat.DMACOUNT, 2, count)

    def begin_much(self) -> None:
        """More than is done at once: a ring of 50 descriptors, MUCH in all."""
        for index in range(50):
            self.put(index, BUFFERS, BUFFERS + 8 * P, 8 * P, following=RING if index == 49 else 0)
        self.begin(MUCH)
        assert self.status & 7 == d.ACTIVE

    def run(self, count: int, control: int = 0) -> int:
        self.begin(count, control)
        self.rig.clock.pass_()
        return self.status

    @property
    def status(self) -> int:
        return self.rig.load(0, ioat.CHANSTS, 8)

    @property
    def error(self) -> int:
        return self.rig.load(0, ioat.CHANERR, 4)

    def memory(self, iova: int, length: int) -> bytes:
        return self.rig.function.dma_read(iova, length)

    def fill(self, iova: int, data: bytes) -> None:
        self.origin.fill(2 * P + iova - BUFFERS, data)


@pytest.fixture(params=[True, False], ids=["mapped", "not_mapped"])
def driver(request: pytest.FixtureRequest) -> Driver:
    """Its memory is mapped here, where it can be copied at once; or it is not."""
    return Driver(request.param)


def test_what_it_is() -> None:
    rig = Rig(Ioat)
    assert rig.config_read(0, 4) == 0x20218086
    assert rig.config_read(8, 4) == 0x08800004
    assert rig.vfio.reset_works
    assert [rig.load(0, at, 1) for at in (ioat.CHANCNT, ioat.XFERCAP, ioat.CBVER)] == [1, 12, 0x33]
    assert rig.load(0, ioat.CHANSTS, 8) == d.HALTED
    assert rig.load(0, ioat.CHANCTRL, 2) == 0
    assert Rig(Ioat, xfercap=20).load(0, ioat.XFERCAP, 1) == 20


def test_a_later_one() -> None:
    rig = Rig(Ioat, version=ioat.ICE_LAKE)
    assert rig.config_read(0, 4) == 0x0B008086
    assert rig.load(0, ioat.CBVER, 1) == 0x34


def test_a_chain_is_copied(driver: Driver) -> None:
    for index in range(3):
        driver.fill(BUFFERS + P * index, bytes([index + 1]) * 100)
        driver.put(index, BUFFERS + P * index, BUFFERS + 0x8000 + 100 * index, 100)
    assert driver.run(3) == RING + 2 * d.SIZE | d.IDLE
    assert driver.memory(BUFFERS + 0x8000, 300) == b"\1" * 100 + b"\2" * 100 + b"\3" * 100
    assert driver.rig.table[10].take() == 0


def test_the_count_goes_on_and_wraps(driver: Driver) -> None:
    """One descriptor that follows itself, more often than 16 bits can say."""
    driver.put(0, BUFFERS, BUFFERS + P, 8, following=RING)
    driver.begin(0xFFFF)
    assert driver.status == RING | d.ACTIVE
    driver.rig.clock.pass_()
    assert driver.status == RING | d.IDLE
    driver.fill(BUFFERS, b"new data")
    driver.rig.store(0, ioat.DMACOUNT, 2, 0)  # one more
    driver.rig.clock.pass_()
    assert driver.memory(BUFFERS + P, 8) == b"new data"
    driver.fill(BUFFERS, b"old data")
    driver.rig.store(0, ioat.DMACOUNT, 2, 0)  # none
    driver.rig.clock.pass_()
    assert driver.memory(BUFFERS + P, 8) == b"new data"


def test_it_is_done_when_the_store_returns(driver: Driver) -> None:
    """A driver waits for a burst by the clock, and iommud may have to wait for a processor. While
    the driver stores to a register, it waits for iommud.
    """
    for index in range(64):
        driver.put(index, BUFFERS, BUFFERS + P, P, d.WRITE_BACK)
    driver.begin(64)
    assert driver.status == RING + 63 * d.SIZE | d.IDLE
    assert int.from_bytes(driver.memory(RING + P, 8), "little") == driver.status
    assert not driver.rig.clock.waiting


def test_others_have_a_turn_and_can_add_to_the_chain(driver: Driver) -> None:
    driver.begin_much()
    driver.rig.store(0, ioat.DMACOUNT, 2, MUCH + 30)
    assert driver.status & 7 == d.ACTIVE
    driver.rig.clock.pass_()
    assert driver.status == RING + 29 * d.SIZE | d.IDLE


def test_a_chain_that_goes_back_is_read_again(driver: Driver) -> None:
    """The second descriptor copies over the first, which comes next."""
    driver.put(0, BUFFERS, BUFFERS + P, 8)
    driver.put(1, BUFFERS + 0x2000, RING, 64, following=RING)
    driver.fill(BUFFERS + 0x2000, struct.pack("<IIQQQ", 4, 0, BUFFERS + 0x3000, BUFFERS + P, RING))
    driver.fill(BUFFERS + 0x3000, b"changed!")
    driver.fill(BUFFERS, b"as it is")
    assert driver.run(3) == RING | d.IDLE
    assert driver.memory(BUFFERS + P, 8) == b"chan" + b"t is"


@pytest.mark.parametrize("size", [1, 7, 8, 50, 89, 4096])
def test_fills_with_a_pattern(driver: Driver, size: int) -> None:
    driver.put(0, int.from_bytes(b"pattern!", "little"), BUFFERS + 3, size, d.FILL << 24)
    assert driver.run(1) == RING | d.IDLE
    assert driver.memory(BUFFERS, size + 4) == b"\0\0\0" + (b"pattern!" * 512)[:size] + b"\0"


def test_the_status_is_written_where_a_descriptor_says_so(driver: Driver) -> None:
    driver.put(0, 0, 0, 0, d.NULL | d.WRITE_BACK)
    driver.put(1, 0, 0, 0, d.NULL)
    driver.begin(2)
    driver.rig.clock.pass_()
    assert int.from_bytes(driver.memory(RING + P, 8), "little") == RING | d.ACTIVE
    driver.put(2, 0, 0, 0, d.NULL | d.WRITE_BACK)
    driver.rig.store(0, ioat.DMACOUNT, 2, 3)
    driver.rig.clock.pass_()
    assert int.from_bytes(driver.memory(RING + P, 8), "little") == RING + 2 * d.SIZE | d.IDLE


def test_one_interrupt_until_it_is_armed_again(driver: Driver) -> None:
    driver.put(0, 0, 0, 0, d.NULL | d.INTERRUPT, RING)
    driver.run(2)
    assert driver.rig.table[10].take() == 1
    assert driver.rig.load(0, ioat.CHANCTRL, 2) == ioat.INTERRUPT_OFF
    driver.rig.store(0, ioat.CHANCTRL, 2, 0)
    driver.rig.store(0, ioat.DMACOUNT, 2, 3)
    driver.rig.clock.pass_()
    assert driver.rig.table[10].take() == 0
    driver.rig.store(0, ioat.CHANCTRL, 2, 1)
    driver.rig.store(0, ioat.DMACOUNT, 2, 4)
    driver.rig.clock.pass_()
    assert driver.rig.table[10].take() == 1


def test_an_interrupt_in_the_middle(driver: Driver) -> None:
    for index in range(3):
        driver.put(index, BUFFERS, BUFFERS + P, 8, d.INTERRUPT if index == 1 else 0)
    assert driver.run(3) == RING + 2 * d.SIZE | d.IDLE
    assert driver.rig.table[10].take() == 1


def test_no_interrupt_where_they_are_off(driver: Driver) -> None:
    driver.rig.store(0, ioat.INTRCTRL, 1, 0)
    driver.put(0, 0, 0, 0, d.NULL | d.INTERRUPT)
    driver.run(1)
    assert driver.rig.table[10].take() == 0


@pytest.mark.parametrize(
    ("source", "destination", "size", "control", "error"),
    [
        (NOWHERE, BUFFERS, 8, 0, ioat.SOURCE),
        (BUFFERS, NOWHERE, 8, 0, ioat.DESTINATION),
        (0, NOWHERE, 8, d.FILL << 24, ioat.DESTINATION),
        (BUFFERS, BUFFERS + P, 8, 0x87 << 24, d.CONTROL),
        (BUFFERS, BUFFERS + P, 0, 0, d.LENGTH),
        (BUFFERS, BUFFERS + P, d.MOST + 1, 0, d.LENGTH),
    ],
)
def test_an_error_halts_the_channel(
    driver: Driver, source: int, destination: int, size: int, control: int, error: int
) -> None:
    driver.put(0, BUFFERS, BUFFERS + P, 8)
    driver.put(1, source, destination, size, control)
    assert driver.run(3) == RING | d.HALTED, "the last that was done is told"
    assert (driver.error, driver.rig.table[10].take()) == (error, 0)
    driver.rig.store(0, ioat.DMACOUNT, 2, 5)
    driver.rig.clock.pass_()
    assert driver.status == RING | d.HALTED
    driver.rig.store(0, ioat.CHANERR, 4, error)
    driver.rig.store(0, ioat.CHANCMD, 1, ioat.RESET)
    assert (driver.error, driver.status, driver.rig.load(0, ioat.CHANCMD, 1)) == (0, d.HALTED, 0)
    driver.put(0, BUFFERS, BUFFERS + P, 8)
    assert driver.run(1) == d.ACTIVE, "the first one takes a while"
    driver.rig.clock.pass_(ioat.RECOVERY)
    assert driver.status == RING | d.IDLE
    assert driver.run(1) == RING | d.IDLE


def test_chains_that_lead_nowhere(driver: Driver) -> None:
    for chain, error in ((NOWHERE, ioat.DESCRIPTOR), (RING + 8, ioat.CHAIN_ADDRESS)):
        driver.begin(1, chain=chain)
        driver.rig.clock.pass_(ioat.RECOVERY)
        assert (driver.status, driver.error) == (d.HALTED, error)
        driver.rig.store(0, ioat.CHANERR, 4, error)
    driver.put(0, BUFFERS, BUFFERS + P, 8, following=RING + 72)
    driver.begin(2)
    driver.rig.clock.pass_(ioat.RECOVERY)
    assert (driver.status, driver.error) == (RING | d.HALTED, ioat.NEXT_ALIGNMENT)


def test_an_error_is_told_as_it_was_asked_for(driver: Driver) -> None:
    driver.put(0, NOWHERE, BUFFERS, 8)
    driver.run(1, ioat.ERROR_COMPLETION | ioat.ERROR_INTERRUPT)
    assert int.from_bytes(driver.memory(RING + P, 8), "little") == d.HALTED
    assert driver.rig.table[10].take() == 1


def test_a_status_that_cannot_be_written_halts_it(driver: Driver) -> None:
    driver.rig.store(0, ioat.CHANCMP, 8, NOWHERE)
    driver.put(0, 0, 0, 0, d.NULL | d.WRITE_BACK)
    driver.run(1, ioat.ERROR_COMPLETION)
    assert (driver.status & 7, driver.error) == (d.HALTED, ioat.COMPLETION)
    driver.put(0, NOWHERE, BUFFERS, 8)
    driver.begin(1, ioat.ERROR_COMPLETION)
    driver.rig.clock.pass_(ioat.RECOVERY)
    assert driver.error == ioat.COMPLETION | ioat.SOURCE


def test_suspend_and_resume(driver: Driver) -> None:
    driver.begin_much()
    driver.rig.store(0, ioat.CHANCMD, 1, ioat.SUSPEND)
    stopped = driver.status
    assert stopped & 7 == d.SUSPENDED
    driver.rig.clock.pass_()
    assert driver.status == stopped
    driver.rig.store(0, ioat.CHANCMD, 1, ioat.RESUME)
    driver.rig.clock.pass_()
    assert driver.status == RING + 49 * d.SIZE | d.IDLE
    driver.rig.store(0, ioat.CHANCMD, 1, ioat.SUSPEND)
    assert driver.status & 7 == d.SUSPENDED
    driver.rig.store(0, ioat.CHAINADDR, 8, RING)
    assert driver.status == d.ARMED


def test_a_new_chain_in_the_middle_of_one(driver: Driver) -> None:
    driver.begin_much()
    assert driver.run(1) == RING | d.IDLE


def test_accesses_that_lie_within_no_register_are_dropped(driver: Driver) -> None:
    before = driver.status
    driver.rig.store(0, ioat.CHANCTRL, 4, 0xFFFFFFFF)
    driver.rig.store(0, ioat.CHANSTS, 8, 0)
    driver.rig.store(0, ioat.CBVER, 1, 0x32)
    assert (driver.rig.load(0, ioat.CHANCTRL, 2), driver.status, driver.rig.load(0, ioat.CBVER, 1)) == (0, before, 0x33)
    driver.rig.store(0, ioat.CHAINADDR + 4, 4, 1)
    driver.rig.store(0, ioat.CHAINADDR, 4, 0x40)
    assert driver.rig.load(0, ioat.CHAINADDR, 8) == 0x1_0000_0040


def test_a_reset_forgets_everything(driver: Driver) -> None:
    driver.put(0, BUFFERS, BUFFERS + P, 8)
    driver.begin(1)
    driver.rig.vfio.reset()
    driver.rig.clock.pass_()
    assert driver.status == d.HALTED
    assert driver.rig.load(0, ioat.CHAINADDR, 8) == driver.rig.load(0, ioat.INTRCTRL, 1) == 0
