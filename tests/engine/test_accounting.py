"""Pinned pages against RLIMIT_MEMLOCK: who is charged, for what, once, and never for ever."""

from errno import EFAULT, ENOMEM

import pytest

from iommud.engine.device.context import Context
from iommud.engine.memory.origin import AccountMode

from .fakes import FakeOrigin, P, attach, copy, errno_of, map_, replace, unmap
from .world import World

USER, MM, NONE = AccountMode.USER, AccountMode.MM, AccountMode.NONE


def charged(world: World) -> tuple[dict[int, int], dict[object, int]]:
    return dict(world.host.user_pages), dict(world.host.process_pages)


def two_processes(world: World, limit: int | None = None) -> tuple[FakeOrigin, FakeOrigin]:
    """Of one user."""
    first, second = world.origin(mm="first"), world.origin(mm="second")
    first.limit = second.limit = limit
    return first, second


# --- whom ---


def test_the_mode_of_a_mapping() -> None:
    context = Context()
    assert context.account_mode_for(exempt=False) == USER
    assert context.account_mode_for(exempt=True) == NONE
    context.set_rlimit_mode(1)
    assert context.account_mode_for(exempt=False) == MM
    assert context.account_mode_for(exempt=True) == NONE
    context.set_rlimit_mode(0)
    assert context.account_mode_for(exempt=False) == USER


def test_by_user_all_processes_of_the_user_together(world: World) -> None:
    ioas = world.ioas()
    first, second = two_processes(world, 3 * P)
    stranger = world.origin(uid=1, mm="third")
    stranger.limit = 3 * P
    attach(world.device(), ioas)
    map_(ioas, first, 0, 2 * P, 0, account_mode=USER)
    map_(ioas, second, 0, P, 2 * P, account_mode=USER)
    map_(ioas, stranger, 0, 3 * P, 3 * P, account_mode=USER)
    assert charged(world) == ({1000: 3, 1: 3}, {})
    assert errno_of(lambda: map_(ioas, second, P, P, 6 * P, account_mode=USER)) == ENOMEM
    first.limit = 0  # the limit that counts is that of the process that maps
    second.limit = 4 * P
    map_(ioas, second, P, P, 6 * P, account_mode=USER)
    assert charged(world)[0] == {1000: 4, 1: 3}


def test_by_process_what_it_locked_itself_included(world: World) -> None:
    ioas = world.ioas()
    first, second = two_processes(world, 3 * P)
    attach(world.device(), ioas)
    map_(ioas, first, 0, 3 * P, 0, account_mode=MM)
    map_(ioas, second, 0, P, 3 * P, account_mode=MM)
    assert charged(world) == ({}, {"first": 3, "second": 1})
    second.locked = 2
    before = world.snapshot()
    assert errno_of(lambda: map_(ioas, second, P, P, 4 * P, account_mode=MM)) == ENOMEM
    assert world.snapshot() == before
    second.locked = 1
    map_(ioas, second, P, P, 4 * P, account_mode=MM)
    # By user, what the process locked does not count.
    second.locked = 100
    map_(ioas, second, 2 * P, 3 * P, 5 * P, account_mode=USER)
    assert charged(world) == ({1000: 3}, {"first": 3, "second": 2})


def test_the_exempt_are_not_counted(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    origin.limit = 0
    attach(world.device(), ioas)
    map_(ioas, origin, 0, 8 * P, 0, account_mode=NONE)
    assert charged(world) == ({}, {})
    assert sum(1 for _ in world.host.all_pinned()) == 1
    assert errno_of(lambda: map_(ioas, origin, 0, P, 8 * P, account_mode=USER)) == ENOMEM


def test_a_limit_is_in_whole_pages(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    attach(world.device(page_sizes=1), ioas)
    origin.limit = 2 * P - 1
    # two bytes, two pages
    assert errno_of(lambda: map_(ioas, origin, P - 1, 2, 0, account_mode=USER)) == ENOMEM
    map_(ioas, origin, P - 2, 2, 0, account_mode=USER)
    assert charged(world)[0] == {1000: 1}
    origin.limit = None
    map_(ioas, origin, 0, 1 << 20, P, account_mode=USER)


# --- for what ---


def test_what_is_only_remembered_costs_nothing(world: World) -> None:
    ioas, origin = world.ioas(), world.origin()
    origin.limit = 0
    map_(ioas, origin, 0, 8 * P, 0, account_mode=USER)
    assert charged(world) == ({}, {})
    user = world.user(ioas)
    assert user.read(0, 8 * P) == bytes(8 * P)  # nor does a copy
    assert errno_of(lambda: user.pin(0, P)) == ENOMEM
    assert errno_of(lambda: attach(world.device(), ioas)) == ENOMEM
    assert origin.pins == []


@pytest.mark.parametrize("mode", [USER, MM])
def test_a_page_is_charged_once_by_each_pages(world: World, mode: AccountMode) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    user = world.user(ioas)

    def now() -> int:
        by_user, by_process = charged(world)
        assert not (by_process if mode == USER else by_user)
        return by_user.get(1000, 0) if mode == USER else by_process.get("mm", 0)

    map_(ioas, origin, 0, 4 * P, 0, account_mode=mode)
    copy(ioas, 0, 4 * P, ioas, 8 * P)
    copy(ioas, P, 3 * P, other, 0)
    steps: list[tuple[int, int]] = []
    user.pin(0, P)
    steps.append((now(), 1))
    user.pin(0, 2 * P)
    user.pin(9 * P, 2 * P)
    steps.append((now(), 3))
    devices = [world.device() for _ in range(3)]
    attach(devices[0], other)
    steps.append((now(), 4))
    attach(devices[1], ioas)
    attach(devices[2], ioas)
    steps.append((now(), 4))
    map_(ioas, origin, 0, P, 16 * P, account_mode=mode)  # the same memory, mapped again
    steps.append((now(), 5))
    devices[0].detach()
    unmap(ioas, 16 * P, P)
    steps.append((now(), 4))
    devices[1].detach()
    devices[2].detach()
    steps.append((now(), 3))
    user.unpin(0, 2 * P)
    steps.append((now(), 3))
    user.unpin(9 * P, 2 * P)
    user.unpin(0, P)
    steps.append((now(), 0))
    assert [found for found, _ in steps] == [wanted for _, wanted in steps]
    assert list(world.host.all_pinned()) == []


def test_a_change_of_page_table_costs_both_for_a_moment(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    origin.limit = 5 * P
    map_(ioas, origin, 0, 3 * P, 0, account_mode=USER)
    map_(other, origin, 0, 3 * P, 0, account_mode=USER)
    device = world.device()
    attach(device, ioas)
    before = world.snapshot()
    assert errno_of(lambda: replace(device, other)) == ENOMEM
    assert world.snapshot() == before
    origin.limit = 6 * P
    replace(device, other)
    assert charged(world)[0] == {1000: 3}


# --- and not ---


def test_what_cannot_be_paid_leaves_nothing(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    origin, poor = world.origin(), world.origin(uid=1, mm="poor")
    poor.limit = P
    user, device = world.user(ioas), world.device()
    map_(ioas, origin, 0, 4 * P, 0, account_mode=USER)
    map_(ioas, poor, 0, 2 * P, 4 * P, account_mode=USER)
    before = world.snapshot()
    assert errno_of(lambda: attach(device, ioas)) == ENOMEM
    assert errno_of(lambda: user.pin(0, 6 * P)) == ENOMEM
    assert world.snapshot() == before
    attach(device, other)
    before = world.snapshot()
    assert errno_of(lambda: copy(ioas, 0, 6 * P, other, 0)) == ENOMEM
    assert errno_of(lambda: replace(device, ioas)) == ENOMEM
    assert errno_of(lambda: map_(other, poor, 0, 2 * P, 0, account_mode=USER)) == ENOMEM
    assert world.snapshot() == before
    user.pin(0, 5 * P)
    assert charged(world)[0] == {1000: 4, 1: 1}
    before = world.snapshot()
    # The page that is held is not charged again; the one more is too much.
    assert errno_of(lambda: user.pin(4 * P, 2 * P)) == ENOMEM
    assert world.snapshot() == before


def test_what_cannot_be_pinned_is_not_charged(world: World) -> None:
    ioas, origin, device = world.ioas(), world.origin(), world.device()
    origin.absent = {5}
    attach(device, ioas)
    before = world.snapshot()
    assert errno_of(lambda: map_(ioas, origin, 0, 8 * P, 0, account_mode=USER)) == EFAULT
    assert world.snapshot() == before
    assert list(world.host.all_pinned()) == []


def test_every_way_out_gives_back(world: World) -> None:
    ioas, other, origin = world.ioas(), world.ioas(), world.origin()
    device, user = world.device(), world.user(ioas)

    def fill() -> None:
        map_(ioas, origin, 0, 4 * P, 0, account_mode=USER)

    attach(device, ioas)
    fill()
    unmap(ioas, 0, 4 * P)
    assert not world.host.user_pages, "unmap"
    fill()
    device.detach()
    assert not world.host.user_pages, "detach"
    user.pin(0, P)
    user.unpin(0, P)
    assert not world.host.user_pages, "unpin"
    attach(device, ioas)
    replace(device, other)
    assert not world.host.user_pages, "replace"
    replace(device, ioas)
    user.pin(0, 4 * P)
    world.unbind(device)
    assert charged(world)[0] == {1000: 4}
    world.release(user)
    assert not world.host.user_pages, "the end of the access"
    unmap(ioas, 0, 4 * P)
    assert origin.refs == 0
