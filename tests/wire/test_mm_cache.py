"""What is kept of clients: given back when they have ended, and when we run out of descriptors."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio

from cuse_glue.request import caller as callers
from cuse_glue.request import mm_cache
from cuse_glue.request.address_space import Mm
from cuse_glue.request.mm_cache import MmCache
from cuse_glue.system import means
from cuse_glue.system.means import give_back, with_means
from tests.support import PATIENCE

from .conftest import Client, descriptors


def test_those_who_have_ended_are_forgotten(client: Client, another: Client) -> None:
    cache = MmCache()
    callers.forget_threads()
    before = descriptors()
    cache.of(client.caller())
    client.caller().resident(0x10000, 4096)
    of_one = descriptors()
    cache.of(another.caller())
    another.caller().resident(0x10000, 4096)
    cache.sweep()
    assert len(descriptors()) == len(before) + 2 * (len(of_one) - len(before)), "both are there"
    another.end()
    cache.sweep()
    assert descriptors() == of_one
    cache.close()
    callers.forget_threads()
    assert descriptors() == before


def test_whose_memory_is_held_is_known_longer(client: Client) -> None:
    before = descriptors()
    cache = MmCache()
    mm = cache.of(client.caller())
    mm.get()
    client.end()
    cache.sweep()
    assert not mm.alive()
    mm.put()
    assert descriptors() == before


async def test_without_being_asked(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mm_cache, "SWEEP", 0.01)
    before = descriptors()
    cache = MmCache()
    swept = trio.Event()
    sweep = cache.sweep

    def spy() -> None:
        sweep()
        if descriptors() == before:
            swept.set()

    monkeypatch.setattr(MmCache, "sweep", lambda _: spy())
    cache.of(client.caller())
    cache.of(client.caller())
    client.end()
    with trio.fail_after(PATIENCE):
        await swept.wait()
    cache.close()


@contextmanager
def few_descriptors() -> Iterator[None]:
    """Not one more can be opened."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_what_is_only_kept_goes_first(client: Client, another: Client) -> None:
    cache = MmCache()
    first: Mm = cache.of(client.caller())
    first.get()
    with few_descriptors():
        with pytest.raises(OSError) as caught:
            cache.of(another.caller())
        assert caught.value.errno == errno.EMFILE
    cache.of(another.caller())
    with few_descriptors():
        assert with_means(lambda: os.open("/dev/null", os.O_RDONLY)) >= 0
        assert cache.of(client.caller()) is first, "it was held, and needs nothing new but its thread"
    first.put()
    cache.close()


def test_nothing_is_given_back_from_other_threads() -> None:
    """It is the loop's."""
    given: list[int] = []

    def keep() -> None:
        given.append(1)

    means.spare(keep)
    try:

        def fail() -> None:
            raise OSError(errno.EMFILE, "none left")

        async def main() -> None:
            with pytest.raises(OSError):
                await trio.to_thread.run_sync(with_means, fail)

        trio.run(main)
        assert given == []
        with pytest.raises(OSError):
            with_means(fail)
        assert given == [1]
    finally:
        means._givers.pop()
    give_back()
    assert given == [1]
