"""VFIO's own container: what its C clients cannot bring about on a real kernel with two edus: other
IOMMUs, devices that come and go, limits that somebody set, and what is left of a failure.

Ref: v7.3 drivers/vfio/container.c, vfio_iommu_type1.c
"""

from collections.abc import Iterator
from errno import EBUSY, EINVAL, EMFILE, ENODEV, ENOSPC, EPERM

import pytest

from cuse_glue.request import inline
from iommud.engine.device.model import Region
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError
from iommud.ops.vfio import TYPE1, TYPE1V2
from iommud.pci.address import Address
from iommud.pci.function import Slot
from iommud.pci.sysfs import boolean
from iommud.pci.type1 import Parameters
from iommud.uapi.header import const
from iommud.vfio.device import VfioDevice
from iommud.vfio.group import VfioGroup
from iommud.vfio.type1.container import Container
from iommud.vfio.type1.dma import Dma, Dmas
from iommud.vfio.type1.ioctls import dispatch
from iommud.vfio.type1.usable import Usable
from tests.engine.fakes import FakeOrigin, errno_of
from tests.ops.client import AT
from tests.ops.twins import PAGE

from .kit import OTHER, Machine

CONTAINER = 6  # a descriptor of the caller's
VA = 0x7000_0000
BOTH = const("VFIO_DMA_MAP_FLAG_READ") | const("VFIO_DMA_MAP_FLAG_WRITE")
MSI = Region(0xFEE00000, 0xFEEFFFFF)
HYPERTRANSPORT = 0xFD00000000  # what AMD's IOMMU keeps from here on


@pytest.fixture
def container(machine: Machine) -> Iterator[Container]:
    made = machine.outside.containers[CONTAINER] = Container(machine.client.host, Parameters())
    yield made
    made.close()


def device(machine: Machine, number: int, group: str, *, iommu: str = "vtd") -> VfioDevice:
    return machine.device(slot=Slot(Address(device=number), scheduler=machine.clock, group=group), iommu=iommu)


def is_placed(found: VfioDevice) -> bool:
    """Whether it is in a container with a driver."""
    return found.plugged.function.device is not None


async def put_in(machine: Machine, found: VfioDevice) -> VfioGroup:
    """Its group, opened and in the container."""
    group = machine.group(found)
    assert await machine.set_container(group, CONTAINER) == 0
    return group


async def ask(machine: Machine, container: Container, name: str, *words: tuple[int, int]) -> int:
    """An ioctl whose struct is these (value, bytes); its result, or -errno."""
    machine.client.memory.map(AT, b"".join(value.to_bytes(size, "little") for value, size in words))
    handler = dispatch(container, machine.client.caller, machine.outside, const(name), AT)
    try:
        finished, result = inline.start(handler)
        return int(result if finished else await inline.finish(handler))
    except IoctlError as refusal:
        return -refusal.errno if refusal.why else -1


async def map_at(machine: Machine, container: Container, iova: int, size: int = PAGE) -> int:
    machine.client.memory.map(VA, bytes(size))
    words = (32, 4), (BOTH, 4), (VA, 8), (iova, 8), (size, 8)
    return await ask(machine, container, "VFIO_IOMMU_MAP_DMA", *words)


# --- the usable IOVAs ---


def test_usable_is_what_all_reach_and_nobody_reserves() -> None:
    usable = Usable().within(0, 0xFFFF).without([Region(0x4000, 0x4FFF), Region(0xF000, 0x1FFFF)])
    assert usable.ranges == ((0, 0x3FFF), (0x5000, 0xEFFF))
    assert usable.has(0, 0x3FFF)
    assert not usable.has(0x3FFF, 0x4000)
    assert not usable.has(0x3000, 0x5000)
    assert usable.lost(0x1000, 0xDFFF) == [(0, 0xFFF), (0xE000, 0xEFFF)]
    assert usable.lost(0, 0xEFFF) == []
    assert usable.within(0x1000, 0x3FFF).ranges == ((0x1000, 0x3FFF),)
    assert errno_of(lambda: usable.lost(0x10000, 0x20000)) == EINVAL
    assert errno_of(lambda: usable.without([Region(0, U64_MAX)])) == EINVAL
    assert Usable().has(0, U64_MAX), "without a group there is no limit"
    assert Usable().lost(5, 6) == []


def test_a_group_that_goes_gives_back_what_it_reserved_between_the_ends() -> None:
    usable = Usable().within(0, 0xFFFF).without([Region(0x4000, 0x4FFF), Region(0, 0xFFF)])
    assert usable.refreshed(None, []).ranges == ((0x1000, 0xFFFF),), "but not the start"
    assert usable.refreshed([(0, 0xFFFFF), (0x2000, U64_MAX)], []).ranges == ((0x2000, 0xFFFFF),)
    assert usable.refreshed(None, [Region(0, U64_MAX)]) is usable


def test_mappings_are_found_by_any_iova_of_theirs() -> None:
    dmas, payer = Dmas(), FakeOrigin()
    for start in 8, 0, 4:
        dmas.add(Dma(start, start + 2, payer))
    assert [dma.iova for dma in dmas] == [0, 4, 8]
    assert [dma.iova for dma in dmas.touching(2, 4)] == [0, 4]
    assert dmas.touching(3, 3) == []
    assert dmas.first(3, 3) is None
    found = dmas.first(5, 20)
    assert found is not None
    dmas.remove(found)
    assert [dma.iova for dma in dmas] == [0, 8]


# --- groups behind different IOMMUs ---


async def test_two_iommus_share_the_mappings(machine: Machine, container: Container) -> None:
    first, second = device(machine, 1, "one"), device(machine, 2, "two", iommu="amd")
    one = await put_in(machine, first)
    container.set_iommu(TYPE1V2, machine.client.caller)
    driver = container.driver
    assert driver is not None
    alone = driver.usable.ranges
    assert await map_at(machine, container, 0) == 0
    two = await put_in(machine, second)
    assert driver.usable.ranges != alone, "AMD's reserves more"
    assert await map_at(machine, container, HYPERTRANSPORT) == -EINVAL
    for found in first, second:
        data = bytearray(4)
        assert found.plugged.function.device is not None
        found.plugged.function.device.dma_read(0, memoryview(data))
    assert await machine.ask_group(two, "UNSET_CONTAINER") == 0
    assert driver.usable.ranges == alone
    assert await map_at(machine, container, HYPERTRANSPORT) == 0
    assert await machine.set_container(two, CONTAINER) == -EINVAL, "something is mapped where it reserves"
    assert await machine.status(two) == const("VFIO_GROUP_FLAGS_VIABLE")
    assert driver.usable.ranges == alone
    for group in one, two:
        group.close()
    assert not container.is_set


async def test_a_driver_that_cannot_have_all_groups_is_none(
    machine: Machine, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = device(machine, 1, "one"), device(machine, 2, "two")
    groups = [await put_in(machine, found) for found in (first, second)]
    monkeypatch.setattr(first.plugged.function, "reserved_regions", lambda: [Region(0, U64_MAX)])
    assert errno_of(lambda: container.set_iommu(TYPE1, machine.client.caller)) == EINVAL
    assert not container.is_set
    assert [is_placed(found) for found in (first, second)] == [False, False]
    assert [await machine.status(group) for group in groups] == [3, 3], "the groups stay"
    assert await machine.set_container(groups[0], OTHER) == -EINVAL
    assert [machine.client.host.is_claimed(name) for name in ("one", "two")] == [True, True]
    monkeypatch.undo()
    container.set_iommu(TYPE1, machine.client.caller)
    for group in groups:
        group.close()


# --- devices that come and go ---


async def test_a_device_that_vfio_pci_gets_is_in_the_container_too(machine: Machine, container: Container) -> None:
    first, second = device(machine, 1, "both"), device(machine, 2, "both")
    group = await put_in(machine, first)
    container.set_iommu(TYPE1V2, machine.client.caller)
    machine.groups.remove(second)
    assert not is_placed(second)
    assert machine.client.host.is_claimed("both")
    machine.groups.add(second)
    assert is_placed(second)
    assert await machine.take(group, second.plugged.name) == 0
    machine.files.pop().release()
    assert is_placed(second), "opened or not"
    for found in first, second:
        machine.groups.remove(found)
    assert not container.is_set, "with its last device the group has left"
    assert not machine.client.host.is_claimed("both")
    assert await machine.status(group) == -ENODEV
    assert await machine.ask_group(group, "UNSET_CONTAINER") == -EINVAL
    group.close()


async def test_a_device_that_cannot_come_cannot_be_opened(
    machine: Machine, container: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = device(machine, 1, "both"), device(machine, 2, "both")
    group = await put_in(machine, first)
    container.set_iommu(TYPE1V2, machine.client.caller)
    assert await map_at(machine, container, 0) == 0
    machine.groups.remove(second)
    monkeypatch.setattr(second.plugged.function, "reserved_regions", lambda: [Region(0, PAGE - 1)])
    machine.groups.add(second)
    assert await machine.take(group, second.plugged.name) == -EINVAL
    other = await put_in(machine, device(machine, 3, "another"))
    other.close()
    machine.groups.remove(first)
    assert machine.client.host.is_claimed("both"), "although none of its devices is attached"
    machine.groups.add(first)
    assert await machine.take(group, first.plugged.name) == 0
    group.close()
    assert errno_of(group.open) == EBUSY, "the device keeps it open"
    machine.files.pop().release()
    group.open()
    group.close()
    assert not container.is_set


async def test_a_device_whose_descriptor_cannot_be_given_keeps_nothing(machine: Machine, container: Container) -> None:
    found = device(machine, 1, "one")
    group = await put_in(machine, found)
    assert await machine.take(group, found.plugged.name) == -EINVAL, "without a driver"
    container.set_iommu(TYPE1V2, machine.client.caller)
    assert await machine.take(group, found.plugged.name, fails=True) == -EMFILE
    assert await machine.ask_group(group, "UNSET_CONTAINER") == 0
    assert not is_placed(found)
    group.close()


async def test_the_container_outlives_its_file(machine: Machine) -> None:
    container = machine.outside.containers[CONTAINER] = Container(machine.client.host, Parameters())
    found = device(machine, 1, "one")
    group = await put_in(machine, found)
    container.set_iommu(TYPE1V2, machine.client.caller)
    assert await map_at(machine, container, 0, 4 * PAGE) == 0
    container.close()
    assert is_placed(found)
    assert sum(machine.client.host.process_pages.values()) == 4
    group.close()
    assert not is_placed(found)
    assert machine.client.host.empty()


async def test_the_dma_of_a_group_is_one_contexts(machine: Machine, container: Container) -> None:
    first = device(machine, 1, "one")
    machine.client.host.claim("one", object())
    group = machine.group(first)
    assert await machine.set_container(group, CONTAINER) == -EPERM
    assert await machine.status(group) == 0
    machine.client.host.release("one")
    assert await machine.set_container(group, CONTAINER) == 0
    assert machine.client.host.is_claimed("one")
    assert await machine.ask_group(group, "UNSET_CONTAINER") == 0
    assert not machine.client.host.is_claimed("one")
    group.close()


# --- limits ---


async def test_so_many_mappings_as_the_module_says(machine: Machine, container: Container) -> None:
    group = await put_in(machine, device(machine, 1, "one"))
    container._parameters.set_limit("2\n")
    container.set_iommu(TYPE1V2, machine.client.caller)
    container._parameters.set_limit("0x10")
    for page in range(2):
        assert await map_at(machine, container, page * PAGE) == 0
    assert await map_at(machine, container, 2 * PAGE) == -ENOSPC
    assert await map_at(machine, container, PAGE) < -1, "EEXIST comes before"
    assert await ask(machine, container, "VFIO_IOMMU_UNMAP_DMA", (24, 4), (0, 4), (0, 8), (PAGE, 8)) == 0
    assert await map_at(machine, container, 2 * PAGE) == 0
    group.close()


@pytest.mark.parametrize("said", ["", "x", "-1", "1 2"])
def test_a_limit_is_a_number(said: str) -> None:
    assert errno_of(lambda: Parameters().set_limit(said)) == EINVAL


def test_a_switch_is_said_as_linux_takes_it() -> None:
    assert [boolean(word) for word in ("Y\n", "1", "on", "True", "N", "0", "off", "f")] == [True] * 4 + [False] * 4
    assert [errno_of(lambda: boolean(word)) for word in ("", "x", "o", "2")] == [EINVAL] * 4  # noqa: B023


async def test_a_group_that_closes_ends_a_request(machine: Machine, container: Container) -> None:
    """While it waits for a client's memory."""
    group = await put_in(machine, device(machine, 1, "one"))
    container.set_iommu(TYPE1V2, machine.client.caller)
    driver = container.driver
    assert driver is not None
    group.close()
    assert errno_of(lambda: driver.check_new(0, PAGE - 1)) == EINVAL


async def test_no_group_comes_while_a_mapping_waits_for_its_address(machine: Machine, container: Container) -> None:
    first = await put_in(machine, device(machine, 1, "one"))
    second = machine.group(device(machine, 2, "two"))
    container.set_iommu(TYPE1V2, machine.client.caller)
    assert await map_at(machine, container, 0) == 0
    vaddr = const("VFIO_DMA_UNMAP_FLAG_VADDR")
    assert await ask(machine, container, "VFIO_IOMMU_UNMAP_DMA", (24, 4), (vaddr, 4), (0, 8), (PAGE, 8)) == 0
    assert await machine.set_container(second, CONTAINER) == -EBUSY
    assert not machine.client.host.is_claimed("two")
    for group in first, second:
        group.close()
