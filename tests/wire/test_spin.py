"""When a session looks for the next request instead of waiting for it."""

import os
from collections.abc import Iterator

import pytest

from cuse_glue.fuse import spin as s
from cuse_glue.fuse.spin import Spin


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    ends = os.pipe()
    yield ends
    for fd in ends:
        os.close(fd)


def is_on(spin: Spin) -> bool:
    return spin.on


def see(spin: Spin, requests: int, seconds: float) -> None:
    """So many requests, each of which is waited for so long."""
    for _ in range(requests):
        spin.waited(seconds)
        spin.handled(1)


def test_it_looks_if_nearly_all_come_soon(pipe: tuple[int, int]) -> None:
    spin = Spin(pipe[0])
    see(spin, s.SEEN - 1, s.SOON)
    assert not is_on(spin)
    see(spin, 1, s.SOON)
    assert is_on(spin)
    see(spin, s.LOOKED_FOR, 1.0)
    assert not is_on(spin), "and then it is seen anew"


@pytest.mark.parametrize("late", [0, s.SEEN // 8])
def test_it_waits_if_they_come_late_or_are_there_at_once(pipe: tuple[int, int], late: int) -> None:
    spin = Spin(pipe[0])
    see(spin, s.SEEN - late, 2 * s.SOON if not late else s.SOON)
    spin.handled(late)
    assert not is_on(spin)


def test_it_is_tried_less_often_where_it_does_not_pay(pipe: tuple[int, int]) -> None:
    spin = Spin(pipe[0])
    see(spin, s.SEEN, 0.0)
    for _ in range(4):
        assert not spin.look(), "nothing comes"
    spin.handled(s.LOOKED_FOR)
    see(spin, s.SEEN, 0.0)
    assert not is_on(spin)
    see(spin, s.SEEN, 0.0)
    assert is_on(spin)
    os.write(pipe[1], b"request")
    for _ in range(4):
        assert spin.look()
    spin.handled(s.LOOKED_FOR)
    see(spin, s.SEEN, 0.0)
    assert is_on(spin), "it did pay"
