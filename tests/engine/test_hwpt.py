"""Page tables by hand and nested ones, PASIDs, vIOMMUs; each also with every single thing that may
fail failing.
"""

from collections.abc import Callable
from errno import EADDRINUSE, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP

import pytest

from iommud.engine.device.device import Device, bind
from iommud.engine.device.fault import FaultQueue
from iommud.engine.device.hwpt import HwptPaging
from iommud.engine.device.iommu import Iommu
from iommud.engine.device.model import Model, Region
from iommud.engine.device.nested import HwptNested, alloc_nested
from iommud.engine.mapping.domain import DIRTY_TRACKING, FAULT_ID_VALID, NEST_PARENT, PASID, Domain
from iommud.engine.mapping.user_data import UserArray, UserData

from .fakes import P, attach, errno_of, hwpt_of, map_, new_hwpt, replace
from .world import World

SOME_DATA = UserData(1, 4, lambda offset, length: bytes(length))


def new_nested(device: Device, parent: HwptPaging, flags: int = 0) -> HwptNested:
    hwpt = alloc_nested(device.context.objects, parent, device, flags, SOME_DATA)
    device.context.objects.publish(hwpt)
    return hwpt


# --- by hand ---


@pytest.mark.parametrize("flags", [1 << bit for bit in range(4, 32)] + [NEST_PARENT | FAULT_ID_VALID])
def test_flags_that_cannot_be(world: World, flags: int) -> None:
    ioas, device = world.ioas(), world.device()
    before = world.snapshot()
    assert errno_of(lambda: new_hwpt(device, ioas, flags)) == EOPNOTSUPP
    assert world.snapshot() == before


def test_dirty_tracking_is_the_devices(world: World) -> None:
    ioas, device = world.ioas(), world.device()
    assert new_hwpt(device, ioas, DIRTY_TRACKING).domain.dirty is not None
    assert new_hwpt(device, ioas).domain.dirty is None
    device.port.dirty_tracking = False
    assert errno_of(lambda: new_hwpt(device, ioas, DIRTY_TRACKING)) == EOPNOTSUPP


def test_one_by_hand_stays_and_is_never_picked(world: World) -> None:
    ioas, device = world.ioas(), world.device()
    by_hand = new_hwpt(device, ioas)
    automatic = attach(device, ioas)
    assert automatic != by_hand.id
    assert replace(device, by_hand) == by_hand.id
    assert errno_of(lambda: hwpt_of(world.context, automatic)) == ENOENT
    assert errno_of(lambda: world.context.objects.remove(by_hand.id)) == EBUSY
    device.detach()
    assert hwpt_of(world.context, by_hand.id) is by_hand
    world.check()
    world.context.objects.remove(by_hand.id)
    assert ioas.users == []


def test_another_kind_of_iommu(world: World) -> None:
    ioas, device, other = world.ioas(), world.device(), world.device(make="other", max_pasids=8)
    by_hand = new_hwpt(device, ioas, PASID | NEST_PARENT)
    before = world.snapshot()
    assert errno_of(lambda: attach(other, by_hand)) == EINVAL
    assert errno_of(lambda: attach(other, by_hand, 1)) == EINVAL
    assert errno_of(lambda: new_nested(other, by_hand)) == EINVAL
    assert world.snapshot() == before


# --- nested ---


def test_what_may_be_a_parent(world: World) -> None:
    ioas, device = world.ioas(), world.device()
    automatic = hwpt_of(world.context, attach(device, ioas))
    plain, parent = new_hwpt(device, ioas), new_hwpt(device, ioas, NEST_PARENT)
    before = world.snapshot()
    assert errno_of(lambda: new_nested(device, automatic)) == EINVAL
    assert errno_of(lambda: new_nested(device, plain)) == EINVAL
    for flags in (NEST_PARENT, DIRTY_TRACKING, 1 << 4):
        assert errno_of(lambda flags=flags: new_nested(device, plain, flags)) == EOPNOTSUPP  # type: ignore[misc]
    nothing = UserData(0, 0, lambda offset, length: b"")
    assert errno_of(lambda: alloc_nested(world.context.objects, plain, device, 0, nothing)) == EOPNOTSUPP
    world.fakes[0].iommu.nesting = False
    assert errno_of(lambda: new_nested(device, plain)) == EOPNOTSUPP
    assert world.snapshot() == before
    world.fakes[0].iommu.nesting = True
    assert parent.users == [new_nested(device, parent)]


def test_a_nested_one_reserves_in_its_parents_ioas(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    device = world.device(regions=[Region(0x1000, 0x1FFF)])
    parent = new_hwpt(device, other, NEST_PARENT)
    first, second = new_nested(device, parent), new_nested(device, parent)
    attach(device, ioas)
    replace(device, first)
    assert [s.start for s in other.iopt.reserved] == [0x1000]
    assert list(ioas.iopt.reserved) == []
    world.check()
    replace(device, second)
    replace(device, parent)
    assert [s.start for s in other.iopt.reserved] == [0x1000]
    replace(device, ioas)
    assert list(other.iopt.reserved) == []
    map_(other, origin, 0, P, 0x1000)
    before = world.snapshot()
    assert errno_of(lambda: replace(device, first)) == EADDRINUSE
    assert world.snapshot() == before


def test_dma_through_a_nested_one_shows_nothing(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device()
    map_(ioas, origin, 0, P, 0)
    attach(device, new_nested(device, new_hwpt(device, ioas, NEST_PARENT)))
    assert errno_of(lambda: device.dma_read(0, memoryview(bytearray(1)))) == ENOENT


# --- PASIDs ---


def test_pasids_stand_beside_each_other(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    other = world.ioas()
    device = world.device(max_pasids=16)
    one, two = new_hwpt(device, ioas, PASID), new_hwpt(device, other, PASID)
    origin.fill(0, b"one")
    origin.fill(P, b"two")
    map_(ioas, origin, 0, P, 0)
    map_(other, origin, P, P, 0)
    attach(device, one)
    attach(device, two, 3)
    attach(device, two, 4)
    world.check()
    buffer = bytearray(3)
    for pasid, wanted in ((0, b"one"), (3, b"two"), (4, b"two")):
        device.dma_read(0, memoryview(buffer), pasid)
        assert bytes(buffer) == wanted
    assert errno_of(lambda: device.dma_read(0, memoryview(buffer), 5)) == ENOENT
    assert errno_of(lambda: attach(device, two, 16)) == EINVAL
    replace(device, one, 3)
    device.detach(4)
    world.check()
    assert errno_of(lambda: world.context.objects.remove(one.id)) == EBUSY
    device.detach_all()
    world.context.objects.remove(one.id)
    world.context.objects.remove(two.id)


def test_pasids_keep_to_page_tables_made_for_them(world: World) -> None:
    ioas = world.ioas()
    device = world.device(max_pasids=16)
    plain, compat = new_hwpt(device, ioas), new_hwpt(device, ioas, PASID)
    attach(device, plain)
    before = world.snapshot()
    # its own DMA goes through another kind
    assert errno_of(lambda: attach(device, compat, 1)) == EINVAL
    assert errno_of(lambda: attach(device, ioas, 1)) == EINVAL
    assert world.snapshot() == before
    replace(device, compat)
    attach(device, compat, 1)
    before = world.snapshot()
    for target in (plain, ioas):
        assert errno_of(lambda target=target: replace(device, target)) == EINVAL  # type: ignore[misc]
        assert errno_of(lambda target=target: replace(device, target, 1)) == EINVAL  # type: ignore[misc]
        assert errno_of(lambda target=target: attach(device, target, 1)) == EBUSY  # type: ignore[misc]
        assert errno_of(lambda target=target: attach(device, target, 2)) == EINVAL  # type: ignore[misc]
        assert errno_of(lambda target=target: replace(device, target, 2)) == EINVAL  # type: ignore[misc]
    assert world.snapshot() == before
    device.detach(1)
    replace(device, plain)


def test_a_group_shares_its_pasids(world: World) -> None:
    ioas = world.ioas()
    first, second = world.device(group="g", max_pasids=8), world.device(group="g", max_pasids=8)
    one, two = new_hwpt(first, ioas, PASID), new_hwpt(first, ioas, PASID)
    attach(first, one, 5)
    assert errno_of(lambda: attach(second, two, 5)) == EINVAL
    assert errno_of(lambda: replace(second, two, 5)) == EINVAL
    attach(second, one, 5)
    replace(second, two, 5)
    assert two.users == [first, second]
    world.fakes[1].refuses = lambda domain: ENOMEM if domain is one.domain else 0
    before = world.snapshot()
    assert errno_of(lambda: replace(first, one, 5)) == ENOMEM
    assert world.snapshot() == before
    first.detach(5)
    assert two.users == [second]


# --- faults ---


class Queue(FaultQueue):
    """Remembers whose faults it was told to answer."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: list[tuple[int, object]] = []

    def answer_all(self, attachment) -> None:  # type: ignore[no-untyped-def]
        self.ended.append((attachment.pasid, attachment.hwpt))


def test_faults_are_answered_when_an_attachment_ends(world: World) -> None:
    ioas, queue = world.ioas(), Queue()
    device = world.device(max_pasids=8)
    one, two = new_hwpt(device, ioas, PASID), new_hwpt(device, ioas, PASID)
    for hwpt in (one, two):
        hwpt.set_fault(queue)
    assert queue.users == [one, two]
    attach(device, one)
    attach(device, one, 3)
    replace(device, one, 3)
    assert queue.ended == []
    replace(device, two, 3)
    assert queue.ended == [(3, one)]
    device.detach(3)
    assert queue.ended == [(3, one), (3, two)]
    device.detach()
    assert queue.ended[2:] == [(0, one)]
    world.context.objects.remove(one.id)
    assert queue.users == [two]


# --- everything that may fail, failing ---


def by_hand(world: World) -> Callable[[], object]:
    ioas, device = world.ioas(), world.device()
    map_(ioas, world.origin(), 0, 3 * P, 0)
    return lambda: new_hwpt(device, ioas, PASID | DIRTY_TRACKING)


def nested(world: World) -> Callable[[], object]:
    ioas, device = world.ioas(), world.device()
    parent = new_hwpt(device, ioas, NEST_PARENT)
    return lambda: new_nested(device, parent)


def to_nested(world: World) -> Callable[[], object]:
    ioas, other = world.ioas(), world.ioas()
    devices = [world.device(group="g", regions=[Region(n * P, n * P + P - 1)]) for n in range(3)]
    child = new_nested(devices[0], new_hwpt(devices[0], other, NEST_PARENT))
    for device in devices:
        attach(device, ioas)
    return lambda: replace(devices[1], child)


def pasid(world: World) -> Callable[[], object]:
    ioas, device = world.ioas(), world.device(max_pasids=8)
    hwpt = new_hwpt(device, ioas, PASID)
    return lambda: attach(device, hwpt, 2)


def pasid_replaced(world: World) -> Callable[[], object]:
    ioas = world.ioas()
    devices = [world.device(group="g", max_pasids=8) for _ in range(2)]
    old, new = new_hwpt(devices[0], ioas, PASID), new_hwpt(devices[0], ioas, PASID)
    for device in devices:
        attach(device, old, 2)
    return lambda: replace(devices[0], new, 2)


@pytest.mark.parametrize("prepare", [by_hand, nested, to_nested, pasid, pasid_replaced])
def test_a_failure_changes_nothing(world: World, prepare: Callable[[World], Callable[[], object]]) -> None:
    act = prepare(world)
    before = world.snapshot()
    failures = 0
    while True:
        world.faults.arm(failures + 1)
        if errno_of(act) == 0:
            break
        failures += 1
        assert world.snapshot() == before, world.faults.failed
    world.faults.arm(None)
    assert failures
    world.check()


# --- data ---


def test_a_struct_grows() -> None:
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return b"abcdefgh"[offset : offset + length]

    assert UserData(7, 4, read).struct(7, 8, 4) == b"abcd\0\0\0\0"
    assert UserData(7, 8, read).struct(7, 8, 4) == b"abcdefgh"
    asked.clear()
    for data in (UserData(6, 8, read), UserData(7, 3, read), UserData(7, 9, read)):
        assert errno_of(lambda data=data: data.struct(7, 8, 4)) == EINVAL  # type: ignore[misc]
    assert asked == []
    assert errno_of(lambda: UserData(7, 9, read).struct(7, 9, 4)) == EFAULT


@pytest.mark.parametrize("there", [0, 5, 6, 65535, 65536, 65537, 70000, 120000])
@pytest.mark.parametrize("length", [6, 8, 4096])
def test_an_array_ends_where_the_memory_does(there: int, length: int) -> None:
    content = bytes(at % 251 for at in range(there))
    count = 120000 // length
    array = UserArray(7, length, count, lambda offset, length: content[offset : offset + length])
    got: list[bytes] = []

    def take() -> None:
        for chunk in array.chunks(7, length + 2, 6):
            assert len(chunk) % (length + 2) == 0
            got.extend(chunk[at : at + length + 2] for at in range(0, len(chunk), length + 2))

    whole = min(there // length, count)
    assert errno_of(take) == (EFAULT if whole < count else 0)
    assert got == [content[at * length : (at + 1) * length] + b"\0\0" for at in range(whole)]


def test_an_empty_array_is_not_looked_at() -> None:
    array = UserArray(8, 0, 0, lambda offset, length: pytest.fail("read"))
    assert list(array.chunks(7, 8, 8)) == []
    assert errno_of(lambda: array.expect(7)) == EINVAL
    array.expect(8)


class LeastDevice(Model):
    """All that a device must have."""

    name = "least"

    def __init__(self) -> None:
        self.group = self


class LeastIommu(Iommu):
    """All that an IOMMU must have."""

    kind = "least"

    def domain(self, flags: int, data: UserData | None) -> Domain:
        return Domain(P)


def test_who_has_little_need_not_write_it(world: World) -> None:
    iommu, ioas = LeastIommu(), world.ioas()
    device = bind(world.context, LeastDevice(), iommu)
    assert errno_of(lambda: new_hwpt(device, ioas, DIRTY_TRACKING)) == EOPNOTSUPP
    parent = new_hwpt(device, ioas, NEST_PARENT | PASID)
    assert errno_of(lambda: new_nested(device, parent)) == EOPNOTSUPP
    assert iommu.hw_info(0) == (0, b"")
    assert attach(device, parent) == parent.id
    assert list(ioas.iopt.reserved) == []
    # As for a device of a group whose others have PASIDs: it cannot use them, and its port is not
    # asked.
    attach(device, parent, 5)
    assert errno_of(lambda: device.port.attach_pasid(5, parent.domain, None)) == EOPNOTSUPP
    device.detach_all()
    device.unbind()
