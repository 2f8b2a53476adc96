"""Accesses: where they stand, and how an unmap gets them to let go."""

from errno import EADDRINUSE, EBUSY, EDEADLK, EINVAL, ENOENT

import pytest
import trio

from iommud.engine.mapping.io_pagetable import PROT_READ, PROT_WRITE
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError
from iommud.ops.ioas import UNMAP_TRIES
from tests.support import PATIENCE

from .fakes import P, copy, errno_of, map_, unmap_range
from .world import World, at_rest


async def refusal(call) -> int:  # type: ignore[no-untyped-def]
    """The errno with which awaiting `call` is refused."""
    with pytest.raises(IoctlError) as refused:
        await call
    assert refused.value.why
    return refused.value.errno


# --- where an access stands ---


async def test_attach_and_detach(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    user, device = world.user(), world.device()
    before = world.snapshot()
    assert await refusal(user.access.attach(99)) == ENOENT
    assert await refusal(user.access.attach(device.id)) == ENOENT
    assert await refusal(user.access.replace(ioas.id)) == ENOENT
    await user.access.detach()  # from nothing
    assert world.snapshot() == before
    await user.access.attach(ioas.id)
    assert ioas.iopt.iova_alignment == P
    assert await refusal(user.access.attach(other.id)) == EINVAL
    assert await refusal(user.access.replace(99)) == ENOENT
    await user.access.replace(ioas.id)
    assert user.asked == []
    await user.access.replace(other.id)
    assert user.asked == [(0, U64_MAX)]
    assert (ioas.iopt.iova_alignment, other.iopt.iova_alignment) == (1, P)
    assert (ioas.users, other.users) == ([], [user.access])
    world.check()
    await user.access.detach()
    assert world.snapshot() == before


async def test_replace_lets_go_of_what_is_pinned_first(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, P, 0)
    map_(other, origin, P, P, 0)
    user.pin(0, P)

    def meanwhile() -> None:
        assert ioas.users == other.users == [user.access]
        assert errno_of(lambda: user.pin(0, P)) == ENOENT
        assert errno_of(lambda: user.read(0, 1)) == ENOENT
        assert [world.host.pins(origin.identity(n)) for n in range(2)] == [1, 0]

    user.during = meanwhile
    await user.access.replace(other.id)
    assert user.asked == [(0, U64_MAX)]
    assert user.items == []
    assert user.pin(0, P) == [origin.identity(1)]
    user.during = lambda: None
    await user.access.detach()
    assert origin.pins == []


async def test_replace_is_refused_by_an_area_off_the_alignment(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, P, 0)
    map_(other, origin, 0, P // 2, 0)
    user.pin(0, P)
    before = world.snapshot()
    assert await refusal(user.access.replace(other.id)) == EADDRINUSE
    assert user.asked == []
    assert world.snapshot() == before


async def test_one_move_at_a_time(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    user = world.user(ioas)
    asked: list[trio.Event] = [trio.Event(), trio.Event()]

    async def slow(iova: int, length: int) -> None:
        asked[0].set()
        await asked[1].wait()

    user.unmap = slow  # type: ignore[method-assign]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(user.access.replace, other.id)
            await asked[0].wait()
            assert await refusal(user.access.detach()) == EBUSY
            assert await refusal(user.access.attach(ioas.id)) == EBUSY
            asked[1].set()
    assert user.access.ioas is other
    world.check()


@pytest.mark.parametrize("to", [None, 2])
async def test_a_move_that_is_given_up(world: World, to: int | None) -> None:
    ioas, other = world.ioas(), world.ioas()
    user = world.user(ioas)
    before = world.snapshot()

    async def for_ever(iova: int, length: int) -> None:
        scope.cancel()
        await trio.sleep_forever()

    user.unmap = for_ever  # type: ignore[method-assign]
    with trio.CancelScope() as scope:
        await (user.access.detach() if to is None else user.access.replace(other.id))
    assert scope.cancelled_caught
    assert world.snapshot() == before


@pytest.mark.parametrize("fails", [False, True])
async def test_released_while_it_moves(world: World, fails: bool) -> None:
    ioas, other = world.ioas(), world.ioas()
    user = world.user(ioas)

    def release() -> None:
        world.release(user)
        if fails:
            raise RuntimeError("a driver's bug")

    user.during = release
    if fails:
        with pytest.raises(RuntimeError):
            await user.access.replace(other.id)
    else:
        await user.access.replace(other.id)
    assert ioas.users == other.users == ioas.iopt.accesses == other.iopt.accesses == []
    world.check()


# --- unmap ---


async def test_unmap_asks_every_access_to_let_go(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    first, second, plain = world.user(ioas), world.user(ioas), world.user(ioas, pins=False)
    map_(ioas, origin, 0, 4 * P, 0)
    map_(ioas, origin, 8 * P, P, 4 * P)
    first.pin(P, P)
    first.pin(3 * P, 2 * P)  # into the next area
    second.pin(P, 2 * P)

    def meanwhile() -> None:
        assert errno_of(lambda: first.pin(0, P)) == EINVAL
        assert errno_of(lambda: first.read(0, 1)) == EINVAL
        assert errno_of(lambda: plain.write(0, b"a")) == EINVAL

    first.during = meanwhile
    assert await unmap_range(ioas, 0, 4 * P - 1) == 4 * P
    assert first.asked == second.asked == plain.asked == [(0, 4 * P)]
    assert (first.items, second.items) == ([], [])
    assert origin.pins == []
    assert [area.iova for area in ioas.iopt.areas] == [4 * P]
    assert first.pin(4 * P, P)
    world.check()


async def test_unmap_in_the_middle_of_a_pin_of_two_areas(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, P, 0)
    map_(ioas, origin, P, P, P)
    user.pin(0, 2 * P)
    assert await unmap_range(ioas, P, 2 * P - 1) == P
    assert user.items == []
    assert [area.accesses for area in ioas.iopt.areas] == [None]


async def test_an_access_that_does_not_let_go(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, P, 0)
    map_(ioas, origin, P, P, P)
    user.pin(P, P)
    user.stubborn = True
    assert await refusal(unmap_range(ioas, 0, U64_MAX)) == EDEADLK
    assert user.asked == [(P, P)] * (UNMAP_TRIES + 1)
    # What was unmapped before it stays so, what stands stays closed to accesses, and a later try
    # succeeds.
    assert [area.iova for area in ioas.iopt.areas] == [P]
    assert errno_of(lambda: user.pin(P, P)) == EINVAL
    user.unpin_all()
    assert errno_of(lambda: user.read(P, 1)) == EINVAL
    user.stubborn = False
    assert await unmap_range(ioas, 0, U64_MAX) == P
    world.check()


async def test_unmap_of_part_of_a_pinned_area_asks_nobody(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, 2 * P, 0)
    user.pin(0, P)
    before = world.snapshot()
    assert await refusal(unmap_range(ioas, 0, P - 1)) == ENOENT
    assert user.asked == []
    assert world.snapshot() == before


def test_unmap_that_ends_at_part_of_an_area_makes_nobody_wait(world: World) -> None:
    """What came before is unmapped, and counts; the refusal comes in the same turn."""
    ioas, origin = world.ioas(), world.origin()
    map_(ioas, origin, 0, P, 0)
    map_(ioas, origin, 0, 2 * P, P)
    assert errno_of(lambda: at_rest(unmap_range(ioas, 0, 2 * P - 1))) == ENOENT
    assert [area.iova for area in ioas.iopt.areas] == [P]


async def test_a_copied_area_is_no_reason_to_let_go(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    user = world.user(ioas)
    map_(ioas, origin, 0, P, 0)
    copy(ioas, 0, P, other, 0)
    user.pin(0, P)
    assert await unmap_range(other, 0, U64_MAX) == P
    assert user.asked == []
    assert world.host.pins(origin.identity(0)) == 1


async def test_what_is_mapped_anew_can_be_pinned(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)

    def remap(into: Ioas) -> None:
        map_(into, origin, P, P, 0)

    map_(ioas, origin, 0, P, 0, prot=PROT_READ | PROT_WRITE)
    user.pin(0, P)
    await unmap_range(ioas, 0, U64_MAX)
    remap(ioas)
    assert user.pin(0, P) == [origin.identity(1)]


async def test_many_pinned_areas_are_no_stubborn_one(world: World) -> None:
    """Each area counts by itself how often its accesses were asked."""
    ioas, origin = world.ioas(), world.origin()
    user = world.user(ioas)
    areas = UNMAP_TRIES + 20
    for at in range(areas):
        map_(ioas, origin, 0, P, at * P)
        user.pin(at * P, P)
    assert await unmap_range(ioas, 0, U64_MAX) == areas * P
    assert len(user.asked) == areas
    world.check()
