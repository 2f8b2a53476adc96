"""Locks: free at once, first come first served, and nothing kept when a waiter gives up."""

from collections.abc import Generator

import pytest
import trio
import trio.testing

from cuse_glue.request import inline
from iommud.engine.mapping.ioas import Ioas
from iommud.engine.memory.host import Host
from iommud.ops.locking import idle, in_steps, locked


def objects(count: int) -> list[Ioas]:
    made = [Ioas(Host()) for _ in range(count)]
    for number, ioas in enumerate(made, 1):
        ioas.id = number
    return made


async def test_first_come_first_served_and_not_to_be_destroyed() -> None:
    (ioas,) = objects(1)
    order: list[int] = []

    async def wait_for_it(number: int) -> None:
        async with locked(ioas):
            order.append(number)
            assert len(ioas.shortterm_users) == 4 - number

    async with trio.open_nursery() as nursery:
        async with locked(ioas):
            for number in range(1, 4):
                nursery.start_soon(wait_for_it, number)
                await trio.testing.wait_all_tasks_blocked()
            assert len(ioas.shortterm_users) == 4
            assert order == []
        await trio.testing.wait_all_tasks_blocked()
    assert order == [1, 2, 3]
    assert ioas.shortterm_users == []
    assert idle()


async def test_a_lock_that_is_released_while_a_handler_becomes_a_task() -> None:
    (ioas,) = objects(1)
    got = False

    async def take() -> None:
        nonlocal got
        async with locked(ioas):
            got = True

    handler = take()
    async with locked(ioas):
        finished, _ = inline.start(handler)
        assert not finished
    await inline.finish(handler)
    assert got
    assert idle()


async def test_two_objects_are_taken_in_the_order_of_their_ids() -> None:
    first, second = objects(2)
    done = 0

    async def both(one: Ioas, other: Ioas) -> None:
        nonlocal done
        for _ in range(20):
            async with locked(one, other):
                await trio.lowlevel.checkpoint()
        done += 1

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(both, first, second)
            nursery.start_soon(both, second, first)
    assert done == 2
    assert idle()


async def test_a_waiter_that_gives_up_leaves_nothing() -> None:
    first, second = objects(2)
    async with locked(second):
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async with locked(first, second):
                    raise AssertionError("it was never free")

            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            assert first.shortterm_users
            nursery.cancel_scope.cancel()
        assert not first.shortterm_users
        async with locked(first):
            pass
    assert idle()


async def test_a_lock_handed_to_one_that_is_cancelled_goes_on() -> None:
    (ioas,) = objects(1)
    got = False

    async def wait(scope: trio.CancelScope) -> None:
        with scope:
            async with locked(ioas):
                raise AssertionError("cancelled before")

    async def after() -> None:
        nonlocal got
        async with locked(ioas):
            got = True

    async with trio.open_nursery() as nursery:
        scope = trio.CancelScope()
        async with locked(ioas):
            nursery.start_soon(wait, scope)
            await trio.testing.wait_all_tasks_blocked()
            nursery.start_soon(after)
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert got
    assert idle()


async def test_steps_that_are_cancelled_undo_themselves() -> None:
    undone = False

    def steps() -> Generator[None, None, None]:
        nonlocal undone
        try:
            while True:
                yield
        except BaseException:
            undone = True
            raise

    with trio.CancelScope() as scope:
        scope.cancel()
        await in_steps(steps())
    assert undone
    assert scope.cancelled_caught

    def ends() -> Generator[None, None, int]:
        yield
        return 7

    assert await in_steps(ends()) == 7

    def fails() -> Generator[None, None, None]:
        yield
        raise ValueError("as it should")

    with pytest.raises(ValueError, match="as it should"):
        await in_steps(fails())
