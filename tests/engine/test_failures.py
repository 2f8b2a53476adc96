"""The failure sweep: each step of each operation that can fail is made to fail once, the first, the
second, until none is left. Every time the state afterwards is the state before; and when nothing
fails any more, the operation succeeds.
"""

from collections.abc import Callable
from errno import EADDRINUSE, EFAULT, ENOMEM

import pytest

from iommud.engine.device.device import bind
from iommud.engine.device.model import Region
from iommud.engine.mapping.allowed import allowed_of
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.origin import AccountMode
from iommud.errors import IoctlError

from .fakes import (
    MOCK_PAGE_SIZES,
    FakeOrigin,
    FakeUser,
    P,
    attach,
    copy,
    errno_of,
    map_,
    new_hwpt,
    place,
    replace,
    slice_of,
    unmap,
)
from .world import World, at_rest, stand

USER, MM = AccountMode.USER, AccountMode.MM
Operation = Callable[[], object]
SCENARIOS: dict[str, tuple[Callable[[World], Operation], list[str]]] = {}


def scenario(*steps: str) -> Callable[[Callable[[World], Operation]], Callable[[World], Operation]]:
    """What prepares the world and returns the operation; `steps`: what can fail in it, in its
    order.
    """

    def keep(prepare: Callable[[World], Operation]) -> Callable[[World], Operation]:
        SCENARIOS[prepare.__name__] = prepare, list(steps)
        return prepare

    return keep


def furnish(world: World, ioas: Ioas, *, at: int = 0) -> tuple[FakeOrigin, FakeOrigin]:
    """Three areas of two processes, charged in both ways, the third with a gap before it."""
    first, second = world.origin(mm="first"), world.origin(mm="second", is_file=True)
    first.limit = second.limit = 100 * P
    map_(ioas, first, 0, 2 * P, at, account_mode=USER)
    map_(ioas, second, 4 * P, 3 * P, at + 2 * P, account_mode=MM)
    map_(ioas, first, 8 * P, P, at + 8 * P, account_mode=USER)
    return first, second


FURNITURE = ("pin", "limit") * 3


# --- devices ---


@scenario("ID")
def bind_a_device(world: World) -> Operation:
    fake = world.fake()
    return lambda: world.devices.append(bind(world.context, fake, fake.iommu))


@scenario("ID", "domain", "reserved_regions", "attach", *FURNITURE)
def attach_auto(world: World) -> Operation:
    ioas = world.ioas()
    furnish(world, ioas, at=0x100000)
    device = world.device(
        regions=[Region(0, 0xFFF), Region(0x3000, 0x3FFF, sw_msi=True)],
        aperture=(0x10000, 0xFFFFFFFF),
        page_sizes=MOCK_PAGE_SIZES,
    )
    return lambda: attach(device, ioas)


@scenario("reserved_regions", "attach")
def attach_auto_to_one_that_is_there(world: World) -> Operation:
    ioas = world.ioas()
    furnish(world, ioas)
    attach(world.device(), ioas)
    device = world.device(regions=[Region(0x100000, 0x1FFFFF)])
    return lambda: attach(device, ioas)


@scenario("reserved_regions", "ID", "domain", "reserved_regions", "attach")
def attach_auto_beside_one_that_does_not_suit(world: World) -> Operation:
    ioas = world.ioas()
    furnish(world, ioas)
    attach(world.device(), ioas)
    device = world.device(make="other", regions=[Region(0x100000, 0x1FFFFF)])
    return lambda: attach(device, ioas)


@scenario("reserved_regions", "attach")
def attach_explicit(world: World) -> Operation:
    ioas, device = world.ioas(), world.device(regions=[Region(0x100000, 0x1FFFFF)])
    furnish(world, ioas)
    hwpt = new_hwpt(device, ioas)
    return lambda: attach(device, hwpt)


@scenario("ID", "domain", *FURNITURE)
def make_a_page_table(world: World) -> Operation:
    ioas, device = world.ioas(), world.device(aperture=(0, 0xFFFFFFFF))
    furnish(world, ioas)
    return lambda: new_hwpt(device, ioas)


@scenario("reserved_regions", "attach")
def attach_the_second_of_a_group(world: World) -> Operation:
    ioas = world.ioas()
    furnish(world, ioas)
    attach(world.device(group="g", regions=[Region(0x100000, 0x1FFFFF)]), ioas)
    device = world.device(group="g", regions=[Region(0x200000, 0x2FFFFF)])
    return lambda: attach(device, ioas)


@scenario("attach")
def replace_within_the_ioas(world: World) -> Operation:
    ioas, device = world.ioas(), world.device(regions=[Region(0x100000, 0x1FFFFF)])
    furnish(world, ioas)
    attach(device, ioas)
    hwpt = new_hwpt(device, ioas)
    return lambda: replace(device, hwpt)


@scenario("ID", "domain", *FURNITURE, "reserved_regions", "attach")
def replace_by_another_ioas(world: World) -> Operation:
    ioas, other = world.ioas(), world.ioas()
    furnish(world, ioas)
    furnish(world, other)
    device = world.device(regions=[Region(0x100000, 0x1FFFFF), Region(0x300000, 0x3FFFFF, sw_msi=True)])
    attach(device, ioas)
    return lambda: replace(device, other)


@scenario(
    "ID", "domain", *FURNITURE, "reserved_regions", "reserved_regions", "reserved_regions", "attach", "attach", "attach"
)
def replace_for_a_whole_group(world: World) -> Operation:
    ioas, other = world.ioas(), world.ioas()
    furnish(world, ioas)
    furnish(world, other)
    devices = [world.device(group="g", regions=[Region(n << 20, (n << 20) + P)]) for n in (1, 2, 3)]
    world.device(group="g")  # bound only
    for device in devices:
        attach(device, ioas)
    return lambda: replace(devices[1], other)


@scenario("reserved_regions", "reserved_regions", "attach", "attach")
def replace_by_a_page_table_of_another_ioas(world: World) -> Operation:
    ioas, other = world.ioas(), world.ioas()
    furnish(world, other)
    devices = [world.device(group="g", regions=[Region(n << 20, (n << 20) + P)]) for n in (1, 2)]
    for device in devices:
        attach(device, ioas)
    hwpt = new_hwpt(devices[0], other)
    return lambda: replace(devices[0], hwpt)


# --- mappings ---


@scenario("pin", "limit")
def map_with_page_tables(world: World) -> Operation:
    ioas = world.ioas()
    furnish(world, ioas)
    attach(world.device(), ioas)
    attach(world.device(make="other"), ioas)
    return lambda: map_(ioas, world.origins[0], 20 * P, 4 * P, None, account_mode=USER)


@scenario("pin", "limit", "pin", "limit")
def map_two_areas_at_once(world: World) -> Operation:
    ioas, origin = world.ioas(), world.origin()
    attach(world.device(), ioas)

    def operation() -> None:
        place(ioas, [slice_of(origin, n * P, P, account_mode=USER) for n in (0, 8)], None)

    return operation


@scenario(*FURNITURE[:4])
def copy_with_page_tables(world: World) -> Operation:
    ioas, other = world.ioas(), world.ioas()
    furnish(world, ioas)
    attach(world.device(), other)
    return lambda: copy(ioas, P, 3 * P, other, None)


@scenario("pin", "pin", "limit")
def copy_what_is_held_in_part(world: World) -> Operation:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    user = world.user(ioas)
    attach(world.device(), other)
    map_(ioas, origin, 0, 5 * P, 0, account_mode=USER)
    user.pin(2 * P, P)
    return lambda: copy(ioas, 0, 5 * P, other, None)


# --- accesses ---


@scenario("ID")
def create_an_access(world: World) -> Operation:
    return lambda: world.users.append(FakeUser(world.context))


@scenario("pin", "limit", "pin", "limit")
def pin_across_areas(world: World) -> Operation:
    ioas = world.ioas()
    furnish(world, ioas)
    user = world.user(ioas)
    return lambda: user.pin(P, 3 * P, write=True)


@scenario("pin", "pin", "limit", "pin", "limit")
def pin_what_is_held_in_part(world: World) -> Operation:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, 3 * P, 0, account_mode=USER)
    map_(ioas, origin, 8 * P, P, 3 * P, account_mode=MM)
    user.pin(P, P)
    return lambda: user.pin(0, 4 * P)


@scenario("pin", "pin")
def copy_by_the_cpu(world: World) -> Operation:
    ioas = world.ioas()
    furnish(world, ioas)
    user = world.user(ioas)
    return lambda: user.read(0, 5 * P)


# --- the sweep ---


@pytest.mark.parametrize("name", SCENARIOS)
def test_each_step_that_fails_leaves_everything_as_it_was(world: World, name: str) -> None:
    prepare, steps = SCENARIOS[name]
    operation = prepare(world)
    world.check()
    before = world.snapshot()
    failed: list[str] = []
    while True:
        world.faults.arm(len(failed) + 1)
        refused = errno_of(operation)
        step = world.faults.failed
        world.faults.arm(None)
        assert bool(refused) == bool(step), f"{step} failed and was passed over"
        if not refused:
            break
        failed.append(step)
        assert world.snapshot() == before, step
        world.check()
    assert failed == steps
    assert world.snapshot() != before or name == "copy_by_the_cpu"


# --- what fails by itself ---


def refused_each_time(world: World, operation: Operation, errno: int, times: int, at: Callable[[int], None]) -> None:
    """`at(n)` puts the n-th obstacle in the way, for 0 <= n < times; `at(times)` takes it away."""
    before = None
    for n in range(times):
        at(n)
        before = world.snapshot()
        assert errno_of(operation) == errno, n
        assert world.snapshot() == before
        world.check()
    at(times)
    before = world.snapshot()
    operation()
    assert world.snapshot() != before


def pinning(world: World, name: str, mode: AccountMode) -> tuple[FakeOrigin, Operation]:
    """An operation that pins six pages, in three areas where it finds them mapped, and whose they
    are.
    """
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    device, user = world.device(), world.user(ioas)
    for n in range(3):
        map_(ioas, origin, 2 * n * P, 2 * P, 2 * n * P, account_mode=mode)
    if name in ("map", "copy", "replace"):
        attach(device, other)
    operations: dict[str, Operation] = {
        "attach": lambda: attach(device, ioas),
        "map": lambda: map_(other, origin, 0, 6 * P, None, account_mode=mode),
        "copy": lambda: copy(ioas, 0, 6 * P, other, None),
        "pin": lambda: user.pin(0, 6 * P),
        "replace": lambda: replace(device, ioas),
    }
    return origin, operations[name]


PINNING = pytest.mark.parametrize("name", ["attach", "map", "copy", "pin", "replace"])


@PINNING
def test_the_nth_page_is_not_there(world: World, name: str) -> None:
    origin, operation = pinning(world, name, USER)

    def absent(n: int) -> None:
        origin.absent = {n}

    refused_each_time(world, operation, EFAULT, 6, absent)


@pytest.mark.parametrize("mode", [USER, MM])
@PINNING
def test_the_limit_is_at_the_nth_page(world: World, name: str, mode: AccountMode) -> None:
    origin, operation = pinning(world, name, mode)

    def limit(n: int) -> None:
        origin.limit = n * P

    refused_each_time(world, operation, ENOMEM, 6, limit)


@pytest.mark.parametrize("name", ["access", "move", "option", "attach", "replace"])
def test_the_nth_area_is_off_the_alignment(world: World, name: str) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    device = world.device()
    areas = 4
    if name == "replace":
        attach(device, other)
    user = world.user(other if name == "move" else None)
    operations: dict[str, Operation] = {
        "access": lambda: stand(user, ioas),
        "move": lambda: at_rest(user.access.replace(ioas.id)),
        "option": ioas.iopt.disable_large_pages,
        "attach": lambda: attach(device, ioas),
        "replace": lambda: replace(device, ioas),
    }

    def crooked(n: int) -> None:
        for area in list(ioas.iopt.areas):
            unmap(ioas, area.iova, area.length)
        for at in range(areas):
            map_(ioas, origin, 0, P, at * 2 * P + (2048 if at == n else 0))

    refused_each_time(world, operations[name], EADDRINUSE, areas, crooked)


@pytest.mark.parametrize("name", ["attach", "replace", "allow"])
def test_something_is_in_the_nth_reserved_region(world: World, name: str) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    devices = [
        world.device(
            group="g", regions=[Region(4 * n * P, 4 * n * P + P - 1), Region((4 * n + 2) * P, (4 * n + 2) * P)]
        )
        for n in range(3)
    ]
    if name == "replace":
        for device in devices:
            attach(device, other)
    if name == "allow":
        for device in devices:
            attach(device, ioas)

    def attach_all() -> None:
        done = []
        try:
            for device in devices:
                attach(device, ioas)
                done.append(device)
        except IoctlError:
            for device in done:
                device.detach()
            raise

    obstacle = 0

    def in_the_way(n: int) -> None:
        nonlocal obstacle
        obstacle = 2 * n * P
        if name == "allow":
            return
        for area in list(ioas.iopt.areas):
            unmap(ioas, area.iova, area.length)
        if n < 6:
            map_(ioas, origin, 0, P, obstacle)

    operations: dict[str, Operation] = {
        "attach": attach_all,
        "replace": lambda: replace(devices[1], ioas),
        "allow": lambda: ioas.iopt.allow(allowed_of([(P, P + 1), (obstacle, obstacle + 1)])),
    }
    refused_each_time(world, operations[name], EADDRINUSE, 6, in_the_way)
