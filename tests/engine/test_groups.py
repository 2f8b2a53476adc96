"""Groups, reserved regions, apertures and page sizes: what devices share, and what is in
whose way.
"""

from errno import EADDRINUSE, EINVAL

import pytest

from iommud.engine.device.model import Region
from iommud.engine.mapping.allowed import allowed_of
from iommud.engine.memory.span import U64_MAX

from .fakes import (
    MOCK_PAGE_SIZES,
    P,
    attach,
    errno_of,
    hwpt_of,
    map_,
    new_hwpt,
    replace,
    unmap,
)
from .world import World

MOCK_APERTURE = (1 << 24, (1 << 31) - 1)


# --- groups ---


def test_a_group_has_one_page_table(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    first, second = world.device(group="g"), world.device(group="g")
    assert first.group is second.group
    number = attach(first, ioas)
    by_hand = new_hwpt(first, ioas)
    before = world.snapshot()
    assert errno_of(lambda: attach(second, other)) == EINVAL
    assert errno_of(lambda: attach(second, by_hand)) == EINVAL
    assert errno_of(lambda: replace(second, ioas)) == EINVAL  # it is not attached itself
    assert world.snapshot() == before
    assert attach(second, ioas) == number
    assert hwpt_of(world.context, number).users == [first, second]
    # The page table stays until the last has left, whichever came first.
    first.detach()
    assert world.fakes[1].current is not None
    assert errno_of(lambda: attach(first, other)) == EINVAL
    second.detach()
    assert attach(first, other)
    world.context.objects.remove(by_hand.id)


def test_replace_moves_the_whole_group(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    first = world.device(group="g", regions=[Region(0x1000, 0x1FFF)])
    second = world.device(group="g", regions=[Region(0x5000, 0x5FFF, sw_msi=True)])
    bystander = world.device(group="g", regions=[Region(0x8000, 0x8FFF)])
    attach(first, ioas)
    attach(second, ioas)
    new = hwpt_of(world.context, replace(second, other))
    assert new.users == [first, second]
    assert first.users == [world.fakes[0], new]
    assert world.fakes[0].current is world.fakes[1].current is new.domain
    assert world.fakes[2].current is None
    assert [s.start for s in other.iopt.reserved] == [0x1000, 0x5000]
    assert list(ioas.iopt.reserved) == []
    assert ioas.users == []
    world.check()
    assert bystander.users == [world.fakes[2]]


def test_a_member_that_refuses_keeps_the_group_where_it_was(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    devices = [world.device(group="g", regions=[Region(n * P, n * P + P - 1)]) for n in range(3)]
    for device in devices:
        attach(device, ioas)
    world.fakes[1].refuses = lambda domain: 0 if domain in ioas.iopt.domains else EINVAL
    before = world.snapshot()
    assert errno_of(lambda: replace(devices[2], other)) == EINVAL
    assert world.snapshot() == before


def test_reserved_regions_come_and_go_with_their_device(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    first = world.device(group="g", regions=[Region(0x1000, 0x2FFF), Region(0x2000, 0x4FFF)])
    second = world.device(group="g", regions=[Region(0x9000, 0x9FFF)])
    attach(first, ioas)
    assert errno_of(lambda: map_(ioas, origin, 0, P, 0x2000)) == EINVAL
    map_(ioas, origin, 0, P, 0x9000)
    before = world.snapshot()
    assert errno_of(lambda: attach(second, ioas)) == EADDRINUSE
    assert world.snapshot() == before
    unmap(ioas, 0x9000, P)
    attach(second, ioas)
    assert list(ioas.iopt.usable()) == [(0, 0xFFF), (0x5000, 0x8FFF), (0xA000, U64_MAX)]
    first.detach()
    assert list(ioas.iopt.usable()) == [(0, 0x8FFF), (0xA000, U64_MAX)]


def test_a_reserved_region_against_the_allowed_list(world: World) -> None:
    ioas = world.ioas()
    device = world.device(regions=[Region(0x1000, 0x1FFF), Region(0x9000, 0x9FFF)])
    ioas.iopt.allow(allowed_of([(0x9800, 0xFFFF)]))
    before = world.snapshot()
    assert errno_of(lambda: attach(device, ioas)) == EADDRINUSE
    assert world.snapshot() == before
    ioas.iopt.allow(allowed_of([(0xA000, 0xFFFF)]))
    attach(device, ioas)
    assert errno_of(lambda: ioas.iopt.allow(allowed_of([(0x9FFF, 0xA000)]))) == EADDRINUSE


# --- apertures and page sizes ---


def test_the_aperture_is_reserved_while_the_page_table_is_there(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    device = world.device(aperture=MOCK_APERTURE, page_sizes=MOCK_PAGE_SIZES)
    map_(ioas, origin, 0, P, MOCK_APERTURE[0] - P)
    before = world.snapshot()
    assert errno_of(lambda: attach(device, ioas)) == EADDRINUSE
    assert world.snapshot() == before
    unmap(ioas, MOCK_APERTURE[0] - P, P)
    map_(ioas, origin, 0, P, MOCK_APERTURE[1] + 1 - P)
    attach(device, ioas)
    assert list(ioas.iopt.usable()) == [MOCK_APERTURE]
    assert errno_of(lambda: map_(ioas, origin, 0, P, MOCK_APERTURE[1] + 1)) == EINVAL
    assert map_(ioas, origin, 0, P, None) == MOCK_APERTURE[0]
    device.detach()
    assert list(ioas.iopt.usable()) == [(0, U64_MAX)]


def test_an_allowed_range_outside_the_aperture(world: World) -> None:
    ioas, device = world.ioas(), world.device(aperture=MOCK_APERTURE)
    ioas.iopt.allow(allowed_of([(0x2000000, 0x80000000)]))
    before = world.snapshot()
    assert errno_of(lambda: attach(device, ioas)) == EADDRINUSE
    assert world.snapshot() == before
    ioas.iopt.allow(allowed_of([(0x2000000, 0x7FFFFFFF)]))
    attach(device, ioas)


@pytest.mark.parametrize(("address", "length", "iova"), [(0, 1024, 0), (0, 2048, 1024), (1024, 2048, 2048)])
def test_areas_off_the_alignment_are_in_the_way(world: World, address: int, length: int, iova: int) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device(page_sizes=MOCK_PAGE_SIZES)
    map_(ioas, origin, address, length, iova)
    before = world.snapshot()
    assert errno_of(lambda: attach(device, ioas)) == EADDRINUSE
    assert world.snapshot() == before
    unmap(ioas, iova, length)
    map_(ioas, origin, 6 * 1024, 2048, 2048)
    attach(device, ioas)
    assert ioas.iopt.iova_alignment == 2048
    assert errno_of(lambda: map_(ioas, origin, address, length, iova + 4 * P)) == EINVAL
    device.detach()
    assert ioas.iopt.iova_alignment == 1


def test_pages_larger_than_the_systems_cannot_be_filled(world: World) -> None:
    ioas, device = world.ioas(), world.device(page_sizes=4 * P)
    before = world.snapshot()
    assert errno_of(lambda: attach(device, ioas)) == EINVAL
    assert world.snapshot() == before
    assert world.fakes[0].log == ["attach", "detach"]  # attached first, as the kernel does


def test_single_pages_with_a_device(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    device = world.device(page_sizes=MOCK_PAGE_SIZES)
    attach(device, ioas)
    ioas.iopt.disable_large_pages()  # no area yet
    assert ioas.iopt.iova_alignment == P
    map_(ioas, origin, 0, P, 0)
    ioas.iopt.disable_large_pages()  # no change
    ioas.iopt.enable_large_pages()
    assert ioas.iopt.iova_alignment == 2048
    before = world.snapshot()
    assert errno_of(ioas.iopt.disable_large_pages) == EINVAL
    assert world.snapshot() == before
    device.detach()
    ioas.iopt.disable_large_pages()
    map_(ioas, origin, 0, P, P)
    attach(device, ioas)
    device.detach()
    assert ioas.iopt.iova_alignment == P
