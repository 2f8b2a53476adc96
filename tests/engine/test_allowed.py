"""Lists of allowed ranges: what is taken, in which order, and where a mapping may go."""

import random
import time
from array import array
from errno import EFAULT, EINVAL

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iommud.engine.mapping import allowed
from iommud.engine.mapping.allowed import Allowed, Given, allowed_of
from iommud.engine.memory.span import U64_MAX
from iommud.errors import IoctlError

ranges = st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=12)


def taken(pairs: list[tuple[int, int]], at_once: int = 3, unreadable: str = "") -> Allowed | int:
    """The list, or the errno."""
    given = Given()
    try:
        for at in range(0, len(pairs), at_once):
            given.add(array("Q", [number for pair in pairs[at : at + at_once] for number in pair]).tobytes())
        given.unreadable = unreadable
        steps = given.ordered()
        while True:
            try:
                next(steps)
            except StopIteration as stop:
                found: Allowed = stop.value
                return found
    except IoctlError as error:
        return error.errno


@given(ranges)
def test_as_a_plain_list_would(pairs: list[tuple[int, int]]) -> None:
    wrong = any(start >= last for start, last in pairs) or any(
        a[0] <= b[1] and b[0] <= a[1] for at, a in enumerate(pairs) for b in pairs[:at]
    )
    found, torn = taken(pairs), taken(pairs, unreadable="it ends")
    if wrong:
        assert found == torn == EINVAL
        return
    assert isinstance(found, Allowed)
    assert torn == EFAULT
    assert [(span.start, span.last) for span in found] == sorted(pairs)
    assert len(found) == len(pairs)
    for number in range(45):
        span = found.first(number, number + 3)
        assert (span and (span.start, span.last)) == min(
            (p for p in pairs if p[0] <= number + 3 and number <= p[1]), default=None
        )


@given(ranges, st.integers(1, 30), st.integers(1, 4))
def test_windows(pairs: list[tuple[int, int]], length: int, block: int) -> None:
    """Maximal stretches of allowed numbers, if they are long enough."""
    numbers: set[int] = set()
    disjoint = []
    for start, last in pairs:
        if start < last and numbers.isdisjoint(range(start, last + 1)):
            numbers.update(range(start, last + 1))
            disjoint.append((start, last))
    wanted = []
    for start in sorted(numbers):
        if start - 1 not in numbers:
            last = next(number for number in range(start, 50) if number + 1 not in numbers)
            if last - start + 1 >= length:
                wanted.append((start, last))
    before, allowed.BLOCK = allowed.BLOCK, block  # type: ignore[misc]
    try:
        assert list(allowed_of(disjoint).windows(length)) == wanted
    finally:
        allowed.BLOCK = before  # type: ignore[misc]


def test_the_ends() -> None:
    found = taken([(U64_MAX - 1, U64_MAX), (0, 1)])
    assert isinstance(found, Allowed)
    assert list(found.windows(2)) == [(0, 1), (U64_MAX - 1, U64_MAX)]
    assert taken([(0, U64_MAX)]) != EINVAL
    assert taken([(U64_MAX, U64_MAX)]) == EINVAL


@pytest.mark.parametrize("order", ["upwards", "downwards", "anyhow"])
def test_very_many_are_put_in_order_in_short_steps(order: str) -> None:
    count = 200_000
    pairs = [(at * 8192, at * 8192 + 4095) for at in range(count)]
    if order == "downwards":
        pairs.reverse()
    elif order == "anyhow":
        random.Random(1).shuffle(pairs)
    given = Given()
    for at in range(0, count, 4096):
        given.add(array("Q", [number for pair in pairs[at : at + 4096] for number in pair]).tobytes())
    longest, begin = 0.0, time.thread_time()
    for _ in given.ordered():
        longest, begin = max(longest, time.thread_time() - begin), time.thread_time()
    assert longest < 0.05
    found = taken(pairs, 4096)
    assert isinstance(found, Allowed)
    assert len(found) == count
    assert list(found.windows(4097)) == []
    assert len(list(found.windows(4096))) == count
