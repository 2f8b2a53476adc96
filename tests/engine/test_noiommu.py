"""Devices without an IOMMU: physical addresses against a model that knows pages only, and what
other devices have of them.
"""

from collections.abc import Generator, Iterator
from errno import EADDRINUSE, EBUSY, EFAULT, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, EPERM

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from iommud.engine.device.device import Device, bind
from iommud.engine.device.fault import FaultQueue, PageFault
from iommud.engine.device.model import Model, Region
from iommud.engine.device.noiommu import get_phys
from iommud.engine.device.paging import alloc_paging
from iommud.engine.mapping.domain import DIRTY_TRACKING, FAULT_ID_VALID, NEST_PARENT, PASID
from iommud.engine.mapping.filling import FILL_AT_ONCE
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.split import cut
from iommud.engine.memory.area import Area
from iommud.engine.memory.dma_buf import MemoryBuf, dma_buf_slice
from iommud.engine.memory.physical import FIRST_SEGMENT, ORDINARY_BLOCK, SEGMENT
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError
from iommud.iommus.noiommu import NoIommu

from .fakes import FakeOrigin, P, attach, copy, errno_of, map_, new_hwpt, place, replace, unmap
from .world import World

HUGE = 2 << 20
TOGETHER = ORDINARY_BLOCK // P  # pages


class LoneDevice(Model):
    """It would reserve, and have PASIDs; without an IOMMU that means nothing."""

    name = "lone"
    group = None
    cache_coherent = False
    max_pasids = 16

    def reserved_regions(self) -> list[Region]:
        return [Region(0, U64_MAX)]


@pytest.fixture
def plugged() -> list[Device]:
    return []


@pytest.fixture
def world(plugged: list[Device]) -> Iterator[World]:
    world = World()
    yield world
    for device in plugged:
        device.detach_all()
        device.unbind()
    world.close()
    assert world.host.physical.used() == 0


def plug(world: World, plugged: list[Device], ioas: Ioas | None = None) -> Device:
    device = bind(world.context, LoneDevice(), NoIommu())
    plugged.append(device)
    if ioas is not None:
        attach(device, ioas)
    return device


def memory(world: World, block: int = P) -> FakeOrigin:
    origin = world.origin()
    origin.block = block
    return origin


def address(ioas: Ioas, iova: int) -> int:
    found, length = get_phys(ioas.iopt, iova, 1)
    assert length == 1
    return found


# --- the model ---


class Addresses(RuleBasedStateMachine):
    """The model: one address for each page, from when it is told until nothing of its memory is
    shown; a run goes on from page to page.
    """

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.ioases = [self.world.ioas(), self.world.ioas()]
        self.devices: dict[int, Device] = {}  # by which IOAS
        self.outside: list[Device] = [bind(self.world.context, LoneDevice(), NoIommu())]
        self.origins = [memory(self.world), memory(self.world, HUGE), self.world.origin()]
        self.told: dict[tuple[int, int], int] = {}  # (origin, page) -> address

    def teardown(self) -> None:
        for device in [*self.devices.values(), *self.outside]:
            device.detach_all()
            device.unbind()
        assert len(self.world.host.physical) == 0
        self.world.close()

    # what there is

    def areas(self, which: int) -> list[Area]:
        return list(self.ioases[which].iopt.areas)

    def page_of(self, area: Area, iova: int) -> tuple[int, int]:
        assert area.pages is not None
        assert isinstance(area.pages.origin, FakeOrigin)
        return self.origins.index(area.pages.origin), (area.pages.start + area.start_byte + iova - area.iova) // P

    def memory_of(self, page: tuple[int, int]) -> tuple[int, int]:
        return page if not self.origins[page[0]].block else (page[0], 0)

    # what is done

    @rule(
        which=st.integers(0, 1),
        origin=st.integers(0, 2),
        first=st.integers(0, 40),
        count=st.integers(1, 12),
        at=st.integers(0, 60),
    )
    def map(self, which: int, origin: int, first: int, count: int, at: int) -> None:
        far = (SEGMENT // P - 20) if origin == 1 else 0  # across the end of a GiB
        errno_of(lambda: map_(self.ioases[which], self.origins[origin], (far + first) * P, count * P, at * P))

    @rule(which=st.integers(0, 1), at=st.integers(0, 200))
    def unmap(self, which: int, at: int) -> None:
        if areas := self.areas(which):
            area = areas[at % len(areas)]
            unmap(self.ioases[which], area.iova, area.length)

    @rule(which=st.integers(0, 1), at=st.integers(0, 200), to=st.integers(0, 60))
    def copy(self, which: int, at: int, to: int) -> None:
        if areas := self.areas(which):
            area = areas[at % len(areas)]
            errno_of(lambda: copy(self.ioases[which], area.iova, area.length, self.ioases[1 - which], to * P))

    @rule(which=st.integers(0, 1))
    def plug(self, which: int) -> None:
        if which in self.devices:
            self.devices[which].detach()
            self.devices.pop(which).unbind()
        else:
            self.devices[which] = bind(self.world.context, LoneDevice(), NoIommu())
            attach(self.devices[which], self.ioases[which])

    # what is asked

    @rule(
        which=st.integers(0, 1),
        iova=st.integers(0, 75 * P),
        most=st.sampled_from([1, P, P + 1, 5 * P - 3, 80 * P, 1 << 63]),
    )
    def ask(self, which: int, iova: int, most: int) -> None:
        ioas = self.ioases[which]
        area = ioas.iopt.areas.first(iova, iova)
        if area is None or which not in self.devices:
            wanted = ENOENT if area is None else EOPNOTSUPP
            assert errno_of(lambda: get_phys(ioas.iopt, iova, most)) == wanted
            return
        found, length = get_phys(ioas.iopt, iova, most)
        frames = []
        for at in range(iova - iova % P, area.last, P):
            frames.append(address(ioas, at))
            page = self.page_of(area, at)
            assert self.told.setdefault(page, frames[-1]) == frames[-1]
            if len(frames) > 1 and frames[-1] != frames[-2] + P:
                frames.pop()
                break
        assert found == frames[0] + iova % P
        assert length == min(len(frames) * P - iova % P, most)

    @precondition(lambda self: self.told)
    @rule(which=st.integers(0, 1), iova=st.integers(0, 75 * P), data=st.binary(min_size=1, max_size=100))
    def write(self, which: int, iova: int, data: bytes) -> None:
        ioas = self.ioases[which]
        area = ioas.iopt.areas.first(iova, iova)
        if area is None or which not in self.devices:
            return
        found, length = get_phys(ioas.iopt, iova, len(data))
        self.outside[0].dma_write(found, memoryview(data[:length]))
        origin, _ = self.page_of(area, iova)
        assert area.pages is not None
        at = area.pages.start + area.start_byte + iova - area.iova
        assert self.origins[origin].read(at, length) == data[:length]
        self.outside[0].dma_read(found, seen := memoryview(bytearray(length)))
        assert bytes(seen) == data[:length]

    # what holds

    @invariant()
    def addresses_go_with_their_memory(self) -> None:
        shown = set()
        for which in self.devices:
            for area in self.areas(which):
                shown |= {self.memory_of(self.page_of(area, at)) for at in range(area.iova, area.last, P)}
        for page in [page for page in self.told if self.memory_of(page) not in shown]:
            assert errno_of(lambda at=self.told[page]: self.outside[0].dma_read(at, memoryview(bytearray(1)))) == ENOENT  # type: ignore[misc]
            del self.told[page]
        assert (len(self.world.host.physical) > 0) == bool(shown)
        assert shown or self.world.host.physical.used() == 0

    @invariant()
    def pages_have_each_their_own(self) -> None:
        assert len(set(self.told.values())) == len(self.told)
        assert all(at % P == 0 and at >= FIRST_SEGMENT * SEGMENT for at in self.told.values())

    @invariant()
    def blocks_lie_together(self) -> None:
        blocks: dict[tuple[int, int], int] = {}
        for (origin, page), at in self.told.items():
            per_block = max(self.origins[origin].block or P, ORDINARY_BLOCK) // P
            if self.origins[origin].block:
                assert (
                    blocks.setdefault((origin, page // per_block), at - page % per_block * P)
                    == at - page % per_block * P
                )
                assert (at - page % per_block * P) % (per_block * P) == 0


TestAddresses = Addresses.TestCase


# --- one by one ---


def test_what_lies_together_is_a_block_and_no_more(world: World, plugged: list[Device]) -> None:
    ioas = world.ioas()
    plug(world, plugged, ioas)
    map_(ioas, memory(world), 2 * P, 64 * P, 0)
    lengths, at = [], 0
    while at < 64 * P:
        lengths.append(get_phys(ioas.iopt, at, 1 << 40)[1] // P)
        at += lengths[-1] * P
    assert lengths == [TOGETHER - 2] + [TOGETHER] * 15 + [2]


@pytest.mark.parametrize("block", [HUGE, SEGMENT])
def test_a_huge_page_lies_together(world: World, plugged: list[Device], block: int) -> None:
    ioas, origin = world.ioas(), memory(world, block)
    plug(world, plugged, ioas)
    map_(ioas, origin, block - 3 * P, 6 * P, 0)
    before, after = get_phys(ioas.iopt, 0, 1 << 40), get_phys(ioas.iopt, 3 * P, 1 << 40)
    assert (before[0] + 3 * P) % block == 0
    assert after[0] % block == 0
    assert after[1] == 3 * P
    assert before[1] == (3 * P if block == HUGE else 6 * P)


def test_areas_end_a_run(world: World, plugged: list[Device]) -> None:
    ioas, origin = world.ioas(), memory(world, HUGE)
    plug(world, plugged, ioas)
    map_(ioas, origin, 0, P, 0)
    map_(ioas, origin, P, P, P)
    assert address(ioas, P) == address(ioas, 0) + P
    assert get_phys(ioas.iopt, 5, 1 << 40) == (address(ioas, 0) + 5, P - 5)


def test_the_first_page_table_counts(world: World, plugged: list[Device]) -> None:
    """And the last takes the place of one that goes, as in Linux."""
    ioas, device, other = world.ioas(), plug(world, plugged), world.device()
    map_(ioas, memory(world), 0, P, 0)
    objects = world.context.objects

    def known() -> int:
        return errno_of(lambda: address(ioas, 0))

    assert known() == EOPNOTSUPP
    first, second, third = new_hwpt(other, ioas), new_hwpt(device, ioas), new_hwpt(other, ioas)
    assert known() == EOPNOTSUPP
    objects.remove(first.id)
    assert known() == EOPNOTSUPP  # the third took its place
    objects.remove(third.id)
    assert known() == 0
    third, fourth = new_hwpt(other, ioas), new_hwpt(device, ioas)
    objects.remove(second.id)
    assert known() == 0  # the fourth did
    objects.remove(third.id)
    assert known() == 0
    objects.remove(fourth.id)
    assert known() == EOPNOTSUPP
    assert len(world.host.physical) == 0


def test_it_shares_nothing(world: World, plugged: list[Device]) -> None:
    """Each is a group of its own, which belongs to nobody: no other context is kept off."""
    ioas, other_context = world.ioas(), world.new_context()
    one, two = plug(world, plugged, ioas), plug(world, plugged, ioas)
    three = bind(other_context, one.model, one.iommu)
    assert one.group is not two.group
    assert len(ioas.hwpts) == 1
    replace(one, new_hwpt(one, ioas))
    first: object = ioas.hwpts[0]
    assert two.group.hwpt is first
    assert errno_of(lambda: attach(one, ioas)) in (EBUSY, EINVAL)
    three.unbind()


def test_it_takes_any_page_table(world: World, plugged: list[Device]) -> None:
    ioas, other_ioas, origin = world.ioas(), world.ioas(), memory(world)
    device = plug(world, plugged)
    other = world.device(max_pasids=16, aperture=(0, 1 << 20))
    map_(ioas, origin, 0, P, 0)
    hwpt = attach(other, ioas)
    assert attach(device, ioas) == hwpt
    assert errno_of(lambda: address(ioas, 0)) == EOPNOTSUPP
    replace(device, mine := new_hwpt(device, ioas))
    for pasid in (0, 3):
        assert errno_of(lambda pasid=pasid: attach(world.device(max_pasids=16), mine, pasid)) == EINVAL  # type: ignore[misc]
    assert errno_of(lambda: replace(other, mine)) == ENODEV
    replace(device, other_ioas)
    assert errno_of(lambda: replace(other, other_ioas)) == ENODEV  # the automatic one that is there
    assert other.group.hwpt is not None
    assert other.group.hwpt.id == hwpt
    device.detach()
    pasid_table = new_hwpt(other, ioas, PASID)
    attach(device, pasid_table, 5)
    assert errno_of(lambda: attach(device, ioas)) == EINVAL
    attach(device, pasid_table)


def test_what_a_page_table_of_it_cannot(world: World, plugged: list[Device]) -> None:
    ioas, device = world.ioas(), plug(world, plugged)
    before = world.snapshot()
    for flags in (NEST_PARENT, DIRTY_TRACKING, PASID, PASID | FAULT_ID_VALID):
        assert errno_of(lambda flags=flags: new_hwpt(device, ioas, flags)) == EOPNOTSUPP  # type: ignore[misc]
    assert world.snapshot() == before
    assert errno_of(lambda: device.iommu.hw_info(0)) == EOPNOTSUPP
    assert list(ioas.iopt.usable()) == [(0, (1 << 64) - 1)]


def test_it_has_no_page_faults(world: World, plugged: list[Device]) -> None:
    ioas, device = world.ioas(), plug(world, plugged)
    hwpt = new_hwpt(device, ioas)
    queue = FaultQueue()
    world.context.objects.reserve(queue)
    world.context.objects.publish(queue)
    hwpt.set_fault(queue)
    attach(device, hwpt)
    answers: list[int] = []
    assert errno_of(lambda: device.report_fault(PageFault(0, 0, 0, 0), answers.append)) == EINVAL
    assert len(answers) == 1


def test_its_dma_is_never_blocked_and_obeys_how_memory_was_mapped(world: World, plugged: list[Device]) -> None:
    ioas, origin, device = world.ioas(), memory(world), plug(world, plugged)
    new_hwpt(device, ioas)
    map_(ioas, origin, 0, 2 * P, 0, prot=PROT_READ)
    map_(ioas, origin, 2 * P, P, 2 * P, prot=PROT_WRITE)
    origin.fill(P - 2, b"abcd")
    first, third = address(ioas, 0), address(ioas, 2 * P)
    device.dma_read(first + P - 2, seen := memoryview(bytearray(4)))  # in one block, across pages
    assert bytes(seen) == b"abcd"
    assert errno_of(lambda: device.dma_write(first, memoryview(b"x"))) == EPERM
    device.dma_write(third + 5, memoryview(b"xyz"))
    assert origin.read(2 * P + 5, 3) == b"xyz"
    assert errno_of(lambda: device.dma_read(third, memoryview(bytearray(1)))) == EPERM
    # Mapped once more for both, in another context, it is the same page.
    other = world.ioas(world.new_context())
    map_(other, origin, 2 * P, P, 0)
    # which no page table shows yet
    assert errno_of(lambda: device.dma_read(third, memoryview(bytearray(1)))) == EPERM
    elsewhere = bind(world.contexts[1], LoneDevice(), NoIommu())
    attach(elsewhere, other)
    assert address(other, 0) == third
    device.dma_read(third + 5, seen)
    assert bytes(seen[:3]) == b"xyz"
    elsewhere.detach()
    elsewhere.unbind()
    # What came before a fault has happened.
    far = address(ioas, 2 * P) + P
    assert errno_of(lambda: device.dma_write(far - 2, memoryview(b"1234"))) == ENOENT
    assert origin.read(3 * P - 2, 2) == b"12"
    origin.lost = True
    assert errno_of(lambda: device.dma_read(first, memoryview(bytearray(1)))) == EFAULT
    origin.lost = False


def test_its_dma_ends_with_what_lies_together(world: World, plugged: list[Device]) -> None:
    ioas, origin, device = world.ioas(), memory(world), plug(world, plugged)
    attach(device, ioas)
    map_(ioas, origin, 0, 8 * P, 0)
    assert errno_of(lambda: device.dma_write(address(ioas, 4 * P) - 1, memoryview(b"ab"))) == ENOENT
    assert errno_of(lambda: device.dma_write(address(ioas, 4 * P - 1), memoryview(b"ab"))) == ENOENT
    assert origin.read(4 * P - 1, 2) == b"a\0"


def test_what_is_held_beyond_the_area_is_not_shown(world: World, plugged: list[Device]) -> None:
    ioas, other, origin, device = world.ioas(), world.ioas(), memory(world), plug(world, plugged)
    map_(other, origin, 0, 8 * P, 0)
    attach(world.device(), other)
    attach(device, ioas)
    copy(other, P, 2 * P, ioas, 0)
    first, length = get_phys(ioas.iopt, 0, 1 << 40)
    assert length == 2 * P
    device.dma_write(first, memoryview(bytes(2 * P)))
    for beyond in first - 1, first + 2 * P:
        assert errno_of(lambda beyond=beyond: device.dma_write(beyond, memoryview(b"x"))) == ENOENT  # type: ignore[misc]


def test_halves_of_an_area_lie_where_it_lay(world: World, plugged: list[Device]) -> None:
    ioas, origin = world.ioas(), memory(world)
    ioas.iopt.disable_large_pages()
    device = plug(world, plugged, ioas)
    map_(ioas, origin, 0, 8 * P, 0)
    before = [address(ioas, at * P) for at in range(8)]
    cut(ioas.iopt, [3 * P - 1])
    assert [address(ioas, at * P) for at in range(8)] == before
    unmap(ioas, 0, 3 * P)
    assert errno_of(lambda: device.dma_read(before[2], memoryview(bytearray(1)))) == ENOENT
    device.dma_read(before[3], memoryview(bytearray(1)))


def test_a_dma_buf(world: World, plugged: list[Device]) -> None:
    ioas, buffer = world.ioas(), MemoryBuf(64 * P)
    device = plug(world, plugged, ioas)
    place(ioas, [dma_buf_slice(buffer, 0, 64 * P, writable=True)], 0)
    found, length = get_phys(ioas.iopt, 0, 1 << 40)
    assert length == 64 * P
    device.dma_write(found + 60 * P, memoryview(b"there"))
    assert bytes(buffer.memory[60 * P : 60 * P + 5]) == b"there"
    buffer.revoke(True)
    assert errno_of(lambda: address(ioas, 0)) == EINVAL
    assert errno_of(lambda: device.dma_read(found, memoryview(bytearray(1)))) == ENOENT
    unmap(ioas, 0, 64 * P)


def test_what_cannot_be_shown(world: World, plugged: list[Device]) -> None:
    """No page table of any kind shows memory that may be neither read nor written; VFIO lets one
    map it while there is none.
    """
    ioas, origin, device = world.ioas(), memory(world), plug(world, plugged)
    map_(ioas, origin, 0, P, 0, prot=0)
    for other in (device, world.device()):
        before = world.snapshot()
        assert errno_of(lambda other=other: attach(other, ioas)) == EINVAL  # type: ignore[misc]
        assert world.snapshot() == before
    unmap(ioas, 0, P)
    attach(device, ioas)
    assert errno_of(lambda: map_(ioas, origin, 0, P, 0, prot=0)) == EINVAL
    map_(ioas, origin, 0, P, 1 << 40)
    assert errno_of(lambda: attach(world.device(aperture=(0, 1 << 20)), ioas)) == EADDRINUSE


@pytest.mark.parametrize("beside", [False, True])
def test_a_filling_that_is_given_up_leaves_nothing(world: World, plugged: list[Device], beside: bool) -> None:
    ioas, origin, device = world.ioas(), memory(world), plug(world, plugged)
    for at in range(2 * FILL_AT_ONCE):
        map_(ioas, origin, at * P, P, 2 * at * P)
    if beside:
        attach(world.device(), ioas)
    before = world.snapshot()
    steps: Generator[None, None, object] = (
        alloc_paging(world.context.objects, ioas, device) if beside else device.attach(ioas.id)
    )
    next(steps)
    assert len(world.host.physical) == FILL_AT_ONCE
    with pytest.raises(IoctlError):
        steps.throw(IoctlError(EFAULT, "given up"))
    assert len(world.host.physical) == 0
    assert world.snapshot() == before


def test_all_of_the_ram_is_given_out(world: World, plugged: list[Device], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iommud.engine.memory.physical.SEGMENTS", FIRST_SEGMENT + 2)
    ioas = world.ioas()
    plug(world, plugged, ioas)
    for at in range(3):
        map_(ioas, memory(world), 0, P, at * P)
    first, second = address(ioas, 0), address(ioas, P)
    assert errno_of(lambda: address(ioas, 2 * P)) != 0
    unmap(ioas, 0, P)
    assert address(ioas, 2 * P) == first
    assert address(ioas, P) == second
