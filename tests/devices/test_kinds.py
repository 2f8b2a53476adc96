"""Devices behind different IOMMUs, together in one context: what each takes of the others, and what
DMA through it does.
"""

import struct
from collections.abc import Callable, Iterator
from errno import EBUSY, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, EPERM
from itertools import permutations

import pytest

from iommud.engine.device.device import Device, bind
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.device.model import Model, Region
from iommud.engine.device.nested import HwptNested, alloc_nested
from iommud.engine.mapping.dirty_bitmap import read
from iommud.engine.mapping.domain import DIRTY_TRACKING, NEST_PARENT, PASID
from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.mapping.user_data import UserArray, UserData
from iommud.iommus.amd import EFR, EFR2
from iommud.iommus.kinds import new_iommu
from iommud.iommus.smmuv3 import IDR0, IDR1, IDR3, IDR5, Smmuv3
from iommud.iommus.vtd import CAP, DATA_VTD_S1, ECAP, VtdIommu, VtdNested
from iommud.models.null import NullDevice
from iommud.selftest.kinds import NAMES
from iommud.selftest.plug import NO_DIRTY, PASIDS, Plugged, Socket
from tests.engine.fakes import P, attach, errno_of, map_, new_hwpt, replace
from tests.engine.world import World
from tests.support import ROOT

WITH_IOMMU = sorted(set(NAMES) - {"none"})
S1 = bytes(16) + (48).to_bytes(8, "little")
Plug = Callable[..., Device]


@pytest.fixture
def world() -> Iterator[World]:
    world = World()
    yield world
    world.close()


@pytest.fixture
def plug(world: World) -> Iterator[Plug]:
    """A new device behind an IOMMU of a kind, bound, and taken out again at the end. Those of one
    kind stand behind one, or two.
    """
    devices: list[tuple[Device, Plugged]] = []
    sockets = {kind: Socket(kind) for kind in NAMES}

    def new(kind: str, flags: int = 0) -> Device:
        plugged = sockets[kind].plug(flags)
        devices.append((bind(world.context, *plugged), plugged))
        return devices[-1][0]

    yield new
    for device, plugged in devices:
        device.detach_all()
        device.unbind()
        plugged.unplug()


def nest(parent: HwptPaging, device: Device, data_type: int = DATA_VTD_S1, data: bytes = S1) -> HwptNested:
    whole = UserData(data_type, len(data), lambda offset, length: data[offset : offset + length])
    hwpt = alloc_nested(device.context.objects, parent, device, 0, whole)
    device.context.objects.publish(hwpt)
    return hwpt


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("flags", [1 << 1, 1 << 3, 1 << 31])
def test_unknown_flags_of_a_device(kind: str, flags: int) -> None:
    assert errno_of(lambda: Socket(kind).plug(flags)) == EINVAL


@pytest.mark.parametrize("kind", WITH_IOMMU)
def test_two_of_a_kind_share_a_page_table(world: World, plug: Plug, kind: str) -> None:
    ioas = world.ioas()
    assert attach(plug(kind), ioas) == attach(plug(kind, PASIDS), ioas)
    assert len(ioas.hwpts) == 1


@pytest.mark.parametrize(("kind", "other"), list(permutations(WITH_IOMMU, 2)))
def test_no_kind_takes_another_ones_page_tables(world: World, plug: Plug, kind: str, other: str) -> None:
    ioas, origin = world.ioas(), world.origin()
    mine, theirs = plug(kind), plug(other)
    hwpt = new_hwpt(theirs, ioas)
    assert errno_of(lambda: attach(mine, hwpt)) == EINVAL
    first = attach(mine, ioas)
    assert errno_of(lambda: replace(mine, hwpt)) == EINVAL
    assert mine.group.hwpt is not None
    assert mine.group.hwpt.id == first
    # The automatic one is refused in the same way, and another made: both show the same.
    assert attach(theirs, ioas) != first
    iova = max(start for start, _ in ioas.iopt.usable() if start < 1 << 31) & ~(P - 1)
    map_(ioas, origin, 0, P, iova)
    mine.dma_write(iova, memoryview(b"from one to the other"))
    theirs.dma_read(iova, seen := memoryview(bytearray(21)))
    assert bytes(seen) == b"from one to the other"


@pytest.mark.parametrize("kind", WITH_IOMMU)
def test_a_device_without_an_iommu_takes_any_page_table_and_shares_none(world: World, plug: Plug, kind: str) -> None:
    ioas, elsewhere, mine, none = world.ioas(), world.ioas(), plug(kind), plug("none")
    assert attach(none, ioas) == attach(plug("none", PASIDS | NO_DIRTY), ioas)
    hwpt = none.group.hwpt
    assert hwpt is not None
    for other in (hwpt, ioas):
        assert errno_of(lambda other=other: attach(mine, other)) == (EINVAL if other is hwpt else 0)  # type: ignore[misc]
    mine.detach()
    attach(mine, elsewhere)
    for other in (hwpt, ioas):
        assert errno_of(lambda other=other: replace(mine, other)) == ENODEV  # type: ignore[misc]
    assert replace(none, elsewhere) == mine.group.attachments[0].hwpt.id


@pytest.mark.parametrize(("kind", "other"), list(permutations(WITH_IOMMU, 2)))
def test_no_kind_nests_in_another_ones_parent(world: World, plug: Plug, kind: str, other: str) -> None:
    ioas, mine, theirs = world.ioas(), plug(kind), plug(other)
    parent = new_hwpt(theirs, ioas, NEST_PARENT)
    before = world.snapshot()
    assert errno_of(lambda: nest(parent, mine)) == (EINVAL if mine.iommu.nesting else EOPNOTSUPP)
    assert world.snapshot() == before


@pytest.mark.parametrize("kind", ["vtd", "amd", "smmuv3"])
def test_what_dma_wrote_is_told(world: World, plug: Plug, kind: str) -> None:
    ioas, origin, device = world.ioas(), world.origin(), plug(kind)
    map_(ioas, origin, 0, 16 * P, 0x10_0000)
    hwpt = new_hwpt(device, ioas, DIRTY_TRACKING)
    attach(device, hwpt)
    device.dma_write(0x10_0000, memoryview(b"before it was on"))
    assert hwpt.domain.dirty is not None
    hwpt.domain.dirty.enable(True)
    device.dma_read(0x10_0000, memoryview(bytearray(4 * P)))
    device.dma_write(0x10_4FFF, memoryview(b"two pages"))
    assert dirty_pages(hwpt, ioas, 0x10_0000, 16) == {4, 5}
    assert dirty_pages(hwpt, ioas, 0x10_0000, 16) == set()


def dirty_pages(hwpt: HwptPaging, ioas: Ioas, iova: int, count: int) -> set[int]:
    assert hwpt.domain.dirty is not None
    found = 0
    for offset, part in read(ioas.iopt, hwpt.domain.dirty, iova, count * P, P, clear=True):
        found |= int.from_bytes(part, "little") << 8 * offset
    return {at for at in range(count) if found >> at & 1}


class Nic(Model):
    """A device that knows nothing of IOMMUs, with a region of its own that must not be mapped."""

    name = "nic"

    def __init__(self) -> None:
        self.group = self

    def reserved_regions(self) -> list[Region]:
        return [Region(0x4000_0000, 0x4FFF_FFFF)]


@pytest.mark.parametrize("kind", WITH_IOMMU)
def test_any_device_stands_behind_any_kind(world: World, plug: Plug, kind: str) -> None:
    """Also beside the test ioctl's own device, behind the same IOMMU: they share a page table, and
    each brings its regions.
    """
    ioas, origin = world.ioas(), world.origin()
    beside = plug(kind)
    nic, null = bind(world.context, Nic(), beside.iommu), NullDevice(world.context, beside.iommu)
    assert attach(beside, ioas) == attach(nic, ioas) == attach(null.device, ioas)
    assert errno_of(lambda: map_(ioas, origin, 0, P, 0x4800_0000)) == EINVAL
    map_(ioas, origin, 0, 2 * P, 0x2000_0000)
    nic.dma_write(0x2000_0000, memoryview(b"from a nic"))
    null.copy(0x2000_0000, 0x2000_1000, 10)
    assert origin.read(P, 10) == b"from a nic"
    assert nic.iommu.hw_info(0) == beside.iommu.hw_info(0)
    nic.detach()
    map_(ioas, origin, 0, P, 0x4800_0000)
    nic.unbind()
    null.remove()


# --- VT-d ---


def test_a_vtd_without_dirty_tracking(world: World, plug: Plug) -> None:
    ioas, blind, other = world.ioas(), plug("vtd", NO_DIRTY), plug("vtd")
    hwpt = new_hwpt(other, ioas, DIRTY_TRACKING)
    assert errno_of(lambda: new_hwpt(blind, ioas, DIRTY_TRACKING)) == EOPNOTSUPP
    attach(blind, ioas)
    before = world.snapshot()
    assert errno_of(lambda: replace(blind, hwpt)) == EINVAL
    assert world.snapshot() == before


def test_a_nest_parent_and_what_was_mapped_to_be_read(world: World, plug: Plug) -> None:
    ioas, origin, device = world.ioas(), world.origin(), plug("vtd")
    map_(ioas, origin, 0, P, 0)
    map_(ioas, origin, P, P, P, prot=PROT_READ)
    for shown_already in (False, True):
        if shown_already:
            attach(device, ioas)
        before = world.snapshot()
        assert errno_of(lambda: new_hwpt(device, ioas, NEST_PARENT)) == EINVAL
        assert world.snapshot() == before
    ioas.iopt.unmap(P, 2 * P - 1, 1)
    parent = new_hwpt(device, ioas, NEST_PARENT)
    before = world.snapshot()
    assert errno_of(lambda: map_(ioas, origin, P, P, P, prot=PROT_READ)) == EINVAL
    assert world.snapshot() == before
    map_(ioas, origin, P, P, P, prot=PROT_WRITE)
    assert errno_of(lambda: device.dma_read(P, memoryview(bytearray(1)))) == EPERM
    world.context.objects.remove(parent.id)
    map_(ioas, origin, 2 * P, P, 2 * P, prot=PROT_READ)


def test_nested_dma_goes_nowhere(world: World, plug: Plug) -> None:
    ioas, device = world.ioas(), plug("vtd")
    map_(ioas, world.origin(), 0, P, 0)
    nested = nest(
        new_hwpt(device, ioas, NEST_PARENT),
        device,
        data=(7).to_bytes(8, "little") + (0x1000).to_bytes(8, "little") + S1[16:],
    )
    assert isinstance(nested.domain, VtdNested)
    assert (nested.domain.flags, nested.domain.table, nested.domain.width) == (7, 0x1000, 48)
    # no extended access flag in this VT-d
    assert errno_of(lambda: attach(device, nested)) == EINVAL
    attach(device, nest(nested.parent, device))
    assert errno_of(lambda: device.dma_read(0, memoryview(bytearray(1)))) == ENOENT


def test_a_long_array_of_invalidations_pauses(world: World, plug: Plug) -> None:
    device = plug("vtd")
    nested = nest(new_hwpt(device, world.ioas(), NEST_PARENT), device)
    count = 10_000
    array = UserArray(0, 24, count, lambda offset, length: bytes(length))
    pauses = sum(1 for _ in nested.domain.invalidate(array))
    assert array.done == count
    assert pauses == 4  # 24 * 10,000 bytes, by 64 KiB


def test_the_registers_of_vtd_say_what_it_does() -> None:
    def bits(register: int, low: int, count: int = 1) -> int:
        return register >> low & (1 << count) - 1

    vtd = VtdIommu()
    assert bits(CAP, 16, 6) + 1 == 48
    assert bits(CAP, 8, 5) == 1 << 2
    assert vtd.domain(NEST_PARENT, None).aperture_last == (1 << 48) - 1
    assert vtd.domain(0, None).aperture_last == (1 << 47) - 1
    assert vtd.domain(0, None).page_sizes == P | (2 << 20) * bits(CAP, 34) | (1 << 30) * bits(CAP, 56)
    assert [bits(ECAP, bit) for bit in (7, 26, 31, 34, 40, 43, 45, 46, 47, 48)] == [1, 1, 1, 0, 1, 1, 1, 1, 1, 1]
    assert 2 << bits(ECAP, 35, 5) == vtd.port(Wide()).max_pasids
    assert VtdIommu(dirty_tracking=False).ecap ^ ECAP == 1 << 45


class Wide(Model):
    """It has more PASIDs than any IOMMU can tell apart."""

    name = "wide"
    group = None
    max_pasids = 1 << 32
    pasid_exec = True


@pytest.mark.parametrize(
    ("kind", "most", "executes"),
    [("vtd", 1 << 20, True), ("smmuv3", 1 << 20, True), ("amd", (1 << 16) - 1, False), ("none", 0, False)],
)
def test_a_port_shows_what_both_can(kind: str, most: int, executes: bool) -> None:
    port = new_iommu(kind).port(Wide())
    assert (port.max_pasids, port.pasid_exec, port.pasid_priv) == (most, executes, False)
    assert port.dirty_tracking == (kind != "none")
    assert not new_iommu(kind, dirty_tracking=False).port(Wide()).dirty_tracking


def test_the_registers_of_smmuv3_say_what_it_does() -> None:
    def registers(smmu: Smmuv3) -> tuple[int, ...]:
        kind, data = smmu.hw_info(0)
        assert kind == 2
        return struct.unpack("<10I", data)

    seeing, blind = registers(Smmuv3()), registers(Smmuv3(dirty_tracking=False))
    assert seeing == (0, 0, IDR0, IDR1, 0, IDR3, 0, IDR5, 0, 2)
    assert seeing[2] >> 6 & 3 == 2, "accessed and dirty flags"
    assert blind[2] >> 6 & 3 == 1, "accessed flags only"
    assert Smmuv3().port(Wide()).max_pasids == 1 << (IDR1 >> 6 & 31)
    assert Smmuv3().domain(NEST_PARENT, None).aperture_last == (1 << 48) - 1


def test_pasids_leave_no_room_for_a_second_stage(world: World, plug: Plug) -> None:
    """The engine asks for a page table that suits PASIDs first; the port would refuse all
    the same.
    """
    device = plug("smmuv3", PASIDS)
    port, first, second = device.port, device.iommu.domain(PASID, None), device.iommu.domain(NEST_PARENT, None)
    port.attach(first)
    port.attach_pasid(3, first, None)
    assert errno_of(lambda: port.attach(second)) == EBUSY
    port.detach_pasid(3)
    port.attach(second)
    assert errno_of(lambda: port.attach_pasid(3, first, None)) == EINVAL
    assert errno_of(lambda: port.attach_pasid(3, second, None)) == EINVAL
    port.detach()
    port.attach_pasid(3, first, None)
    port.detach_pasid(3)


def test_every_kind_is_documented() -> None:
    text = (ROOT / "docs" / "devices.md").read_text()
    assert [kind for kind in NAMES if f"\n| `{kind}` | " not in text] == []


def test_the_registers_are_documented() -> None:
    text = (ROOT / "docs" / "devices.md").read_text()
    for register in (CAP, ECAP, EFR, EFR2, IDR0, IDR1, IDR3, IDR5):
        assert f" {register:#x} |" in text
