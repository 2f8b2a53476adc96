"""What a model is given: DMA, interrupts, time; and what it may declare."""

from errno import EINVAL
from itertools import pairwise
from typing import Any

import pytest

from iommud.engine.mapping.io_pagetable import PROT_READ
from iommud.iommus.plain import PlainIommu
from iommud.pci import registers as r
from iommud.pci.address import Address
from iommud.pci.bars import Bar, Windows
from iommud.pci.capabilities import Express, Extended, Msi, Msix, Pm, Raw, Vendor, serial_number
from iommud.pci.function import DmaFault, PciFunction, Slot
from iommud.pci.host import Host
from tests.engine.fakes import P, errno_of, map_
from tests.engine.world import World

from .kit import Clock, Modern, Plain, Rig


def test_dma_goes_through_the_page_table_that_the_client_attached() -> None:
    rig = Rig()
    ioas, origin = rig.attach()
    map_(ioas, origin, 0, P, 0x10_0000)
    map_(ioas, origin, P, P, 0x20_0000, prot=PROT_READ)
    rig.master()
    origin.fill(0, b"memory")
    function = rig.function
    assert function.dma_read(0x10_0000, 6) == b"memory"
    function.dma_write(0x10_0100, b"written")
    assert origin.read(0x100, 7) == b"written"
    with pytest.raises(DmaFault, match=r"plain at 0000:e0:00\.0: DMA write to 0x200000, 1 bytes: EPERM"):
        function.dma_write(0x20_0000, b"x")
    with pytest.raises(DmaFault, match="ENOENT") as fault:
        function.dma_read(0x10_0FFD, 6)
    assert len(fault.value.data) == 6
    assert function.device is not None
    function.unbind()
    with pytest.raises(DmaFault, match="it is bound to no /dev/iommu"):
        function.dma_read(0x10_0000, 1)


def test_dma_needs_a_bus_master_and_power() -> None:
    rig = Rig()
    ioas, origin = rig.attach()
    map_(ioas, origin, 0, P, 0)
    said: list[str] = []
    rig.function.why = said.append
    with pytest.raises(DmaFault, match="bus mastering is off"):
        rig.function.dma_read(0, 1)
    rig.master()
    rig.config_write(0x44, 2, 1)
    with pytest.raises(DmaFault, match="it is in D1"):
        rig.function.dma_write(0, b"1")
    assert [line.split(": ")[2] for line in said] == ["bus mastering is off in its command register", "it is in D1"]


def test_nobody_answers_in_d1() -> None:
    rig = Rig()
    rig.store(1, 0, 4, 0x12345678)
    rig.config_write(0x44, 2, 1)
    assert rig.load(1, 0, 4) == 0xFFFFFFFF
    rig.store(1, 0, 4, 0)
    rig.config_write(0x44, 2, 0)
    assert rig.load(1, 0, 4) == 0x12345678


def test_a_function_that_sleeps_does_not_assert_intx() -> None:
    rig = Rig()
    rig.config_write(0x44, 2, 1)
    rig.eventfds(0, 0, 10)
    rig.function.intx(True)
    assert rig.table[10].take() == 0
    rig.config_write(0x44, 2, 0)
    assert rig.table[10].take() == 1


def test_long_dma_lets_others_have_a_turn() -> None:
    rig = Rig()
    ioas, origin = rig.attach()
    map_(ioas, origin, 0, 3 << 20, 0)
    rig.master()
    origin.fill(3 * (1 << 20) - 3, b"end")
    done: list[Any] = []

    async def copy() -> None:
        data = await rig.function.long_dma_read(0, 3 << 20)
        done.append(data[-3:])
        await rig.function.long_dma_write(0, b"!" * 100)
        done.append("written")

    rig.function.start(copy)
    turns = 0
    while rig.clock.waiting:
        rig.clock.step()
        turns += 1
    assert turns >= 4
    assert done == [b"end", "written"]
    assert origin.read(0, 3) == b"!!!"


def test_timers_and_work_end_with_a_reset() -> None:
    rig = Rig()
    happened: list[str] = []

    async def work() -> None:
        happened.append("begun")
        await rig.function.scheduler.sleep(0)
        happened.append("never")

    rig.function.after(1, lambda: happened.append("first"))
    late = rig.function.after(1, lambda: happened.append("cancelled"))
    rig.function.after(3, lambda: happened.append("too late"))
    late.cancel()
    rig.clock.pass_(1)
    assert happened == ["first"]
    rig.function.start(work)
    rig.clock.step()
    rig.vfio.reset()
    rig.clock.pass_(10)
    assert happened == ["first", "begun"]
    late.cancel()  # of what is over: nothing


def test_a_reset_lowers_intx_and_keeps_what_the_host_wrote() -> None:
    rig = Rig()
    assert isinstance(rig.function, Plain)
    rig.config_write(0x0C, 1, 0x10)
    rig.function.intx(True)
    rig.store(0, 0, 4, 0x1234)
    rig.vfio.reset()
    assert (rig.function.resets, rig.function.intx_pending, rig.load(0, 0, 4)) == (2, False, 0)
    assert rig.config_read(0x0C, 1) == 0x10
    assert rig.config_read(4, 2) == 0x0103


def test_values_have_the_size_of_the_access() -> None:
    class Wide(Plain):
        def load(self, bar: int, offset: int, size: int) -> int:
            return -1

    rig = Rig(Wide)
    assert [rig.load(0, 0, size) for size in (1, 2, 4, 8)] == [0xFF, 0xFFFF, 0xFFFFFFFF, (1 << 64) - 1]


def test_it_can_be_bound_once() -> None:
    world, function = World(), Plain(Slot())
    device = function.bind(world.context, PlainIommu())
    assert device.model is function
    function.unbind()
    function.unbind()
    assert function.device is None
    world.close()


@pytest.mark.parametrize(
    ("what", "sentence"),
    [
        ({"bars": (Bar(0, 16), Bar(0, 16))}, "BAR 0 is another one already"),
        ({"bars": (Bar(0, 16, wide=True), Bar(1, 16))}, "BAR 1 is another one already, or a half of one"),
        ({"capabilities": (Pm(), Raw(5, bytes(4), at=0x44))}, "overlaps another"),
        ({"capabilities": (Vendor(bytes(200)),)}, "does not fit into 0x40..0xff"),
        ({"capabilities": (Raw(5, bytes(4), at=0x41),)}, "does not fit"),
        ({"extended": (Extended(1, bytes(4), at=0x104),)}, "the first extended capability stands at 0x100"),
        ({"capabilities": (Msix(9, (0, 0), (1, 0)),), "bars": (Bar(0, 128),)}, "MSI-X needs 0x0 to 0x8f of BAR 0"),
        ({"capabilities": (Msix(1, (0, 0), (3, 8)),)}, "MSI-X needs 0x8 to 0xf of BAR 3"),
        ({"capabilities": (Msix(1, (2, 0), (0, 8)),)}, "of BAR 2, of memory"),
        ({"extended": (serial_number(1), Extended(1, bytes(4000)))}, "does not fit into"),
    ],
)
def test_what_does_not_fit_together(what: dict[str, Any], sentence: str) -> None:
    made = type("Bad", (Plain,), what)
    with pytest.raises(ValueError, match=sentence):
        made(Slot())


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Bar(0, 48), "a BAR is a power of two"),
        (lambda: Bar(0, 8), "a BAR is a power of two"),
        (lambda: Bar(0, 512, io=True), "a BAR is a power of two"),
        (lambda: Bar(0, 16, io=True, wide=True), "neither prefetchable nor 64 bits wide"),
        (lambda: Bar(0, 1 << 32), "needs 64 bits of address"),
        (lambda: Bar(5, 16, wide=True), "there is no BAR 5 of 64 bits"),
        (lambda: Bar(7, 16), "there is no BAR 7"),
        (lambda: Msi(vectors=3), "MSI has 1, 2, 4, 8, 16 or 32 vectors, not 3"),
        (lambda: Msix(vectors=0, table=(0, 0), pba=(0, 8)), "MSI-X has 1 to 2048 vectors"),
        (lambda: Msix(vectors=1, table=(0, 4), pba=(0, 8)), "multiples of 8"),
        (lambda: Address.parse("0000:e0:20.0"), "is not where a PCI device can be"),
    ],
)
def test_what_there_cannot_be(make: Any, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        make()


def test_windows_lie_apart_and_aligned() -> None:
    windows = Windows()
    first, second = Plain(Slot(windows=windows)), Plain(Slot(windows=windows))
    ranges = sorted(
        (resource.start, resource.last)
        for function in (first, second)
        for number, resource in function.layout.resources.items()
        if number != 2
    )
    assert all(before[1] < after[0] for before, after in pairwise(ranges))
    for function in (first, second):
        for resource in function.layout.resources.values():
            assert resource.start % resource.bar.size == 0
            assert resource.bar.io or resource.start % 4096 == 0
            assert resource.bar.wide or resource.last < 0xFEC0_0000
    assert first.config.read(0x20, 8) == first.layout.resources[4].start | 0xC


def test_there_is_only_so_much_room_below_4_gib() -> None:
    class Large(PciFunction):
        bars = (Bar(0, 1 << 28),)

    windows = Windows()
    Large(Slot(windows=windows))
    with pytest.raises(ValueError, match="make it wide"):
        Large(Slot(windows=windows))


def test_the_whole_of_a_group_has_one_name() -> None:
    assert Plain(Slot(group=3)).group == 3
    alone = Plain(Slot())
    assert alone.group is alone


def test_hardware_of_its_own_can_be_asked_for() -> None:
    class Root(Modern):
        capabilities = (Express(integrated=True), Msi(vectors=32, wide=False, maskable=True))

    function = Root(Slot())
    assert function.where[r.PCI_CAP_ID_MSI] == 0x40 + 0x2C
    assert function.config.read(0x42, 2) == 0x92
    assert function.config.size == 4096
    assert Host(function).reset_methods == ("flr",)


def test_the_clock_that_nobody_turns() -> None:
    function = Plain(Slot())
    function.after(0, lambda: pytest.fail("it has no scheduler"))
    assert function.scheduler.now() == 0
    assert Clock().waiting == 0
    assert errno_of(lambda: Host(function).choose_resets(("flr",))) == EINVAL
