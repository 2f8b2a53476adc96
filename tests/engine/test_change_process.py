"""What is pinned of files, charged to another process: all of it or nothing."""

from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOMEM

import pytest

from iommud.engine.device.change_process import change_process
from iommud.engine.mapping.io_pagetable import PROT_READ
from iommud.engine.memory.dma_buf import MemoryBuf, dma_buf_slice
from iommud.engine.memory.origin import AccountMode, Origin

from .fakes import FakeOrigin, P, attach, copy, errno_of, map_, place, slice_of, unmap
from .world import World

USER, MM, NONE = AccountMode.USER, AccountMode.MM, AccountMode.NONE


def taken_over(world: World, limit: int | None, *, uid: int = 1000) -> Callable[[Origin], Origin]:
    """Each file as the process `new` has it."""
    known: dict[Origin, FakeOrigin] = {}

    def of_caller(origin: Origin) -> FakeOrigin:
        assert isinstance(origin, FakeOrigin)
        if origin not in known:
            known[origin] = world.origin(uid=uid, mm="new", is_file=True)
            known[origin].memory = origin.memory
            known[origin].limit = limit
        return known[origin]

    return of_caller


def test_each_page_is_charged_anew_once(world: World) -> None:
    ioas, other = world.ioas(), world.ioas()
    attach(world.device(), ioas)
    file, second = world.origin(mm="old", is_file=True), world.origin(mm="old", is_file=True)
    map_(ioas, file, 0, 2 * P, 0, account_mode=MM)
    map_(ioas, second, 0, 3 * P, 2 * P, account_mode=MM)
    map_(ioas, file, 4 * P, P, 5 * P, account_mode=NONE)
    map_(ioas, file, 8 * P, 4 * P, 6 * P, account_mode=USER)
    copy(ioas, 0, 5 * P, other, 0)
    map_(other, file, 64 * P, 64 * P, 64 * P, account_mode=MM)  # not pinned
    change_process(world.context, taken_over(world, 9 * P))
    assert dict(world.host.process_pages) == {"new": 5}
    assert dict(world.host.user_pages) == {1000: 4}
    world.check()
    assert file.refs == second.refs == 0
    unmap(ioas, 0, 10 * P)
    assert world.host.process_pages.total() == world.host.user_pages.total() == 0


@pytest.mark.parametrize("mode", [USER, MM])
def test_too_much_leaves_all_as_it_was(world: World, mode: AccountMode) -> None:
    ioas = world.ioas()
    attach(world.device(), ioas)
    file = world.origin(mm="old", is_file=True)
    map_(ioas, file, 0, 2 * P, 0, account_mode=USER)
    map_(ioas, file, 4 * P, 4 * P, 4 * P, account_mode=mode)
    before = world.snapshot()
    # For a moment the user has both; a process is charged after the user was.
    limit = 3 * P if mode == MM else 11 * P
    assert errno_of(lambda: change_process(world.context, taken_over(world, limit))) == ENOMEM
    del world.origins[1:]
    assert world.snapshot() == before


def test_who_pays_already_pays_nothing(world: World) -> None:
    ioas = world.ioas()
    attach(world.device(), ioas)
    file = world.origin(mm="new", is_file=True)
    file.limit = 2 * P
    map_(ioas, file, 0, 2 * P, 0, account_mode=USER)
    file.limit = 0
    change_process(world.context, taken_over(world, 0))
    assert dict(world.host.user_pages) == {1000: 2}


def test_what_cannot_change_hands(world: World) -> None:
    ioas = world.ioas()
    file = world.origin(mm="old", is_file=True)
    map_(ioas, file, 0, P, 0)
    of_caller = taken_over(world, None)
    part = slice_of(file, P, P)
    areas = ioas.iopt.insert([part], P, P, PROT_READ)
    assert errno_of(lambda: change_process(world.context, of_caller)) == EBUSY
    ioas.iopt.abort(areas)
    part.pages.put()
    map_(ioas, world.origin(mm="old"), 0, P, 2 * P)
    assert errno_of(lambda: change_process(world.context, of_caller)) == EINVAL
    unmap(ioas, 2 * P, P)
    place(ioas, [dma_buf_slice(MemoryBuf(P), 0, P, writable=True)], 2 * P)
    assert errno_of(lambda: change_process(world.context, of_caller)) == EINVAL
    unmap(ioas, 2 * P, P)
    change_process(world.context, of_caller)


def test_pinned_later_means_pinned_of_the_new_one(world: World) -> None:
    ioas = world.ioas()
    file = world.origin(mm="old", is_file=True)
    map_(ioas, file, 0, 2 * P, 0, account_mode=MM)
    file.limit = 0
    change_process(world.context, taken_over(world, 2 * P))
    attach(world.device(), ioas)
    assert dict(world.host.process_pages) == {"new": 2}
