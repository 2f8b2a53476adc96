"""Devices: bind, attach, replace, detach, unbind; automatic page tables; groups; what may come and
what is in its way.
"""

from errno import EBUSY, EFAULT, EINVAL, ENOENT, EPERM

import pytest

from iommud.engine.device.device import Device
from iommud.engine.device.model import Region

from .fakes import (
    P,
    attach,
    errno_of,
    gone,
    hwpt_of,
    map_,
    new_hwpt,
    replace,
)
from .world import World

# --- bind ---


def test_a_bound_device_goes_only_with_its_model(world: World) -> None:
    device = world.device()
    assert world.context.objects.get(device.id, Device) is device
    assert errno_of(lambda: world.context.objects.remove(device.id)) == EBUSY
    world.unbind(device)
    assert gone(world.context, device)
    assert world.context.groups == {}
    assert world.host.empty()


def test_a_device_that_bypasses_the_caches_is_refused(world: World) -> None:
    fake = world.fake()
    fake.cache_coherent = False
    before = world.snapshot()
    assert errno_of(lambda: world.bind(fake)) == EINVAL
    assert world.snapshot() == before


def test_a_group_belongs_to_one_context(world: World) -> None:
    other = world.new_context()
    first, second = world.fake(group="g"), world.fake(group="g")
    device = world.bind(first)
    before = world.snapshot()
    assert errno_of(lambda: world.bind(second, other)) == EPERM
    assert world.snapshot() == before
    sibling = world.bind(second)  # in the context that has the group
    world.unbind(device)
    assert errno_of(lambda: world.bind(first, other)) == EPERM
    world.unbind(sibling)
    world.bind(first, other)


def test_ids_are_the_lowest_free_ones(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    device = world.device()
    assert (ioas.id, other.id, device.id) == (1, 2, 3)
    assert attach(device, ioas) == 4
    # The new page table gets its ID before the old one gives its own back.
    assert replace(device, other) == 5
    assert replace(device, ioas) == 4


# --- attach ---


def test_devices_that_suit_share_an_automatic_page_table(world: World) -> None:
    ioas = world.ioas()
    first, second, stranger = world.device(), world.device(), world.device(make="other")
    number = attach(first, ioas)
    assert attach(second, ioas) == number
    assert attach(stranger, ioas) != number
    hwpt = hwpt_of(world.context, number)
    assert hwpt.users == [first, second]
    assert len(ioas.users) == len(ioas.iopt.domains) == 2
    world.check()
    first.detach()
    assert not gone(world.context, hwpt)
    second.detach()
    assert gone(world.context, hwpt)
    stranger.detach()
    assert ioas.users == []
    world.context.objects.remove(ioas.id)


def test_objects_in_use_are_not_destroyed(world: World) -> None:
    ioas, device = world.ioas(), world.device()
    number = attach(device, ioas)
    for busy in (ioas.id, number, device.id):
        assert errno_of(lambda busy=busy: world.context.objects.remove(busy)) == EBUSY  # type: ignore[misc]


def test_a_page_table_made_by_hand_stays(world: World) -> None:
    ioas, device = world.ioas(), world.device()
    hwpt = new_hwpt(device, ioas)
    assert attach(device, hwpt) == hwpt.id
    assert errno_of(lambda: world.context.objects.remove(hwpt.id)) == EBUSY
    device.detach()
    assert not gone(world.context, hwpt)
    # It is never picked for a device that asks for the IOAS.
    number = attach(device, ioas)
    assert number != hwpt.id
    replace(device, hwpt)
    assert errno_of(lambda: hwpt_of(world.context, number)) == ENOENT
    device.detach()
    world.context.objects.remove(hwpt.id)
    assert ioas.iopt.domains == []


def test_an_automatic_page_table_can_be_asked_for_by_its_id(world: World) -> None:
    ioas, first, second = world.ioas(), world.device(), world.device()
    number = attach(first, ioas)
    assert attach(second, number) == number
    first.detach()
    assert hwpt_of(world.context, number).users == [second]


@pytest.mark.parametrize("change", [attach, replace])
def test_what_cannot_be_attached_to(world: World, change) -> None:  # type: ignore[no-untyped-def]
    device, user = world.device(), world.user(world.ioas())
    if change is replace:
        attach(device, world.ioas())
    before = world.snapshot()
    assert errno_of(lambda: change(device, 99)) == ENOENT
    assert errno_of(lambda: change(device, 0)) == ENOENT
    assert errno_of(lambda: change(device, device)) == EINVAL
    assert errno_of(lambda: change(device, user.access)) == EINVAL
    assert world.snapshot() == before


def test_attached_twice(world: World) -> None:
    ioas, other, device = world.ioas(), world.ioas(), world.device()
    number = attach(device, ioas)
    before = world.snapshot()
    for target in (ioas.id, other.id, number):
        assert errno_of(lambda target=target: attach(device, target)) == EBUSY  # type: ignore[misc]
    assert world.snapshot() == before


def test_detached_twice(world: World) -> None:
    device = world.device()
    attach(device, world.ioas())
    device.detach()
    before = world.snapshot()
    device.detach()
    assert world.snapshot() == before


def test_an_iommu_that_refuses(world: World) -> None:
    ioas, first, second = world.ioas(), world.device(), world.device()
    number = attach(first, ioas)
    shared = hwpt_of(world.context, number).domain
    fake = world.fakes[1]
    # EINVAL means "not this one": another is tried, and made.
    fake.refuses = lambda domain: EINVAL if domain is shared else 0
    assert attach(second, ioas) != number
    second.detach()
    before = world.snapshot()
    assert errno_of(lambda: attach(second, number)) == EINVAL
    # Anything else ends it.
    fake.refuses = lambda domain: EFAULT if domain is shared else 0
    assert errno_of(lambda: attach(second, ioas)) == EFAULT
    fake.refuses = lambda _: EINVAL
    assert errno_of(lambda: attach(second, ioas)) == EINVAL
    assert world.snapshot() == before


# --- replace ---


def test_replace(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    origin, device = world.origin(), world.device()
    map_(ioas, origin, 0, 2 * P, 0x10000)
    map_(other, origin, 8 * P, P, 0x20000)
    old = hwpt_of(world.context, attach(device, ioas))
    new = hwpt_of(world.context, replace(device, other))
    assert gone(world.context, old)
    assert new.ioas is other
    assert origin.open_pins() == {8: 1}
    assert world.fakes[0].current is new.domain
    assert world.fakes[0].log == ["attach", "attach"]  # never detached in between
    world.check()


def test_replace_by_the_same(world: World) -> None:
    ioas, device = world.ioas(), world.device()
    number = attach(device, ioas)
    before = world.snapshot()
    assert replace(device, ioas) == replace(device, number) == number
    assert world.snapshot() == before


def test_replace_of_nothing(world: World) -> None:
    ioas, other, device, attached = world.ioas(), world.ioas(), world.device(), world.device()
    number = attach(attached, ioas)
    before = world.snapshot()
    for target in (ioas.id, number, other.id):
        assert errno_of(lambda target=target: replace(device, target)) == EINVAL  # type: ignore[misc]
    assert world.snapshot() == before


def test_replace_shares_what_the_new_ioas_has(world: World) -> None:
    ioas, other, first, second = world.ioas(), world.ioas(), world.device(), world.device()
    attach(first, ioas)
    number = attach(second, other)
    assert replace(first, other) == number
    assert hwpt_of(world.context, number).users == [second, first]
    assert ioas.users == []


def test_replace_within_one_ioas_keeps_the_reserved_regions(world: World) -> None:
    ioas = world.ioas()
    device = world.device(regions=[Region(0x1000, 0x1FFF)])
    attach(device, ioas)
    hwpt, refused = new_hwpt(device, ioas), new_hwpt(device, ioas)
    replace(device, hwpt)
    assert [(s.start, s.last) for s in ioas.iopt.reserved] == [(0x1000, 0x1FFF)]
    world.check()
    world.fakes[0].refuses = lambda domain: EINVAL if domain is refused.domain else 0
    before = world.snapshot()
    assert errno_of(lambda: replace(device, refused)) == EINVAL
    assert world.snapshot() == before
    device.detach()
    world.context.objects.remove(hwpt.id)
    world.context.objects.remove(refused.id)


# --- the end of a context ---


def test_a_context_takes_its_mappings_with_it_when_devices_have_left(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device()
    attach(device, ioas)
    map_(ioas, origin, 0, 8 * P, 0)
    assert origin.open_pins()
    world.unbind(device)
    assert not origin.open_pins()
    assert len(ioas.iopt.areas) == 1
